"""Push a folder of weights to the Hugging Face hub, or fetch one from there.

Pushed are weights, configs, logs, scores and the model card, but no states to resume from.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.weights import hub
from lgmnet.weights.saved import find_weights

EXAMPLES = """examples:
  python scripts/hub.py push checkpoints/lgm_net_tiny_r0.10 you/lgm-net-tiny
  python scripts/hub.py pull you/lgm-net-tiny --output checkpoints/yours
  python test.py hf:you/lgm-net-tiny --data Set11                  # without a copy of your own
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    push = commands.add_parser("push", help="upload a folder")
    push.add_argument("folder", type=Path, help="a run folder or a checkpoint")
    push.add_argument("repository", help="owner/name")
    push.add_argument("--private", action="store_true", help="if it is made now")
    pull = commands.add_parser("pull", help="download a folder")
    pull.add_argument("repository", help="owner/name, or owner/name@revision")
    pull.add_argument("--output", type=Path, required=True, help="a folder that is not there yet")
    arguments = parser.parse_args()
    try:
        if arguments.command == "push":
            print(hub.push(arguments.folder, arguments.repository, arguments.private))
        else:
            shutil.copytree(hub.pull(arguments.repository), arguments.output)
            print(f"{find_weights(arguments.output).name} written to {arguments.output}")
    except (ValueError, OSError) as error:
        print(f"hub.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
