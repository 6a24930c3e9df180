"""The contract of parts that are computed before training, not trained."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Fitted(nn.Module, ABC):
    """A part that is made of Φ, and perhaps of training blocks, and saved with the network.

    Until `fit` its tensors are NaN, so that a forgotten one cannot pass for a bad result.
    """

    @property
    @abstractmethod
    def needs_blocks(self) -> bool:
        """Whether `fit` uses training blocks."""

    @abstractmethod
    def fit(self, phi: Tensor, blocks: Tensor | None = None) -> None:
        """Compute this part for Φ ``(m, B²)``.

        Args:
            blocks: ``(count, B²)`` training blocks in [0, 1], where they are needed.
        """
