"""Fetch a folder of weights from the Hugging Face hub.

To upload a folder, use the command of the hub. The states to resume from are not needed there:
hf upload owner/name FOLDER . --exclude "*.pt"
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.weights import hub
from lgmnet.weights.saved import find_weights

EXAMPLES = """examples:
  python scripts/hub.py pull you/lgm-net-tiny --output checkpoints/yours
  python test.py hf:you/lgm-net-tiny --data Set11                  # without a copy of your own
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pull = commands.add_parser("pull", help="download a folder")
    pull.add_argument("repository", help="owner/name, or owner/name@revision")
    pull.add_argument("--output", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    try:
        shutil.copytree(hub.pull(arguments.repository), arguments.output)
        print(f"{find_weights(arguments.output).name} written to {arguments.output}")
    except (ValueError, OSError) as error:
        print(f"hub.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
