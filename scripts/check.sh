#!/usr/bin/env bash
# Installs everything on a fresh machine, then runs lint, format, types and tests.
set -euo pipefail
extras='[dev,docs]'
source "$(dirname "$0")/setup.sh"
ruff check .
ruff format --check .
mypy
NO_MKDOCS_2_WARNING=1 mkdocs build --strict
python -m pytest --numprocesses auto --dist loadscope "$@"
