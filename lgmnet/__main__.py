"""``python -m lgmnet``, which is the program ``lgmnet``."""

import sys

from lgmnet.commands import main

if __name__ == "__main__":
    sys.exit(main())
