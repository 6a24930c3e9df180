#!/usr/bin/env bash
# Installs everything on a fresh machine, then runs lint, format, types and tests.
set -euo pipefail
extras='[dev]'
source "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
mypy
python -m pytest --numprocesses auto --dist loadscope "$@"
