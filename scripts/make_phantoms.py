"""Make seeded phantoms, random ellipses to train and test tomography with, as one .npz file."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.data.phantoms import phantoms
from lgmnet.files import write_arrays


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/make_phantoms.py --count 600 --side 64\n"
        "  python train.py configs/ct_fista_net.yaml",
    )
    parser.add_argument("--count", type=int, default=600, help="number of images")
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("data/ct/phantoms.npz"))
    arguments = parser.parse_args()
    try:
        images = phantoms(arguments.count, arguments.side, arguments.seed)
        # With an axis for channels; else a width of at most 64 would be taken for one.
        write_arrays(arguments.output, images=images[..., None])
    except (ValueError, OSError) as error:
        print(f"make_phantoms.py: {error}", file=sys.stderr)
        return 1
    print(f"{len(images)} phantoms are in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
