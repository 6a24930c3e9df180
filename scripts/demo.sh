#!/usr/bin/env bash
# Sets everything up on a fresh machine, rebuilds real images with shipped weights, prints the table.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
python test.py "$@" --save-images --output results/demo
echo "reconstructions: results/demo/builtin/"
