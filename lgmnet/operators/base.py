"""The interface of all operators: Φ and its transpose."""

import copy
import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.amp import is_autocast_available

from lgmnet.operators.iterative import conjugate_gradients, largest_eigenvalue


def in_full_precision(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a module's method in float32 or better and return the type of its first tensor.

    Raises:
        TypeError: the tensor or the result is complex. Rounding to a real type would drop the
            imaginary part.
    """

    @functools.wraps(method)
    def wrapped(self: nn.Module, tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
        check_real(tensor, f"{type(self).__name__}.{method.__name__} was given")
        reduced = tensor.dtype in (torch.bfloat16, torch.float16)
        kind = tensor.device.type
        with torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext():
            result = method(self, tensor.float() if reduced else tensor, *arguments, **options)
        check_real(result, f"{type(self).__name__}.{method.__name__} has computed")
        return result.to(tensor.dtype)

    return wrapped


def check_real(tensor: Tensor, subject: str) -> None:
    """Raise TypeError if the tensor is complex; ``subject`` begins the message."""
    if tensor.is_complex():
        raise TypeError(
            f"{subject} a complex tensor ({tensor.dtype}), expected a real one, whose two channels "
            "are the real and the imaginary part"
        )


def check_weight(weight: Tensor | float) -> None:
    """Raise ValueError unless a number is positive. The value of a tensor would wait for a GPU."""
    if not isinstance(weight, Tensor) and not weight > 0:
        raise ValueError(f"the weight of a quadratic step is {weight}, expected > 0")


class LinearOperator(nn.Module, ABC):
    """Φ and Φᵀ. Calling the operator measures, without noise.

    Every tensor is real. A complex image or measurement has its real and imaginary part as two
    channels, so inner products, norms and noise mean the same for every operator.

    Shapes:
        image:        ``(batch, channels, H, W)``; H and W are multiples of ``multiple``, or
            exactly ``size`` if it is not None.
        measurement:  ``(batch, *measurement_shape)``.

    Every method computes in float32 or better, also under autocast, and returns the type of its
    input. Rounding Φx to bfloat16 would cost image quality and save nothing.
    """

    channels: int = 1
    """Channels of an image."""
    multiple: int = 1
    """Height and width of an image must be multiples of this, in pixels."""
    size: tuple[int, int] | None = None
    """Height and width of an image, in pixels; None if the operator supports several sizes."""
    shows: str = "the measurement"
    """What `picture_of` shows, for captions."""

    @property
    def support(self) -> Tensor | None:
        """True where y is measured; its shape broadcasts to that of y. None: everywhere."""
        return None

    def sizes(self) -> dict[str, int]:
        """Arguments for the constructor of a network, by name."""
        return {"image_channels": self.channels}

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name as a weights file holds them. Training may use finer ones."""
        return self.state_dict()

    def check_weights(self) -> None:
        """Raise ValueError if tensors of a weights file have values that they cannot have."""

    def retract(self) -> None:
        """Bring trained tensors back to the values that they may have. Called after each step."""

    def picture(self) -> Tensor | None:
        """Φ as a picture, ``(H, W)`` in [0, 1] on the CPU; None if there is no picture."""
        return None

    def picture_of(self, measurement: Tensor) -> Tensor:
        """One y ``(1, C, h, w)`` as a picture: ``(H, W)``, or RGB ``(H, W, 3)``; on the CPU.

        The values are in [0, 1]. Three channels are colours. Other channels, at most 64, stand side
        by side, and each has its own range from black to white.
        """
        y = measurement[0].detach().float().cpu()
        y = y if y.ndim == 3 else y.reshape(1, 1, -1)
        return rearrange(y, "c h w -> h w c").clamp(0, 1) if len(y) == 3 else tiles(y)

    def on_canvas(self) -> "LinearOperator":
        """What a network works with: this operator, or one of the same y and larger images.

        The image is the top left part of such a larger one.
        """
        return self

    def part(self, first: int, count: int) -> "LinearOperator":
        """The operator of a part of a batch: of ``count`` samples from ``first`` on.

        Only an operator that measures every sample in another way differs from its parts.
        """
        return self

    def stored(self, measurement: Tensor) -> Tensor:
        """y = Φx as it is stored before noise is added: y itself, or rounded. Not linear."""
        return measurement

    def variant(self, **attributes: Any) -> Self:
        """This operator with other attributes. Both share their tensors until one is moved."""
        other = copy.copy(self)
        other._buffers, other._parameters = dict(self._buffers), dict(self._parameters)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def check_image(self, image: Tensor, multiple: int = 1) -> None:
        """Raise ValueError unless the operator can measure the image.

        Args:
            multiple: height and width must also be multiples of this, in pixels.
        """
        if image.ndim != 4 or image.shape[1] != self.channels:
            hint = ": one luma channel; see lgmnet.data.color for colour images"
            raise ValueError(
                f"the image has shape {tuple(image.shape)}, expected (batch, {self.channels}, H, W)"
                + hint * (self.channels == 1)
            )
        if self.size is not None and image.shape[2:] != self.size:
            raise ValueError(
                f"the image has {image.shape[2]} x {image.shape[3]} pixels (height x width), but "
                f"{type(self).__name__} measures images of {self.size[0]} x {self.size[1]}; crop "
                "or resize the image, or make the operator for its size"
            )
        whole = math.lcm(self.multiple, multiple)
        for name, side in zip(("height", "width"), image.shape[2:], strict=True):
            if side == 0 or side % whole:
                raise ValueError(
                    f"image {name} {side} is not a multiple of {whole}; use pad_to_block before "
                    "measuring and crop_back after (both in lgmnet.data.transforms)"
                )

    @abstractmethod
    def measurement_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one measurement, without the batch axis, of a ``height x width`` image."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Φx."""

    @abstractmethod
    def adjoint(self, measurement: Tensor) -> Tensor:
        """Φᵀy."""

    @in_full_precision
    def solve(self, image: Tensor, weight: Tensor | float, back_projection: Tensor) -> Tensor:
        """(ΦᵀΦ + weight·I)⁻¹ (back_projection + weight·image), with back_projection = Φᵀy.

        This is the minimiser of ½‖Φx − y‖² + ½ weight ‖x − image‖²; ``weight`` is positive. The
        default method is conjugate gradients. An operator with a closed form overrides it.
        """
        check_weight(weight)
        target = back_projection + weight * image
        return conjugate_gradients(
            lambda x: self.gram_of_images(x) + weight * x, target, image.expand_as(target)
        )

    @in_full_precision
    def project(self, image: Tensor, measurement: Tensor) -> Tensor:
        """The closest image to ``image`` that satisfies Φx = y, with y = ``measurement``.

        The default method is conjugate gradients on ΦΦᵀ.
        """
        residual = measurement - self(image)
        dual = conjugate_gradients(
            lambda y: self(self.adjoint(y)), residual, torch.zeros_like(residual)
        )
        return image + self.adjoint(dual)

    def fingerprint(self) -> str:
        """A hash of the class and its tensors. Operators with equal hashes have the same Φ."""
        digest = hashlib.sha256(repr(self).encode())
        for name, tensor in self.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def lipschitz(self) -> float:
        """Largest eigenvalue of ΦᵀΦ.

        Gradient steps with a step size up to 1/lipschitz decrease the objective. The default
        method is power iteration on one small image; its result may be too small by some per cent.
        """
        sides = self.size or (4 * self.multiple, 4 * self.multiple)
        start = torch.randn(1, self.channels, *sides, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return largest_eigenvalue(self.gram_of_images, start.to(self._like()))

    def _like(self) -> Tensor:
        """A tensor with the type and device of the operator."""
        tensors = (*self.parameters(), *self.buffers())
        return next((t for t in tensors if t.is_floating_point()), torch.zeros(()))

    @in_full_precision
    def gram(self, features: Tensor, scale: int = 1) -> Tensor:
        """ΦᵀΦ of every feature channel, each treated as an image.

        Shapes:
            features: ``(batch, C·scale², H/scale, W/scale)``: the channels of one image or of
                several, pixel-unshuffled by ``scale``. The result has the same shape.
        """
        channels = F.pixel_shuffle(features, scale) if scale > 1 else features
        batch = channels.shape[0]
        images = rearrange(channels, "b (c p) h w -> (b c) p h w", p=self.channels)
        images = self.gram_of_images(images)
        channels = rearrange(images, "(b c) p h w -> b (c p) h w", b=batch)
        return F.pixel_unshuffle(channels, scale) if scale > 1 else channels

    def gram_of_images(self, images: Tensor) -> Tensor:
        """ΦᵀΦ of images ``(batch, channels, H, W)``.

        An operator may override it with a faster method.
        """
        return self.adjoint(self(images))


def tiles(maps: Tensor, most: int = 64) -> Tensor:
    """Maps ``(count, h, w)`` side by side in a square, each scaled to [0, 1]. Some may be left out.

    Maps of one pixel become one map.
    """
    side = math.isqrt(min(len(maps), most))
    maps = maps[: side * side]
    if maps.shape[1:] == (1, 1):
        maps, side = rearrange(maps, "(h w) 1 1 -> 1 h w", h=side), 1
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low).clamp_min(1e-12)
    return rearrange(maps, "(r c) h w -> (r h) (c w)", r=side)
