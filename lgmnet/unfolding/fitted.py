"""The interface of parts that are computed before training instead of trained."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Fitted(nn.Module, ABC):
    """A part that is computed from Φ, and perhaps training blocks, and saved with the network.

    Its tensors are NaN until `fit` is called, so that a missing call is noticed.
    """

    @property
    @abstractmethod
    def needs_blocks(self) -> bool:
        """Whether `fit` uses training blocks."""

    @abstractmethod
    def fit(self, phi: Tensor, blocks: Tensor | None = None) -> None:
        """Compute this part for Φ ``(m, B²)``.

        Args:
            blocks: ``(count, B²)`` training blocks in [0, 1], if `needs_blocks`.
        """
