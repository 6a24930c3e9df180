"""python -m tests.fake_cuda LIBRARY [CHECK ...]: the checks, or some of them."""

import sys
from pathlib import Path

from tests.fake_cuda import library

if __name__ == "__main__":
    library.load(Path(sys.argv[1]))

    from tests.fake_cuda import checks  # imports torch, which must find the library

    checks.main(sys.argv[2:])
