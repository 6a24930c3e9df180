"""Rebuild an image from a measurement file, with the weights it was measured with."""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.data import color
from lgmnet.data.images import printable, write_array, write_image
from lgmnet.data.values import to_uint8
from lgmnet.speed.inference import prepare
from lgmnet.speed.memory import OUT_OF_MEMORY, out_of_memory
from lgmnet.speed.precision import convolutions
from lgmnet.weights.measurement import load_measurement, reconstruct_image
from lgmnet.weights.saved import find_weights


def save(path: Path, image: np.ndarray) -> None:
    """Write an image file of 8 bits, or the numbers themselves as .npy (channels as RGB).

    Raises:
        ValueError: an image file has no place for so many channels.
    """
    if path.suffix == ".npy":
        write_array(path, color.channels(image, "bands")[0])
        return
    count = 1 if image.ndim == 2 else image.shape[2]
    if count > 3:
        raise ValueError(f"{path} has no place for {count} channels; use a name such as out.npy")
    write_image(path, to_uint8(color.grey_picture(image) if count == 2 else image))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/reconstruct.py y.safetensors --output out.png",
    )
    parser.add_argument("measurement", type=Path, help="a file that scripts/measure.py wrote")
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help="out.png, or out.npy")
    parser.add_argument("--fast", action="store_true", help="the rewritten network, same numbers")
    parser.add_argument("--precision", default="fp32", help="fp32, tf32 (GPU), or with --fast bf16")
    parser.add_argument("--max-memory", help="work in strips that fit, such as 2GiB; same numbers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    try:
        measurement = load_measurement(arguments.measurement)
        weights = find_weights(arguments.weights)
        condition = measurement.condition or weights.config.sampling.measured_at(measurement.values)
        with runtime.start(arguments.device) as here, convolutions(arguments.precision):
            runtime.announce(here, sys.stderr)
            model = prepare(
                weights.load(condition).to(here.device),
                arguments.fast,
                arguments.precision,
                arguments.max_memory,
            )
            image = reconstruct_image(model, measurement)
        save(arguments.output, image)
    except (ValueError, OSError) as error:
        print(f"reconstruct.py: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        print(f"reconstruct.py: {OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    height, width = image.shape[:2]
    print(f"{width} pixels wide and {height} high: written to {printable(arguments.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
