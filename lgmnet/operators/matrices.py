"""Create a sampling matrix Φ: random, from training blocks, or from a file."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lgmnet.arrays import read_array

# Ratio -> rows of the matrices for 33 x 33 blocks that were published with ISTA-Net. The rows are
# neither floor nor round of 1089·ratio.
TABLE33 = {
    0.01: 10, 0.04: 43, 0.1: 109, 0.2: 218, 0.25: 272, 0.3: 327, 0.4: 436, 0.5: 545,
}  # fmt: skip

# ‖Φ‖₂ of a usable Φ. Random starts have 0.4 to 2, learned ones up to 3. The first steps of a
# network are chosen for about 1: far above it they diverge, far below it they do nothing.
NORMS = 0.1, 5.0


def measurement_count(ratio: float, block_size: int, rounding: str = "ceil") -> int:
    """Measurements per block, m.

    Args:
        ratio: measurements per pixel, 0 < ratio <= 1.
        rounding: ``ceil`` (LGM-Net, DGU-Net), ``floor`` (CPP-Net, OCTUF), ``round``, or
            ``table33`` (the published matrices for 33 x 33 blocks).
    """
    pixels = block_size**2
    # A product such as 1024 * 0.55 differs from the integer by 1e-13, which ceil must ignore.
    exact = round(ratio * pixels, 9)
    if rounding == "table33":
        if block_size != 33 or ratio not in TABLE33:
            raise ValueError(
                f"rounding 'table33' needs block size 33 and one of the ratios {sorted(TABLE33)}, "
                f"not block size {block_size} and ratio {ratio}; use ceil, floor or round"
            )
        return TABLE33[ratio]
    rules: dict[str, Callable[[float], int]] = {
        "ceil": math.ceil, "floor": math.floor, "round": round,
    }  # fmt: skip
    if rounding not in rules:
        raise ValueError(
            f"unknown rounding '{rounding}', expected one of {', '.join(rules)}, table33"
        )
    return max(1, rules[rounding](exact))


def xavier(m: int, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Normal entries of variance 2 / (m + pixels): the published initial Φ of LGM-Net."""
    return torch.randn(m, pixels, generator=generator) * math.sqrt(2 / (m + pixels))


def gaussian(m: int, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Normal entries of variance 1 / pixels: rows of expected norm one."""
    return torch.randn(m, pixels, generator=generator) / math.sqrt(pixels)


def small_gaussian(m: int, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Normal entries of standard deviation 0.01: the published initial Φ of AMPA-Net."""
    return torch.randn(m, pixels, generator=generator) * 0.01


def orthonormal(m: int, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """A random matrix with orthonormal rows, ΦΦᵀ = I, from a Gaussian matrix."""
    columns = torch.randn(pixels, m, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(columns).Q.T.float().contiguous()


def gram_schmidt(matrix: Tensor) -> Tensor:
    """Orthonormal rows; for every k, the first k span the same space as the first k of the matrix.

    Computed by a Cholesky factor, with no check that would wait for a GPU: if rows are linearly
    dependent, all entries are NaN.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix @ matrix.T)
    rows = torch.linalg.solve_triangular(factor, matrix, upper=False)
    return rows.masked_fill(failed.bool(), torch.nan)


def pca(blocks: Tensor, m: int) -> Tensor:
    """The m leading principal directions of training blocks, strongest first; ΦΦᵀ = I.

    The blocks are not centred. The strongest direction is close to the mean, which Φ must measure.

    Shapes:
        blocks: ``(count, pixels)``, luma in [0, 1].
    """
    return _principal(blocks, m)[0].float().contiguous()


def nested(learned: Sequence[Tensor], blocks: Tensor, m: int) -> Tensor:
    """One Φ for many ratios, made from the learned Φ of some ratios; ΦΦᵀ = I.

    All rows together span the subspace of `pca`; each learned Φ is projected onto it. The first
    rows span the rows of the smallest learned Φ. The next rows, up to the number of rows of the
    next Φ, add directions of that Φ. Directions that do not fit come among the last rows. Each
    group is ordered, strongest first.

    Shapes:
        learned: ``(rows, pixels)`` each.
        blocks: ``(count, pixels)``, luma in [0, 1].

    Raises:
        ValueError: a learned Φ does not fit the blocks, two have the same number of rows, or one
            has m rows or more.
    """
    counts = [len(matrix) for matrix in learned]
    if any(matrix.shape[1] != blocks.shape[1] for matrix in learned):
        raise ValueError(
            f"blocks have {blocks.shape[1]} pixels, but the matrices have "
            f"{', '.join(str(matrix.shape[1]) for matrix in learned)} columns; use matrices of one "
            "block size"
        )
    if len(set(counts)) < len(counts) or max(counts, default=0) >= m:
        raise ValueError(
            f"the matrices have {', '.join(map(str, counts))} rows, expected different numbers, "
            f"all below {m}"
        )
    directions, strength = _principal(blocks, m)
    basis = torch.empty(0, m, dtype=torch.float64)  # in coordinates of the principal directions
    spans = [matrix.double() @ directions.T for matrix in sorted(learned, key=len)]
    for span in [*spans, torch.eye(m, dtype=torch.float64)]:
        rows = torch.linalg.qr(span.T).Q.T
        # The directions of this span that are not in the basis yet.
        new = torch.linalg.svd(basis @ rows.T).Vh[len(basis) :] @ rows
        order = torch.linalg.eigh((new * strength) @ new.T).eigenvectors
        basis = torch.cat([basis, order.flip(1).T @ new])
    return (basis @ directions).float().contiguous()


def _principal(blocks: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The m leading principal directions ``(m, pixels)``, strongest first; their mean squares."""
    if len(blocks) < blocks.shape[1]:
        raise ValueError(
            f"{len(blocks)} blocks cannot span {blocks.shape[1]} pixels; use at least "
            f"{blocks.shape[1]} training blocks"
        )
    wide = blocks.double()
    strength, directions = torch.linalg.eigh(wide.T @ wide)  # ascending
    return directions.flip(1)[:, :m].T, strength.flip(0)[:m] / len(blocks)


def fingerprint(matrix: Tensor) -> str:
    """SHA-256 of Φ as float32. Operators of one block size with equal hashes have the same Φ."""
    array = matrix.detach().float().cpu().contiguous().numpy()
    return hashlib.sha256(array.tobytes()).hexdigest()


def load_matrix(path: Path) -> Tensor:
    """Read Φ, ``(m, pixels)`` in float32, from .npy, .npz, .mat or .safetensors.

    The entries may be floats, integers or booleans (also MATLAB's logical and sparse matrices). If
    the file has several arrays, Φ must have the name ``phi``, ``Phi``, ``matrix`` or ``Qinit``
    (the linear start of ISTA-Net, ``(pixels, m)``).
    """
    names = ("phi", "Phi", "matrix", "Qinit")
    name, matrix = read_array(path, names, "sampling matrix", "'phi' or 'matrix'")
    if matrix.ndim != 2 or matrix.dtype.kind not in "buif":
        raise ValueError(
            f"'{name}' in {path} has shape {matrix.shape} and type {matrix.dtype}, expected "
            "a real matrix (m, pixels)"
        )
    if not np.isfinite(matrix).all():
        raise ValueError(f"'{name}' in {path} contains NaN or infinity; use a finite matrix")
    return torch.from_numpy(matrix.astype(np.float32))


def spectral_norm(matrix: Tensor) -> float:
    """‖Φ‖₂, the largest singular value: the largest factor by which Φ lengthens an image."""
    return float(torch.linalg.matrix_norm(matrix.double(), 2))


def scaled(matrix: Tensor, scale: str) -> Tensor:
    """Φ as in its file (``keep``), or divided by ‖Φ‖₂ (``unit``).

    Raises:
        ValueError: Φ is zero, or is kept although ‖Φ‖₂ is not within `NORMS`.
    """
    norm = spectral_norm(matrix)
    if norm == 0:
        raise ValueError("all entries are 0, so it measures nothing; use another matrix")
    if scale == "unit":
        return (matrix.double() / norm).float()
    low, high = NORMS
    if not low <= norm <= high:
        raise ValueError(
            f"the largest singular value ‖Φ‖₂ is {norm:.4g}, but networks expect about 1 "
            f"({low:g} to {high:g}); set sampling.phi_scale=unit to divide Φ by {norm:.4g} (then y "
            "of a camera with this Φ is divided by it too)"
        )
    return matrix
