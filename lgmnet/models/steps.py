"""Runners execute the steps of a network: here on the whole image, in speed/strips.py in strips.

A network whose ``unfold`` uses a `Runner` works in both ways with the same code.
"""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor


class Runner(Protocol):
    """Runs the steps of a network. How it stores the images is its own decision."""

    def __call__(self, step: Callable[..., Any], reach: int, image: Any, *others: Any) -> Any:
        """``step(image, *others)``: one or several images. The inputs must not be used again.

        Args:
            step: takes and returns tensors.
            reach: radius of the receptive field of the step, in pixels of ``image``.
        """

    def keep(self, image: Any) -> Any:
        """A copy of the image for one step, so that a later step can use the image too."""

    def view(self, function: Callable[[Tensor, Tensor], Tensor], image: Any, like: Any) -> Any:
        """``function(image, like)`` as an image that can be used by any number of steps.

        Args:
            function: works on each pixel of ``image``; uses only the format of ``like``.
        """


class AtOnce:
    """Every step on the whole image."""

    def __call__(self, step: Callable[..., Any], reach: int, image: Tensor, *others: Tensor) -> Any:
        return step(image, *others)

    def keep(self, image: Tensor) -> Tensor:
        return image

    def view(
        self, function: Callable[[Tensor, Tensor], Tensor], image: Tensor, like: Tensor
    ) -> Tensor:
        return function(image, like)
