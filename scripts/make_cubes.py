"""Make synthetic spectral cubes from photographs of scikit-image, to try CASSI without data.

They are no natural scenes: the spectra are drawn. See lgmnet/data/synthetic_cubes.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.data.synthetic_cubes import write_cubes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/make_cubes.py data/cubes_train --count 40\n"
        "  python scripts/make_cubes.py data/cubes_test --count 6 --part test",
    )
    parser.add_argument("folder", type=Path, help="where the .npz files are written")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"), help="in pixels"
    )
    parser.add_argument("--bands", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--part", choices=("train", "test"), default="train", help="of the photographs"
    )
    given = parser.parse_args()
    try:
        size = (given.size[0], given.size[1])
        paths = write_cubes(given.folder, given.count, size, given.bands, given.seed, given.part)
    except (ValueError, OSError) as error:
        print(f"make_cubes.py: {error}", file=sys.stderr)
        return 1
    print(f"wrote {len(paths)} synthetic cubes, {paths[0].name} to {paths[-1].name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
