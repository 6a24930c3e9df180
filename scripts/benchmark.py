"""Size, arithmetic, time and memory of networks: ``lgmnet benchmark`` in a clone."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.commands import call, run_file

main = partial(call, "benchmark")

if __name__ == "__main__":
    sys.exit(run_file("benchmark"))
