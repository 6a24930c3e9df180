"""Geometry: quarter turns and flips, padding to whole blocks and back."""

import torch
import torch.nn.functional as F
from torch import Tensor

DIHEDRAL_MODES = 8


def dihedral(batch: Tensor, modes: Tensor) -> Tensor:
    """The eight symmetries of a square, one for each image.

    Bit 0 of a mode flips rows, bit 1 flips columns, bit 2 transposes, in this order.

    Shapes:
        batch: ``(b, 1, size, size)``;  modes: ``(b,)``, integers in 0..7.
    """
    for bit, change in enumerate((_flip_rows, _flip_columns, _transpose)):
        chosen = ((modes >> bit) & 1).bool().to(batch.device)
        batch = torch.where(chosen[:, None, None, None], change(batch), batch)
    return batch


def _flip_rows(batch: Tensor) -> Tensor:
    return batch.flip(2)


def _flip_columns(batch: Tensor) -> Tensor:
    return batch.flip(3)


def _transpose(batch: Tensor) -> Tensor:
    return batch.transpose(2, 3)


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
