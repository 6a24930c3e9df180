"""Write backbone and adapters of a LoRun into one weights file that every command can use."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.weights.adapters import Adapted
from lgmnet.weights.saved import find_weights


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/apply_adapters.py runs/lorun_unet_r0.10/backbone "
        "runs/lorun_r0.25/adapters.safetensors --merge per_stage --output checkpoints/lorun_r0.25",
    )
    parser.add_argument("backbone", help="name, folder or file of weights with the backbone")
    parser.add_argument("adapters", type=Path, help="an adapters.safetensors")
    parser.add_argument(
        "--merge",
        default="on_the_fly",
        help="on_the_fly keeps backbone and adapters separate; per_stage writes one denoiser per "
        "stage: larger and faster",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    path = arguments.output / "model.safetensors"
    try:
        adapted = Adapted(find_weights(arguments.backbone), arguments.adapters, arguments.merge)
        adapted.save(path)
    except (ValueError, OSError) as error:
        print(f"apply_adapters.py: {error}", file=sys.stderr)
        return 1
    print(f"{path}, {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
