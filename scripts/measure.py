"""Measure an image with the Φ of some weights: what a compressive camera would send."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.data.images import printable, read_pixels
from lgmnet.operators.ratios import condition_of
from lgmnet.weights.measurement import measure_image, measured_numbers, save_measurement
from lgmnet.weights.saved import load


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/measure.py photo.png --output y.safetensors",
    )
    parser.add_argument(
        "image",
        type=Path,
        help="image or array file; its luma, or all its channels",
    )
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--ratio", type=float, help="of a network that serves a range of them")
    parser.add_argument("--at", help="condition, such as r0.05 or the name of a mask")
    parser.add_argument("--output", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--noise-std", type=float, default=0.0, help="in the unit of y")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    if arguments.output.suffix != ".safetensors":
        parser.error(f"--output {arguments.output}: a measurement is a .safetensors file")
    try:
        with runtime.start(arguments.device) as here:
            runtime.announce(here, sys.stderr)
            condition = condition_of(arguments.ratio, arguments.at)
            model = load(arguments.weights, condition=condition).to(here.device)
            model.noise_std = arguments.noise_std
            pixels = read_pixels(arguments.image)
            measurement = measure_image(model, pixels, arguments.image.stem, condition)
        save_measurement(arguments.output, measurement)
    except (ValueError, OSError) as error:
        print(f"measure.py: {error}", file=sys.stderr)
        return 1
    count, area = measured_numbers(model, measurement), measurement.height * measurement.width
    output = printable(arguments.output)
    print(f"{area:,} pixels -> {count:,} numbers ({count / area:.1%}): {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
