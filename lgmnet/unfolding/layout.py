"""Layouts that make convolutions fast: memory format, and channels in multiples of 8."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

# Tensor cores read 16 bytes at once: 8 channels of two bytes.
CHANNELS_AT_ONCE = 8


def as_channels_last(features: Tensor) -> Tensor:
    if features.shape[1] > 1:
        return features.contiguous(memory_format=torch.channels_last)
    # A single channel fits both formats; a convolution reads the format from the stride.
    n, c, h, w = features.shape
    return features.contiguous().as_strided((n, c, h, w), (h * w, 1, w, 1))


def in_format_of(features: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` in the number format of ``features``, and in channels_last if they are."""
    tensor = tensor.type_as(features)
    return as_channels_last(tensor) if features.stride(1) == 1 else tensor


def convolve_together(layer: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """The convolution of ``parts``, concatenated by channels, in the memory format of the weights.

    On tensor cores, input and weights are padded with zero channels to a multiple of 8. This does
    not change the result.
    """
    parts, weight = list(parts), layer.weight
    missing = -layer.in_channels % CHANNELS_AT_ONCE
    if missing and on_tensor_cores(parts[0]):
        zeros = (0, 0, 0, 0, 0, missing)
        parts[-1], weight = F.pad(parts[-1], zeros), F.pad(weight, zeros)
    features = torch.cat(parts, dim=1)
    if weight.is_contiguous(memory_format=torch.channels_last):
        features = as_channels_last(features)
    if weight is layer.weight:
        return layer(features)
    return functional_call(layer, {"weight": weight}, (features,))


def on_tensor_cores(features: Tensor) -> bool:
    """Whether a GPU multiplies these features in bf16 or fp16."""
    if features.device.type != "cuda":
        return False
    return features.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cuda")
