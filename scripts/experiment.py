"""Train and score the runs of an experiment: ``lgmnet experiment`` in a clone."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.commands import call, run_file

main = partial(call, "experiment")

if __name__ == "__main__":
    sys.exit(run_file("experiment"))
