"""Products with a constant sparse matrix, of which the transpose is stored too."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

if TYPE_CHECKING:  # it takes time to import
    from scipy.sparse import csr_array

# PyTorch says once that sparse CSR tensors are in beta state.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


class Sparse(NamedTuple):
    """A matrix in compressed rows (CSR).

    starts: ``(rows + 1,)``, int32; row r has the entries ``starts[r]`` to ``starts[r + 1]``.
    columns: ``(entries,)``, int32.
    values: ``(entries,)``.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def of(cls, matrix: "csr_array") -> "Sparse":
        """A matrix of SciPy, in float32."""
        starts, columns = (
            torch.from_numpy(a.astype("int32")) for a in (matrix.indptr, matrix.indices)
        )
        return cls(starts, columns, torch.from_numpy(matrix.data.astype("float32")))

    @classmethod
    def empty(cls, rows: int) -> "Sparse":
        """A matrix without entries, for its shape alone."""
        none = torch.zeros(0)
        return cls(torch.zeros(rows + 1, dtype=torch.int32), none.int(), none)


def product(matrix: Sparse, transpose: Sparse, dense: Tensor) -> Tensor:
    """``matrix @ dense``, for ``dense`` of shape ``(columns, n)``.

    Gradients reach ``dense``, by a product with ``transpose``; there is none for the matrix. It
    works on the meta device, where only the lengths of ``starts`` matter.
    """
    values, others = matrix.values.to(dense.dtype), transpose.values.to(dense.dtype)
    return _product(dense, *matrix[:2], values, *transpose[:2], others)


@torch.library.custom_op("lgmnet::sparse_product", mutates_args=())
def _product(
    dense: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    other_starts: Tensor,
    other_columns: Tensor,
    other_values: Tensor,
) -> Tensor:
    """One operation, so that its arithmetic can be counted and its shape is known before."""
    shape = (len(starts) - 1, len(other_starts) - 1)
    matrix = torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)
    return matrix @ dense


@_product.register_fake
def _shape(dense: Tensor, starts: Tensor, *_: Tensor) -> Tensor:
    return dense.new_empty(starts.shape[0] - 1, dense.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    # Not by save_for_backward: the matrix is no activation.
    ctx.matrix, ctx.transpose = inputs[1:4], inputs[4:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (_product(gradient, *ctx.transpose, *ctx.matrix), *6 * (None,))


_product.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.lgmnet.sparse_product)
def _flops(dense: Any, starts: Any, columns: Any, values: Any, *_: Any, **__: Any) -> int:
    """Two for each entry of the matrix and column of ``dense``."""
    return 2 * values[0] * dense[1]
