"""Geometry: axes, rotations and flips, padding or cropping to whole blocks and back."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DIHEDRAL_MODES = 8


def channels_first(pixels: np.ndarray) -> Tensor:
    """``(H, W)`` or ``(H, W, C)`` -> ``(C, H, W)``."""
    if pixels.ndim == 2:
        return torch.from_numpy(np.ascontiguousarray(pixels))[None]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def channels_last(image: np.ndarray) -> np.ndarray:
    """Inverse of `channels_first`."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def dihedral(square: Tensor, mode: int) -> Tensor:
    """One of the eight symmetries of ``(..., size, size)``; a view if possible.

    In this order, bit 0 of the mode flips rows, bit 1 flips columns, and bit 2 transposes.
    """
    flipped = square.flip([axis for axis, bit in ((-2, 1), (-1, 2)) if mode & bit])
    return flipped.mT if mode & 4 else flipped


def pad_to_block(image: Tensor, multiple: int, mode: str = "zeros", always: bool = False) -> Tensor:
    """Extend ``(b, C, H, W)`` at the bottom and right to multiples of ``multiple``.

    Args:
        mode: ``zeros`` or ``replicate`` (repeats the last row and column).
        always: add a whole block even if a side is already a multiple, as in ISTA-Net.
    """
    height, width = image.shape[2:]
    extra = [multiple - side % multiple if always else -side % multiple for side in (width, height)]
    if not any(extra):
        return image
    padding = (0, extra[0], 0, extra[1])
    return F.pad(image, padding) if mode == "zeros" else F.pad(image, padding, mode="replicate")


def crop_back(image: Tensor, height: int, width: int) -> Tensor:
    """Undo `pad_to_block`: the top left ``height x width`` pixels."""
    return image[:, :, :height, :width]


def crop_to_blocks(image: Tensor, multiple: int, size: tuple[int, int] | None = None) -> Tensor:
    """The top left part of ``(b, C, H, W)`` in whole blocks, or with exactly this size.

    Raises:
        ValueError: the image is too small.
    """
    height, width = size or [side - side % multiple for side in image.shape[2:]]
    least = size or (multiple, multiple)
    if height > image.shape[2] or width > image.shape[3] or 0 in (height, width):
        raise ValueError(
            f"an image of {image.shape[2]} x {image.shape[3]} pixels cannot be cropped to at least "
            f"{least[0]} x {least[1]}; use a larger image"
        )
    return image[:, :, :height, :width]
