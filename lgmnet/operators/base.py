"""The contract of everything that measures: Φ and its transpose."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.amp import is_autocast_available

from lgmnet.registry import Registry


def in_full_precision(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a module's method in float32 or better and return the type of its first tensor."""

    @functools.wraps(method)
    def wrapped(self: nn.Module, tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
        reduced = tensor.dtype in (torch.bfloat16, torch.float16)
        kind = tensor.device.type
        with torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext():
            result = method(self, tensor.float() if reduced else tensor, *arguments, **options)
        return result.to(tensor.dtype)

    return wrapped


class LinearOperator(nn.Module, ABC):
    """Φ and Φᵀ. Calling the operator measures, without noise.

    Shapes:
        image:        ``(batch, 1, H, W)``; H and W are multiples of ``multiple``.
        measurement:  whatever ``measurement_shape`` says.

    Every method computes in float32 or better, also under autocast, and returns the type it
    was given: a Φx rounded to bfloat16 costs image quality and saves nothing.
    """

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Height and width of an image must be multiples of this, in pixels."""

    @abstractmethod
    def measurement_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one measurement, without the batch axis, of a ``height x width`` image."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Φx."""

    @abstractmethod
    def adjoint(self, measurement: Tensor) -> Tensor:
        """Φᵀy."""

    @abstractmethod
    def solve(self, image: Tensor, weight: Tensor | float, back_projection: Tensor) -> Tensor:
        """(ΦᵀΦ + weight·I)⁻¹ (back_projection + weight·image), with back_projection = Φᵀy.

        The minimiser of ½‖Φx − y‖² + ½ weight ‖x − image‖²; ``weight`` is positive.
        """

    @abstractmethod
    def project(self, image: Tensor, measurement: Tensor) -> Tensor:
        """The image closest to ``image`` among those that Φ measures as ``measurement``."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Two operators with the same fingerprint measure alike."""

    @abstractmethod
    def lipschitz(self) -> float:
        """Largest eigenvalue of ΦᵀΦ: gradient steps up to 1/lipschitz descend."""

    @in_full_precision
    def gram(self, features: Tensor, scale: int = 1) -> Tensor:
        """ΦᵀΦ of every feature channel, each taken as an image.

        Shapes:
            features: ``(batch, C·scale², H/scale, W/scale)``: C images, pixel-unshuffled by
                ``scale``. The result has the same shape.
        """
        images = F.pixel_shuffle(features, scale) if scale > 1 else features
        batch = len(images)
        images = rearrange(images, "b c h w -> (b c) 1 h w")
        images = rearrange(self.adjoint(self(images)), "(b c) 1 h w -> b c h w", b=batch)
        return F.pixel_unshuffle(images, scale) if scale > 1 else images


OPERATORS: Registry[LinearOperator] = Registry("operator")
