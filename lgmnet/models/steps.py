"""Who runs the steps of a network: on the whole image here, strip after strip in speed/strips.py.

A network that is written over a `Runner` runs in both ways by the same lines.
"""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor


class Runner(Protocol):
    """Runs the steps of a network on images, in whatever form it keeps images."""

    def __call__(self, step: Callable[..., Any], reach: int, image: Any, *others: Any) -> Any:
        """``step(image, *others)``: an image or several. What is given is used up.

        Args:
            step: takes and returns tensors.
            reach: pixels of ``image`` above and below one that its result depends on.
        """

    def keep(self, image: Any) -> Any:
        """The same image again, to be given to a step while another is still to come."""

    def view(self, function: Callable[[Tensor, Tensor], Tensor], image: Any, like: Any) -> Any:
        """``function(image, like)`` as an image that no step uses up.

        Args:
            function: sees single pixels of ``image``; of ``like`` only its format.
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
