"""Train one unfolding network: ``lgmnet train`` in a clone."""

import sys
from functools import partial

from lgmnet.commands import call, run_file

main = partial(call, "train")

if __name__ == "__main__":
    sys.exit(run_file("train"))
