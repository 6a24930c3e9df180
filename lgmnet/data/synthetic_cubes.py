"""Synthetic spectral cubes: smooth spectra over photographs, for tests and small trainings.

No spectral camera made them. Their edges are those of photographs, and their spectra are drawn, so
a score on them says little about natural scenes.
"""

from pathlib import Path

import cv2
import numpy as np

from lgmnet.data import builtin
from lgmnet.data.images import read_pixels
from lgmnet.data.values import unit_array
from lgmnet.files import write_arrays

WHITE = 65535
# A cube mixes so many spectra; a spectrum has so many peaks.
MATERIALS, PEAKS = 5, 2
# Colours this far apart, in [0, 1], are of different materials.
CONTRAST = 0.15


def cube_of(photo: np.ndarray, bands: int, random: np.random.Generator) -> np.ndarray:
    """A cube with the edges of a photograph.

    Every pixel mixes `MATERIALS` spectra, according to how close its colour is to the colours of
    as many pixels that are drawn. The mixture is multiplied by the brightness of the pixel.

    Args:
        photo: ``(H, W)`` or ``(H, W, 3)``, in [0, 1].

    Returns:
        ``(H, W, bands)``, float64 in [0, 1].
    """
    pixels = photo.reshape(photo.shape[0] * photo.shape[1], -1).astype(np.float64)
    colours = pixels[random.integers(len(pixels), size=MATERIALS)]
    distances = np.square(pixels[:, None] - colours).sum(2) / (2 * CONTRAST**2)
    shares = np.exp(distances.min(1, keepdims=True) - distances)
    shares /= shares.sum(1, keepdims=True)
    mixture = shares @ spectra(MATERIALS, bands, random)
    return (pixels.mean(1, keepdims=True) * mixture).reshape(*photo.shape[:2], bands)


def spectra(count: int, bands: int, random: np.random.Generator) -> np.ndarray:
    """Smooth spectra ``(count, bands)``: Gaussian peaks on a constant; the largest value is 1."""
    wavelengths = np.linspace(0, 1, bands)
    centres = random.uniform(-0.1, 1.1, (count, PEAKS, 1))
    widths = random.uniform(0.1, 0.4, (count, PEAKS, 1))
    heights = random.uniform(0.2, 1, (count, PEAKS, 1))
    peaks = heights * np.exp(-np.square((wavelengths - centres) / widths) / 2)
    values = peaks.sum(1) + random.uniform(0.05, 0.3, (count, 1))
    return values / values.max(1, keepdims=True)


def write_cubes(
    folder: Path,
    count: int,
    size: tuple[int, int],
    bands: int = 28,
    seed: int = 0,
    part: str = "train",
) -> list[Path]:
    """Write ``synthetic_000.npz``, …: one cube each, from photographs of scikit-image.

    A file holds ``cube`` ``(H, W, bands)`` uint16, its white ``scale``, and ``origin``, a text that
    says how it was made. Cube k depends on the seed, k and the photograph alone.

    Args:
        size: height and width, in pixels.
        part: photographs ``train`` or ``test`` of `lgmnet.data.builtin`; no scene is in both.

    Raises:
        ValueError: no such part, or a number is not positive.
    """
    parts = {"train": builtin.TRAIN, "test": builtin.TEST}
    if part not in parts:
        raise ValueError(f"part is '{part}', expected one of {', '.join(parts)}")
    for name, number in (("count", count), ("size", min(size)), ("bands", bands)):
        if number < 1:
            raise ValueError(f"{name} is {number}, expected at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    photos = builtin.paths(parts[part])
    return [
        _write(folder / f"synthetic_{k:03d}.npz", photos[k % len(photos)], size, bands, (seed, k))
        for k in range(count)
    ]


def _write(
    path: Path, photo: Path, size: tuple[int, int], bands: int, seed: tuple[int, int]
) -> Path:
    random = np.random.default_rng(seed)
    cube = cube_of(_crop(unit_array(read_pixels(photo)), size, random), bands, random)
    write_arrays(
        path,
        cube=np.rint(cube * WHITE).astype(np.uint16),
        scale=np.float64(WHITE),
        origin=f"synthetic spectra (seed {seed}) over scikit-image's {photo.name}",
    )
    return path


def _crop(photo: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """A random part; a photograph that is too small is enlarged before."""
    factor = max(1.0, size[0] / photo.shape[0], size[1] / photo.shape[1])
    if factor > 1:
        enlarged = [max(s, round(factor * p)) for s, p in zip(size, photo.shape[:2], strict=True)]
        photo = cv2.resize(photo, (enlarged[1], enlarged[0]), interpolation=cv2.INTER_CUBIC)
    top, left = (
        int(random.integers(p - s + 1)) for p, s in zip(photo.shape[:2], size, strict=True)
    )
    return np.clip(photo[top : top + size[0], left : left + size[1]], 0, 1)
