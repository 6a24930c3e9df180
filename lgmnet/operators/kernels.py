"""Blur kernels: eight Gaussian ones by formula, and others from a file.

A kernel is ``(h, w)`` with odd sides, and its values sum to 1. Its centre is ``[h // 2, w // 2]``.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lgmnet.arrays import read_array

# Of K1 to K8: largest and smallest variance in pixels², and the angle between the columns' axis and
# the direction of the largest one, in degrees, downwards.
GAUSSIANS = (
    (0.49, 0.49, 0.0), (1.44, 1.44, 0.0), (2.56, 2.56, 0.0), (4.0, 4.0, 0.0),
    (7.0, 2.0, 0.0), (9.0, 1.5, -36.0), (8.0, 1.5, 45.0), (7.0, 5.0, 52.2),
)  # fmt: skip
SIDE = 25
# Kernels of files are rounded: their sums may differ from 1 by so much.
TOLERANCE = 1e-3


def gaussian(large: float, small: float, angle: float, side: int = SIDE) -> Tensor:
    """A Gaussian kernel ``(side, side)`` in float64, cut off at its border.

    Args:
        large, small: variances along the two main directions, in pixels².
        angle: from the direction of columns (x) to that of ``large``, in degrees; rows go down.
    """
    mean, half = (large + small) / 2, (large - small) / 2
    turn = math.radians(2 * angle)
    across = half * math.sin(turn)
    covariance = torch.tensor(
        [[mean - half * math.cos(turn), across], [across, mean + half * math.cos(turn)]],
        dtype=torch.float64,
    )
    steps = torch.arange(side, dtype=torch.float64) - side // 2
    position = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))  # y, x
    distance = torch.einsum("ihw,ij,jhw->hw", position, covariance.inverse(), position)
    kernel = torch.exp(-distance / 2)
    return kernel / kernel.sum()


def gaussians() -> Tensor:
    """K1 to K8 of USRNet, ``(8, 25, 25)``.

    Source:
        K. Zhang, L. Van Gool and R. Timofte, CVPR 2020. Their file of kernels holds these eight
        (and four of camera shake); the variances and angles were found from its values.
    """
    return torch.stack([gaussian(*shape) for shape in GAUSSIANS]).float()


def checked(kernel: Tensor) -> Tensor:
    """The kernel in its floating type, or float32.

    Raises:
        ValueError: it has another shape, an even side, a value that is not finite, or another sum
            than 1.
    """
    if kernel.ndim != 2 or 0 in kernel.shape:
        raise ValueError(f"the kernel has shape {tuple(kernel.shape)}, expected (h, w)")
    height, width = kernel.shape
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(
            f"the kernel has {height} x {width} pixels, expected odd numbers, so that one pixel is "
            "its centre; add a row or a column of zeros where the centre then is right"
        )
    kernel = kernel if kernel.is_floating_point() else kernel.float()
    if kernel.is_meta:  # a shape without values
        return kernel
    total = float(kernel.double().sum())
    if not abs(total - 1) <= TOLERANCE:  # also true of NaN
        raise ValueError(
            f"the values of the kernel sum to {total:.6g}, expected 1 (within {TOLERANCE:g}); "
            "divide them by their sum"
        )
    return kernel


def load_kernels(path: Path) -> Tensor:
    """The kernels ``(K, h, w)`` of a file: .npy, .npz, .mat or .safetensors.

    They are an array ``(h, w)`` or ``(K, h, w)``, or a MATLAB cell array of matrices. Smaller
    kernels of a cell array get borders of zeros. A file with several arrays must name one of them
    ``kernels`` or ``kernel``.

    Raises:
        ValueError: no file, damaged, or what it holds are no kernels; see `checked`.
    """
    _, array = read_array(path, ("kernels", "kernel"), "file of kernels", "'kernels'")
    if array.dtype == object:
        held = list(array.flat)
    elif array.ndim not in (2, 3):
        raise ValueError(f"{path} has shape {array.shape}, expected (h, w) or (kernels, h, w)")
    else:
        held = list(array[None] if array.ndim == 2 else array)
    if not held or any(np.asarray(kernel).dtype.kind not in "uif" for kernel in held):
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}, expected kernels")
    found = []
    for number, kernel in enumerate(held, start=1):
        try:
            found.append(checked(torch.from_numpy(np.array(kernel, dtype=np.float32))))
        except ValueError as error:
            raise ValueError(f"{path}, kernel {number}: {error}") from None
    height, width = (max(kernel.shape[axis] for kernel in found) for axis in (0, 1))
    return torch.stack([with_border(kernel, height, width) for kernel in found])


def with_border(kernel: Tensor, height: int, width: int) -> Tensor:
    """The kernel among zeros, its centre in the middle again."""
    rows, columns = (height - kernel.shape[0]) // 2, (width - kernel.shape[1]) // 2
    return F.pad(kernel, (columns, columns, rows, rows))
