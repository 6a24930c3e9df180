"""Block compressive sensing: every block of an image is measured with the same small Φ."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lgmnet.operators.base import LinearOperator, check_weight, in_full_precision, tiles
from lgmnet.operators.matrices import fingerprint, gram_schmidt


class BlockSampling(LinearOperator):
    """Measure every ``B x B`` block of an image with the same matrix Φ.

    Φ has shape ``(m, B²)``; its columns are in row-major pixel order. The blocks become the rows of
    one matrix, so one matrix product measures an image of any size in whole blocks. On a GPU a
    matrix product keeps full precision; a convolution would not, because PyTorch allows TF32 there.

    Shapes:
        image:        ``(batch, 1, H, W)``, luma in [0, 1]; H and W are multiples of B.
        measurement:  ``(batch, m, H/B, W/B)``, in the unit of the image times that of Φ.

    Args:
        matrix: Φ, ``(m, B²)``.
        block_size: side B of a block, in pixels.
        learned: whether Φ is trained with the network; else it is fixed.
        orthonormal: whether training keeps ΦΦᵀ = I, see `retract`.

    Raises:
        ValueError: the matrix does not fit the block size, or an image or measurement has a wrong
            shape.

    Source:
        L. Gan, "Block compressed sensing of natural images", DSP 2007.
    """

    matrix: Tensor
    shows = "the first numbers of all blocks, each as a picture"
    gathers: bool = True
    """Apply Φ as a product with gathered blocks; else as a strided convolution, as published."""
    reduced_gram: bool = False
    """Apply ΦᵀΦ to bf16 features by bf16 products with float32 sums. The result is always bf16.
    Images keep full precision."""

    def __init__(
        self,
        matrix: Tensor,
        block_size: int = 32,
        learned: bool = True,
        orthonormal: bool = False,
    ) -> None:
        super().__init__()
        check_matrix(matrix, block_size)
        self.block_size = self.multiple = block_size
        self.orthonormal = orthonormal
        self._keep("matrix", matrix, learned)

    def _keep(self, name: str, tensor: Tensor, learned: bool) -> None:
        """Register a tensor as a parameter if it is learned, else as a buffer."""
        self.learned = learned
        if learned:
            self.register_parameter(name, nn.Parameter(tensor.clone()))
        else:
            self.register_buffer(name, tensor.clone())

    @property
    def measurements(self) -> int:
        """Measurements per block, m."""
        return self.matrix.shape[0]

    @property
    def kernel(self) -> Tensor:
        """Φ as filters, ``(m, 1, B, B)``."""
        return rearrange(self.matrix, "m (h w) -> m 1 h w", h=self.block_size)

    def sizes(self) -> dict[str, int]:
        return {
            **super().sizes(),
            "measurements": self.measurements,
            "block_size": self.block_size,
        }

    def picture(self) -> Tensor:
        """See `LinearOperator.picture`: a grid of the first 64 rows of Φ, each scaled to [0, 1]."""
        rows = self.matrix.detach().float().cpu()
        return tiles(rearrange(rows, "m (h w) -> m h w", h=self.block_size))

    @torch.no_grad()
    def retract(self) -> None:
        """See `LinearOperator.retract`: if Φ is ``orthonormal``, make ΦΦᵀ = I again."""
        if self.orthonormal:
            self.matrix.copy_(gram_schmidt(self.matrix))

    def first(self, rows: int) -> "BlockSampling":
        """The operator of the first ``rows`` rows of Φ; gradients reach this operator's Φ."""
        if not 1 <= rows <= self.measurements:
            raise ValueError(f"Φ has {self.measurements} rows; {rows} were asked for")
        part = BlockSampling(self.matrix[:rows], self.block_size, learned=False)
        part.gathers, part.reduced_gram = self.gathers, self.reduced_gram
        return part

    def measurement_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.measurements, height // self.block_size, width // self.block_size

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        self.check_image(image)
        if self.gathers:
            return measure_blocks(image, self.matrix, self.block_size)
        return F.conv2d(image, self.kernel, stride=self.block_size)

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        self.check_measurement(measurement)
        if self.gathers:
            return make_blocks(measurement, self.matrix, self.block_size)
        return F.conv_transpose2d(measurement, self.kernel, stride=self.block_size)

    def check_measurement(self, measurement: Tensor) -> None:
        """Raise ValueError unless it is ``(batch, m, H/B, W/B)``."""
        if measurement.ndim != 4 or measurement.shape[1] != self.measurements:
            raise ValueError(
                f"the measurement has shape {tuple(measurement.shape)}, expected "
                f"(batch, {self.measurements}, H/{self.block_size}, W/{self.block_size})"
            )

    def gram(self, features: Tensor, scale: int = 1) -> Tensor:
        """See `LinearOperator.gram`: gathers blocks to rows and computes two matrix products.

        The result equals Φᵀ(Φ·) up to rounding, and is faster than convolutions.
        """
        side, rest = divmod(self.block_size, scale)
        if rest or not self.gathers:
            return super().gram(features, scale)
        check_features(features, scale, side)
        if self.reduced_gram and features.dtype == torch.bfloat16:
            return gram_of_blocks(features, self.matrix.type_as(features), side, scale)
        return self._full_gram(features, side, scale)

    @in_full_precision
    def _full_gram(self, features: Tensor, side: int, scale: int) -> Tensor:
        return gram_of_blocks(features, self.matrix, side, scale)

    @in_full_precision
    def solve(self, image: Tensor, weight: Tensor | float, back_projection: Tensor) -> Tensor:
        """See `LinearOperator.solve`: one m x m system, by the matrix inversion lemma.

        The system is positive definite, so there is no check that would wait for the GPU. If a
        trained weight becomes zero in float32, the result is NaN, and the run stops with an error.
        """
        check_weight(weight)
        target = back_projection + weight * image
        factor, failed = self._factor(weight)
        factor = factor.masked_fill(failed.bool(), torch.nan)
        return (target - self.adjoint(_solve_blocks(factor, self(target)))) / weight

    @in_full_precision
    def project(self, image: Tensor, measurement: Tensor) -> Tensor:
        """See `LinearOperator.project`: x + Φᵀ(ΦΦᵀ)⁻¹(y − Φx). The rows of Φ are independent."""
        factor, failed = self._factor(0.0)
        if failed.device.type != "meta" and failed:
            raise ValueError(
                "the rows of Φ are linearly dependent, so Φx = y has no solution for some y"
            )
        return image + self.adjoint(_solve_blocks(factor, measurement - self(image)))

    def _factor(self, weight: Tensor | float) -> tuple[Tensor, Tensor]:
        """Cholesky factor of ΦΦᵀ + weight·I, and whether the factorisation failed."""
        gram = self.matrix @ self.matrix.T
        one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(gram + weight * one)
        return factor, failed

    def lipschitz(self) -> float:
        return float(torch.linalg.matrix_norm(self.matrix.detach().double(), 2) ** 2)

    def fingerprint(self) -> str:
        """See `matrices.fingerprint`."""
        return fingerprint(self.matrix)

    def extra_repr(self) -> str:
        m, n = self.matrix.shape
        b = self.block_size
        kind = "orthonormal " * self.orthonormal + ("learned" if self.learned else "fixed")
        return f"{kind} Φ ({m}, {n}): (batch, 1, H, W) -> (batch, {m}, H/{b}, W/{b})"


def measure_blocks(image: Tensor, matrix: Tensor, side: int) -> Tensor:
    """A matrix ``(m, side²)`` times every block: ``(n, 1, H, W)`` -> ``(n, m, H/side, W/side)``."""
    blocks = rearrange(image, "n 1 (h p) (w q) -> (n h w) (p q)", p=side, q=side)
    height, width = image.shape[2] // side, image.shape[3] // side
    return rearrange(blocks @ matrix.T, "(n h w) m -> n m h w", h=height, w=width)


def make_blocks(measurement: Tensor, matrix: Tensor, side: int) -> Tensor:
    """The transpose of `measure_blocks`: ``(n, m, h, w)`` -> ``(n, 1, h side, w side)``."""
    blocks = rearrange(measurement, "n m h w -> (n h w) m") @ matrix
    height, width = measurement.shape[2:]
    return rearrange(blocks, "(n h w) (p q) -> n 1 (h p) (w q)", h=height, w=width, p=side, q=side)


def _solve_blocks(factor: Tensor, measurement: Tensor) -> Tensor:
    """(LLᵀ)⁻¹ applied to the measurement of every block, with the factor L."""
    columns = rearrange(measurement, "n m h w -> m (n h w)")
    height, width = measurement.shape[2:]
    solution = torch.cholesky_solve(columns, factor)
    return rearrange(solution, "m (n h w) -> n m h w", h=height, w=width)


def gram_of_blocks(features: Tensor, matrix: Tensor, side: int, scale: int) -> Tensor:
    """ΦᵀΦ of features with blocks of ``side x side`` at ``scale``; keeps their memory format.

    The columns of Φ are permuted to the order of the gathered pixels. So features need no pixel
    shuffle to full resolution.
    """
    phi = rearrange(matrix, "m (p i q j) -> m (i j p q)", p=side, i=scale, j=scale)
    result = torch.empty_like(features)
    pixels = by_block(features, side, scale)
    measured = pixels.reshape(-1, phi.shape[1]) @ phi.T
    by_block(result, side, scale).copy_((measured @ phi).view(pixels.shape))
    return result


def by_block(features: Tensor, side: int, scale: int) -> Tensor:
    """A view of features whose last four axes are the pixels of one block of one channel."""
    sides = {"i": scale, "j": scale, "p": side, "q": side}
    if features.stride(1) == 1:  # channels_last; in this form the gradient has that format too
        last = rearrange(features, "n c h w -> n h w c")
        return rearrange(last, "n (h p) (w q) (c i j) -> n h w c i j p q", **sides)
    return rearrange(features, "n (c i j) (h p) (w q) -> n h w c i j p q", **sides)


def check_matrix(matrix: Tensor, block_size: int) -> None:
    pixels = block_size**2
    if matrix.ndim != 2 or matrix.shape[1] != pixels:
        columns = matrix.shape[-1]
        side = round(columns**0.5)
        hint = f"pass block_size={side} or " if side * side == columns else "pass "
        raise ValueError(
            f"the sampling matrix has shape {tuple(matrix.shape)}, but a {block_size} x "
            f"{block_size} block has {pixels} pixels and needs (m, {pixels}); "
            f"{hint}the matrix made for this block size"
        )
    if matrix.shape[0] > pixels:
        raise ValueError(
            f"the sampling matrix has {matrix.shape[0]} rows for {pixels} pixels; "
            "compressive sensing measures at most one number per pixel"
        )


def check_features(features: Tensor, scale: int, side: int) -> None:
    """Raise ValueError unless features ``(batch, C·scale², h, w)`` have whole ``side`` blocks."""
    _, channels, height, width = features.shape
    if channels % scale**2 or height % side or width % side:
        raise ValueError(
            f"the features have shape {tuple(features.shape)}, expected (batch, C x {scale**2}, "
            f"multiple of {side}, multiple of {side}) at scale {scale}"
        )
