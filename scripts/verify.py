"""Check that this machine reproduces known numbers: ``lgmnet verify`` in a clone."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.commands import call, run_file

main = partial(call, "verify")

if __name__ == "__main__":
    sys.exit(run_file("verify"))
