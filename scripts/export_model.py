"""Write a model as one file that runs without this package and maps y to the image.

.pt2 is for PyTorch (torch.export.load), .onnx for other programs. Any batch size, and any height
and width in whole blocks, are possible. The file gives the output of the model to 1e-5.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.data.images import printable
from lgmnet.operators.ratios import condition_of
from lgmnet.weights.export import export_model
from lgmnet.weights.saved import Weights, find_weights


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/export_model.py lgm_net_tiny_r0.10 "
        "--output results/lgm_net_tiny.onnx",
    )
    parser.add_argument("weights", help="name, folder or file")
    parser.add_argument("--ratio", type=float, help="of a network that serves a range of them")
    parser.add_argument("--at", help="condition, such as r0.05 or the name of a mask")
    parser.add_argument("--output", type=Path, required=True, help="a .pt2 or .onnx file")
    parser.add_argument(
        "--from-image",
        action="store_true",
        help="include the measurement, without noise: image to image",
    )
    arguments = parser.parse_args()
    try:
        weights = find_weights(arguments.weights)
        if not isinstance(weights, Weights):
            raise ValueError(f"{arguments.weights} contains no trained values; name weights")
        condition = condition_of(arguments.ratio, arguments.at)
        export_model(weights.load(condition), arguments.output, arguments.from_image)
    except (ValueError, OSError) as error:
        print(f"export_model.py: {error}", file=sys.stderr)
        return 1
    given = "image" if arguments.from_image else "measurement"
    size = arguments.output.stat().st_size / 1e6
    print(f"{given} -> image: {printable(arguments.output)}, {size:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
