"""Masks of measured frequencies, from a file or random with a seed.

A mask is a boolean ``(H, W)``, True where the Fourier transform is measured. It is uncentred: the
zero frequency is at ``[0, 0]``, as in `torch.fft.fft2`. Figures usually show masks centred, with
the zero frequency at ``[H // 2, W // 2]``; `numpy.fft.ifftshift` makes a mask uncentred.

Random masks always contain the zero frequency. Each function states their sampling ratio.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lgmnet.arrays import read_array

# Kinds of random masks, see `drawn`.
KINDS = ("pseudo_radial", "cartesian", "variable_density")


def sampling_ratio(mask: Tensor) -> float:
    """Measured frequencies divided by all frequencies."""
    return float(mask.double().mean())


def checked(mask: Tensor, centred: bool = False, size: tuple[int, int] | None = None) -> Tensor:
    """The mask as booleans and uncentred.

    A centred mask that is given as uncentred is detected only if it lacks the frequency at
    ``[0, 0]``.

    Args:
        mask: ``(H, W)`` of 0 and 1.
        centred: the zero frequency of ``mask`` is at ``[H // 2, W // 2]``.
        size: expected height and width; None for any size.

    Raises:
        ValueError: the mask has another shape, other values or no zero frequency.
    """
    if mask.ndim != 2 or 0 in mask.shape or (size is not None and mask.shape != size):
        expected = "(H, W)" if size is None else f"{tuple(size)}"
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, expected {expected}")
    if mask.is_meta:  # a shape without values
        return mask.bool()
    if not ((mask == 0) | (mask == 1)).all():
        odd = mask[(mask != 0) & (mask != 1)][0]
        raise ValueError(f"the mask has the value {odd.item()}, expected only 0 and 1")
    if centred:
        mask = torch.fft.ifftshift(mask)
    if not mask[0, 0]:
        place = "[H // 2, W // 2]" if centred else "[0, 0]"
        advice = (
            "perhaps it is not centred: leave out centred=True"
            if centred
            else "perhaps it is centred: pass centred=True"
        )
        raise ValueError(f"the mask has no zero frequency, which is at {place}; {advice}")
    return mask.bool()


def load_mask(path: Path, centred: bool = False, size: tuple[int, int] | None = None) -> Tensor:
    """Read a mask ``(H, W)`` from a file: .npy, .npz, .mat or .safetensors.

    If the file has several arrays, the mask must have the name ``mask`` or ``mask_matrix``.

    Args:
        centred, size: see `checked`.
    """
    _, array = read_array(path, ("mask", "mask_matrix"), "mask", "'mask'")
    if array.dtype.kind not in "buif":
        raise ValueError(f"the mask in {path} has type {array.dtype}, expected numbers")
    try:
        return checked(torch.from_numpy(array.astype(np.float64)), centred, size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def pseudo_radial(size: tuple[int, int], lines: int, seed: int = 0) -> Tensor:
    """Lines through the zero frequency at equal angles. The seed rotates all lines together.

    A steep line has one frequency per row, a flat line one per column. Lines end at the border of
    the centred mask. The ratio is close to ``lines / side`` for few lines, and smaller for many
    lines, which share frequencies. The mask is symmetric: k is measured if −k is.
    """
    if lines < 1:
        raise ValueError(f"lines is {lines}, expected at least 1")
    turn = torch.rand(1, generator=_random(seed), dtype=torch.float64)
    angles = (torch.arange(lines) + turn) * (math.pi / lines)
    directions = torch.stack([angles.sin(), angles.cos()])
    directions = directions / directions.abs().amax(dim=0)
    distance = torch.arange(max(size) // 2 + 1)
    points = (directions[..., None] * distance).round().long().flatten(1)
    points = points[:, (points.abs() <= _half(size)).all(dim=0)]
    mask = torch.zeros(size, dtype=torch.bool)
    for row, column in (points, -points):
        mask[row % size[0], column % size[1]] = True
    return mask


def cartesian(
    size: tuple[int, int], fraction: float, centre_fraction: float = 0.08, seed: int = 0
) -> Tensor:
    """Whole rows of frequencies: all rows in the centre, and other rows with equal probability.

    The ratio is ``round(fraction · H) / H``. Of these rows, ``round(centre_fraction · H)`` (at
    least one) are around the zero frequency.
    """
    height = size[0]
    _check_fraction(fraction)
    if not 0 <= centre_fraction <= fraction:
        raise ValueError(
            f"the centre fraction is {centre_fraction}, expected at least 0 and at most the "
            f"fraction {fraction}"
        )
    centre = max(1, round(centre_fraction * height))
    rows = max(centre, round(fraction * height))
    inner = torch.arange(centre) - centre // 2
    outer = torch.arange(centre - centre // 2, height - centre // 2)
    drawn = outer[torch.randperm(len(outer), generator=_random(seed))[: rows - centre]]
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.cat([inner % height, drawn])] = True
    return mask


def variable_density(
    size: tuple[int, int], fraction: float, power: float = 3.0, seed: int = 0
) -> Tensor:
    """Random single frequencies; their density decreases with the distance to frequency zero.

    The weight of a frequency is (1 − r)^power, with r = 0 at frequency zero and r = 1 in the
    corners of the centred mask. The ratio is ``round(fraction · H · W) / (H · W)``, at least one
    frequency.

    Source:
        Density: M. Lustig, D. Donoho and J. Pauly, "Sparse MRI", MRM 2007. Weighted sampling
        without replacement: P. Efraimidis and P. Spirakis, IPL 2006.
    """
    _check_fraction(fraction)
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in size)
    distance = (2 * (rows[:, None] ** 2 + columns**2)).sqrt().clamp(max=1)
    weight = (1 - distance) ** power
    chance = torch.rand(size, generator=_random(seed), dtype=torch.float64)
    key = chance.log() / weight  # the largest keys are a weighted sample
    key[0, 0] = torch.inf
    count = max(1, round(fraction * key.numel()))
    mask = torch.zeros(key.numel(), dtype=torch.bool)
    mask[key.flatten().topk(count).indices] = True
    return mask.view(size)


def drawn(kind: str, size: tuple[int, int], fraction: float, centre: float, seed: int) -> Tensor:
    """A random mask of one of the `KINDS`, with about the sampling ratio ``fraction``.

    Args:
        centre: for ``cartesian``, the fraction of rows around the zero frequency.
    """
    if kind == "cartesian":
        return cartesian(size, fraction, centre, seed)
    if kind == "variable_density":
        return variable_density(size, fraction, seed=seed)
    _check_fraction(fraction)
    lines = 1
    while sampling_ratio(mask := pseudo_radial(size, lines, seed)) < fraction:
        lines += 1
    return mask


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction is {fraction}, expected 0 < fraction <= 1")


def _half(size: tuple[int, int]) -> Tensor:
    """The highest frequency of rows and columns, ``(2, 1)``."""
    return torch.tensor([[side // 2] for side in size])


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
