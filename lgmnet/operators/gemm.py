"""Block sampling as matrix products: the same numbers as strided convolutions, in less time."""

import torch
from einops import rearrange
from torch import Tensor

from lgmnet.operators.base import OPERATORS, in_full_precision
from lgmnet.operators.block_sampling import BlockSampling, check_image, gram_of_blocks


@OPERATORS.register("gemm_block_sampling")
class GemmBlockSampling(BlockSampling):
    """`BlockSampling` whose blocks are gathered into the rows of one matrix, and scattered back.

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
        if rest or not self.reduced_gram or features.dtype != torch.bfloat16:
            return super().gram(features, scale)
        return gram_of_blocks(features, self.matrix.type_as(features), side, scale)
