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

LARGEST_ERROR = 0.2
# The brightest pixels of a picture without known white are shown as white.
BRIGHTEST = 99.5


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/make_cube_figure.py --cubes cubes128 "
        "--weights configs/cassi_gap_tv.yaml cassi_pnp_gap --overrides sampling.size=[128,128]",
    )
    parser.add_argument("--cubes", nargs="*", default=[], help="files or sets")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=["configs/cassi_gap_tv.yaml"],
        help="weights or configs; all rebuild what the first one measures",
    )
    parser.add_argument("--overrides", nargs="*", default=[], help="KEY=VALUE, of the configs")
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
        draw(rows, titles(given.weights), given.output)
    except (ValueError, OSError) as error:
        print(f"make_cube_figure.py: {error}", file=sys.stderr)
        return 1
    print(f"{len(rows)} rows: {given.output}")
    return 0


def cube_rows(given: argparse.Namespace, device: torch.device) -> list[list[np.ndarray]]:
    """The pictures of every cube, as in `titles`."""
    if not given.cubes:
        return []
    models = [
        find_weights(name, own_overrides(name, given.overrides)).load().to(device)
        for name in given.weights
    ]
    paths = [path for name in given.cubes for path in find_images(name, runtime.data_roots())]
    result = []
    for path in paths:
        cube = to_unit(channels_first(read_pixels(path)).to(device))[None]
        y = models[0].measure(cube, path.stem)
        found = [model.measured_by(models[0].operator).reconstruct(y) for model in models]
        error = (found[-1] - cube).abs().mean(1)[0] / LARGEST_ERROR
        start = colours(first_image(models[0], y))
        rebuilt = [colours(image) for image in found]
        result.append([colours(cube), grey(y), start, *rebuilt, error.cpu().numpy()])
    return result


def camera_rows(given: argparse.Namespace, device: torch.device) -> list[list[np.ndarray]]:
    """Measurement, start and reconstructions of every picture of a camera; no cube is known."""
    if given.measurements and not given.mask:
        raise ValueError("--measurements need the --mask of their camera")
    if not given.measurements:
        return []
    models = [
        model_of_camera(name, given.mask, own_overrides(name, given.overrides)).to(device)
        for name in given.weights
    ]
    operator = models[0].operator
    assert isinstance(operator, CodedAperture)
    none = np.ones((1, 1))
    result = []
    for file in given.measurements:
        y = read_snapshot(Path(file), operator).to(device)
        rebuilt = [bright(model.reconstruct(y)) for model in models]
        result.append([none, grey(y), bright(first_image(models[0], y)), *rebuilt, none])
    return result


def own_overrides(name: str, overrides: list[str]) -> tuple[str, ...]:
    """The overrides of a config; weights have none."""
    return tuple(overrides) if Path(name).suffix in (".yaml", ".yml") else ()


def titles(weights: list[str]) -> list[str]:
    """Of the columns."""
    rebuilt = [Path(name).stem for name in weights]
    return ["cube", "measurement", "start", *rebuilt, f"error, white = {LARGEST_ERROR}"]


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


def draw(rows: list[list[np.ndarray]], titles: list[str], output: Path) -> None:
    """One row for each scene. Columns in which no scene has a picture are left out."""
    kept = [k for k in range(len(titles)) if any(row[k].size > 1 for row in rows)]
    size = (3 * len(kept), 3 * len(rows))
    figure, axes = plt.subplots(
        len(rows), len(kept), figsize=size, constrained_layout=True, squeeze=False
    )
    for line, pictures in zip(axes, rows, strict=True):
        for axis, k in zip(line, kept, strict=True):
            axis.axis("off")
            if pictures[k].size == 1:
                continue  # not known
            axis.imshow(np.clip(pictures[k], 0, 1), cmap="gray", vmin=0, vmax=1)
            axis.set_title(titles[k])
    write_figure(output, figure, dpi=80)


if __name__ == "__main__":
    sys.exit(main())
