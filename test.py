"""Score weights on test sets: ``lgmnet test`` in a clone."""

import sys
from functools import partial

from lgmnet.commands import call, run_file

main = partial(call, "test")

if __name__ == "__main__":
    sys.exit(run_file("test"))
