"""Draw spectral cubes, their measurements and reconstructions in colours: docs/cassi.png.

Red, green and blue are the means of the last, the middle and the first third of the bands.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import runtime
from lgmnet.data.datasets import find_images
from lgmnet.data.images import read_pixels
from lgmnet.data.transforms import channels_first
from lgmnet.data.values import to_unit
from lgmnet.files import write_figure
from lgmnet.models import SensingModel
from lgmnet.operators import CodedAperture
from lgmnet.weights.saved import find_weights
from lgmnet.weights.snapshot import model_of_camera, read_snapshot

TITLES = ("cube", "measurement", "start", "reconstruction", "error, white = 0.2")
LARGEST_ERROR = 0.2
# The brightest pixels of a picture without known white are shown as white.
BRIGHTEST = 99.5


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/make_cube_figure.py --cubes cubes128 "
        "--overrides sampling.size=[128,128]",
    )
    parser.add_argument("--cubes", nargs="*", default=[], help="files or sets")
    parser.add_argument("--weights", default="configs/cassi_gap_tv.yaml", help="weights or config")
    parser.add_argument("--overrides", nargs="*", default=[], help="KEY=VALUE, of a config")
    parser.add_argument("--measurements", nargs="*", default=[], help="of a camera: .mat, .npy")
    parser.add_argument("--mask", default="", help="of that camera")
    parser.add_argument("--output", type=Path, default=Path("docs/cassi.png"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    given = parser.parse_args()
    try:
        with runtime.start(given.device) as here, torch.inference_mode():
            rows = [*cube_rows(given, here.device), *camera_rows(given, here.device)]
        if not rows:
            raise ValueError("there is nothing to draw; give --cubes or --measurements")
        draw(rows, given.output)
    except (ValueError, OSError) as error:
        print(f"make_cube_figure.py: {error}", file=sys.stderr)
        return 1
    print(f"{len(rows)} rows: {given.output}")
    return 0


def cube_rows(given: argparse.Namespace, device: torch.device) -> list[list[np.ndarray]]:
    """Five pictures of every cube, as in `TITLES`."""
    if not given.cubes:
        return []
    model = find_weights(given.weights, given.overrides).load().to(device)
    paths = [path for name in given.cubes for path in find_images(name, runtime.data_roots())]
    result = []
    for path in paths:
        cube = to_unit(channels_first(read_pixels(path)).to(device))[None]
        y = model.measure(cube, path.stem)
        rebuilt = model.reconstruct(y)
        error = (rebuilt - cube).abs().mean(1)[0] / LARGEST_ERROR
        start = colours(first_image(model, y))
        result.append([colours(cube), grey(y), start, colours(rebuilt), error.cpu().numpy()])
    return result


def camera_rows(given: argparse.Namespace, device: torch.device) -> list[list[np.ndarray]]:
    """Measurement, start and reconstruction of every picture of a camera; no cube is known."""
    if given.measurements and not given.mask:
        raise ValueError("--measurements need the --mask of their camera")
    result = []
    for file in given.measurements:
        model = model_of_camera(given.weights, given.mask, tuple(given.overrides)).to(device)
        assert isinstance(model.operator, CodedAperture)
        y = read_snapshot(Path(file), model.operator).to(device)
        rebuilt = model.reconstruct(y)
        none = np.ones((1, 1))
        start = bright(first_image(model, y))
        result.append([none, grey(y), start, bright(rebuilt), none])
    return result


def first_image(model: SensingModel, measurement: Tensor) -> Tensor:
    """The projection of the black image on the measurement, from which GAP-TV starts."""
    operator = model.operator
    return operator.project(torch.zeros_like(operator.adjoint(measurement)), measurement)


def colours(cube: Tensor) -> np.ndarray:
    """``(1, bands, H, W)`` -> ``(H, W, 3)``, not clipped."""
    blue, green, red = (part.mean(1) for part in cube.tensor_split(3, dim=1))
    return torch.cat([red, green, blue]).permute(1, 2, 0).cpu().numpy()


def bright(cube: Tensor) -> np.ndarray:
    """`colours` of a cube in an unknown unit."""
    picture = colours(cube)
    return picture / max(np.percentile(picture, BRIGHTEST), np.finfo(np.float32).tiny)


def grey(measurement: Tensor) -> np.ndarray:
    """``(H, W)``; the largest value is white."""
    return (measurement / measurement.max().clamp_min(1e-12))[0, 0].cpu().numpy()


def draw(rows: list[list[np.ndarray]], output: Path) -> None:
    size = (3 * len(TITLES), 3 * len(rows))
    figure, axes = plt.subplots(len(rows), len(TITLES), figsize=size, constrained_layout=True)
    for line, pictures in zip(np.atleast_2d(axes), rows, strict=True):
        for axis, title, picture in zip(line, TITLES, pictures, strict=True):
            axis.axis("off")
            if picture.size == 1:
                continue  # not known
            axis.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title)
    write_figure(output, figure, dpi=80)


if __name__ == "__main__":
    sys.exit(main())
