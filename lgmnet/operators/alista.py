"""The matrix that FISTA-Net uses in place of Φ in its gradient steps."""

import torch
from torch import Tensor


def alista_matrix(phi: Tensor, tolerance: float | None = None) -> Tensor:
    """W̃ ``(m, B²)`` of Φ ``(m, B²)``: the ALISTA weights, which minimise the coherence with Φ.

    Let a_j be the columns of Φ, normalised. W minimises ‖WᵀA‖_F² subject to w_jᵀa_j = 1
    (J. Liu et al., "ALISTA", ICLR 2019). The problem separates into columns, with the solution
    w_j = (AAᵀ)⁻¹a_j / (a_jᵀ(AAᵀ)⁻¹a_j). Then the norms are restored: W̃ = W diag(‖φ_j‖).

    Args:
        tolerance: eigenvalues of AAᵀ below this share of the largest one count as zero; by default
            the rounding of float64.

    Raises:
        ValueError: a column of Φ is zero.
    """
    wide = phi.double()
    norms = wide.norm(dim=0)
    if not norms.all():
        raise ValueError(
            f"Φ has {int((norms == 0).sum())} zero columns: a pixel that is not measured has no "
            "ALISTA weights; set model.w_tilde: phi"
        )
    columns = wide / norms
    solution = torch.linalg.pinv(columns @ columns.T, rtol=tolerance, hermitian=True) @ columns
    return (norms * solution / (solution * columns).sum(0)).to(phi.dtype)
