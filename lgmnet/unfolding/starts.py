"""The first estimate x⁰, as Φᵀy or a learned or fitted linear map of y."""

import torch
from torch import Tensor, nn

from lgmnet.operators.base import in_full_precision
from lgmnet.operators.block_sampling import make_blocks
from lgmnet.registry import require_choice
from lgmnet.unfolding.fitted import Fitted

RULES = ("regression", "adjoint", "gaussian")
BACK_PROJECTION = "back_projection"
# On what a prior works: every block by itself, or the whole image.
PRIOR_DOMAINS = ("block", "image")
# Standard deviation of a gaussian start (Li and Zhou, AMP-Net, 2020).
GAUSSIAN_STD = 0.01


class LinearStart(Fitted):
    """x⁰ = Qy, block by block.

    `fit` computes Q before training, and Q is saved with the network. Until then Q is NaN, so that
    a missing call is noticed.

    Args:
        measurements: m.
        block_size: side B of a block, in pixels.
        rule: ``regression``, Q = XYᵀ(YYᵀ)⁻¹ over training blocks X with Y = ΦX; ``adjoint``,
            Q = Φᵀ; ``gaussian``, small random entries.
        learned: whether Q is trained.

    Shapes:
        ``(batch, m, H/B, W/B)`` -> ``(batch, 1, H, W)``.
    """

    matrix: Tensor

    def __init__(
        self, measurements: int, block_size: int, rule: str = "regression", learned: bool = False
    ) -> None:
        super().__init__()
        require_choice("start", rule, RULES)
        self.block_size = block_size
        self.rule = rule
        empty = torch.full((block_size**2, measurements), torch.nan)
        if learned:
            self.matrix = nn.Parameter(empty)
        else:
            self.register_buffer("matrix", empty)

    @property
    def needs_blocks(self) -> bool:
        """Whether `fit` uses training blocks."""
        return self.rule == "regression"

    @torch.no_grad()
    def fit(self, phi: Tensor, blocks: Tensor | None = None) -> None:
        """Compute Q for Φ ``(m, B²)``.

        Args:
            blocks: ``(count, B²)`` training blocks in [0, 1], for the regression.

        Raises:
            ValueError: the regression has no blocks, or fewer blocks than measurements.
        """
        if self.rule == "adjoint":
            self.matrix.copy_(phi.T)
        elif self.rule == "gaussian":
            self.matrix.normal_(std=GAUSSIAN_STD)
        elif blocks is None or len(blocks) < len(phi):
            raise ValueError(
                f"a regression start for {len(phi)} measurements needs at least as many training "
                f"blocks, not {0 if blocks is None else len(blocks)}"
            )
        else:
            self.matrix.copy_(regression(phi, blocks))

    @in_full_precision
    def forward(self, measurement: Tensor) -> Tensor:
        return make_blocks(measurement, self.matrix.T, self.block_size)


def first_estimate(
    rule: str, measurements: int | None, block_size: int | None
) -> LinearStart | None:
    """The part that makes x⁰ by one of the `RULES`; None for ``back_projection``, x⁰ = Φᵀy.

    Raises:
        ValueError: an unknown rule, or one that needs blocks where m and B are not given.
    """
    require_choice("start", rule, (*RULES, BACK_PROJECTION))
    if rule == BACK_PROJECTION:
        return None
    if measurements is None or block_size is None:
        raise ValueError(
            f"start is '{rule}', which is a linear map of blocks, but the operator has no blocks; "
            f"set model.start={BACK_PROJECTION}"
        )
    return LinearStart(measurements, block_size, rule)


def check_domain(prior_domain: str, block_size: int | None) -> None:
    """Raise ValueError for an unknown domain, or for blocks where the operator has none."""
    require_choice("prior_domain", prior_domain, PRIOR_DOMAINS)
    if prior_domain == "block" and block_size is None:
        raise ValueError(
            "prior_domain is 'block', but the operator has no blocks; set model.prior_domain=image "
            "and model.start=back_projection"
        )


def regression(phi: Tensor, blocks: Tensor) -> Tensor:
    """Q ``(B², m)`` that minimises the mean of ‖QΦx − x‖² over blocks ``(count, B²)``."""
    x = blocks.double().to(phi.device)
    y = x @ phi.double().T
    return torch.linalg.lstsq(y.T @ y, y.T @ x).solution.T.to(phi.dtype)
