"""Block sampling as matrix products: the same numbers as strided convolutions, in less time."""

import torch
from einops import rearrange
from torch import Tensor

from lgmnet.operators.base import OPERATORS, in_full_precision
from lgmnet.operators.block_sampling import BlockSampling, check_image


@OPERATORS.register("gemm_block_sampling")
class GemmBlockSampling(BlockSampling):
    """`BlockSampling` whose blocks are gathered into the rows of one matrix, and scattered back.

    For features at a coarser scale it is Φ's columns that are reordered, not the features: the
    pixels of a block lie in whatever order the gathering finds them.

    Arguments, shapes, errors and source are those of `BlockSampling`, and:

    Args:
        reduced_gram: apply ΦᵀΦ to bf16 features as bf16 products, whose sums are float32. The
            result is bf16 in any case. Images keep full precision.
    """

    def __init__(
        self,
        matrix: Tensor,
        block_size: int = 32,
        learned: bool = True,
        reduced_gram: bool = False,
    ) -> None:
        super().__init__(matrix, block_size, learned)
        self.reduced_gram = reduced_gram

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        check_image(image, self.block_size)
        b = self.block_size
        blocks = rearrange(image, "n 1 (h p) (w q) -> n h w (p q)", p=b, q=b)
        return rearrange(blocks @ self.matrix.T, "n h w m -> n m h w")

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        self.check_measurement(measurement)
        blocks = rearrange(measurement, "n m h w -> n h w m") @ self.matrix
        b = self.block_size
        return rearrange(blocks, "n h w (p q) -> n 1 (h p) (w q)", p=b, q=b)

    def gram(self, features: Tensor, scale: int = 1) -> Tensor:
        side, rest = divmod(self.block_size, scale)
        if rest:  # a block is not made of whole feature pixels
            return super().gram(features, scale)
        phi = rearrange(self.matrix, "m (p i q j) -> m (i j p q)", p=side, i=scale, j=scale)
        if self.reduced_gram and features.dtype == torch.bfloat16:
            return gram_of_blocks(features, phi.type_as(features), side, scale)
        return self._full_gram(features, phi, side, scale)

    @in_full_precision
    def _full_gram(self, features: Tensor, phi: Tensor, side: int, scale: int) -> Tensor:
        return gram_of_blocks(features, phi, side, scale)


def gram_of_blocks(features: Tensor, phi: Tensor, side: int, scale: int) -> Tensor:
    result = torch.empty_like(features)
    pixels = by_block(features, side, scale)
    measured = pixels.reshape(-1, phi.shape[1]) @ phi.T
    by_block(result, side, scale).copy_((measured @ phi).view(pixels.shape))
    return result


def by_block(features: Tensor, side: int, scale: int) -> Tensor:
    """A view of features whose last four axes are the pixels of one block of one channel."""
    return rearrange(
        features, "n (c i j) (h p) (w q) -> n h w c i j p q", i=scale, j=scale, p=side, q=side
    )
