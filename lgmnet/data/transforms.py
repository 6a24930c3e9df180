"""Geometry: quarter turns and flips, padding to whole blocks and back."""

import torch.nn.functional as F
from torch import Tensor

DIHEDRAL_MODES = 8


def dihedral(square: Tensor, mode: int) -> Tensor:
    """One of the eight symmetries of ``(..., size, size)``, a view where it can be.

    Bit 0 of the mode flips rows, bit 1 flips columns, bit 2 transposes, in this order.
    """
    flipped = square.flip([axis for axis, bit in ((-2, 1), (-1, 2)) if mode & bit])
    return flipped.mT if mode & 4 else flipped


def pad_to_block(image: Tensor, multiple: int, mode: str = "zeros", always: bool = False) -> Tensor:
    """Extend ``(b, 1, H, W)`` at the bottom and right to multiples of ``multiple``.

    Args:
        mode: ``zeros`` or ``replicate`` (the last row and column again).
        always: add a whole block where a side is a multiple already, as ISTA-Net does.
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
