"""Deep ADMM-Net: ADMM with learned filters, penalty functions and step sizes, for MRI."""

import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.models.base import MODELS, OtherNetwork, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.ista_transforms import dct_matrix
from lgmnet.models.watching import show, stage_name
from lgmnet.operators import FourierMask, LinearOperator
from lgmnet.unfolding.blocks import soft_threshold
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.piecewise_linear import PiecewiseLinear, knots

# Initial values of the authors' code: weights ρ, steps η and threshold.
WEIGHT, STEP, THRESHOLD = 0.2, 1.6, 0.05


def dct_atoms() -> Tensor:
    """The 3 x 3 cosine patterns without the constant one, ``(8, 3, 3)``.

    The vertical frequency changes fastest.
    """
    cosines = dct_matrix(3)
    atoms = torch.einsum("vp,hq->hvpq", cosines, cosines).reshape(9, 3, 3)
    return atoms[1:].to(torch.get_default_dtype())


class Filters(nn.Module):
    """L filters ``(L, 3, 3)``. Each is a learned mixture of `dct_atoms`, so its mean is zero.

    Before training, filter l is atom l.
    """

    atoms: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("atoms", dct_atoms(), persistent=False)
        self.mixture = nn.Parameter(torch.eye(count, len(self.atoms)))

    def forward(self) -> Tensor:
        return torch.einsum("lj,jpq->lpq", self.mixture, self.atoms)


def convolve(image: Tensor, filters: Tensor) -> Tensor:
    """Circular convolution with each filter: ``(batch, 1, H, W)`` -> ``(batch, L, H, W)``."""
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="circular"), filters.flip(1, 2)[:, None])


def convolve_transposed(features: Tensor, filters: Tensor) -> Tensor:
    """The transpose of `convolve`."""
    return F.conv2d(F.pad(features, (1, 1, 1, 1), mode="circular"), filters[None])


class ReconstructionStep(nn.Module):
    """X: the minimiser of ½‖Φx − y‖² + ½ Σ ρ_l ‖H_l x − (z_l − β_l)‖²."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.filters = Filters(count)
        self.weights = nn.Parameter(torch.full((count,), WEIGHT))

    def forward(
        self, back_projection: Tensor, split: Tensor | None, operator: FourierMask
    ) -> Tensor:
        """``split`` is z − β ``(batch, L, H, W)``; None means zeros."""
        filters, target = self.filters(), back_projection
        if split is not None:
            weighted = self.weights[:, None, None] * filters
            target = target + convolve_transposed(split, weighted)
        return operator.solve_filtered(target, filters, self.weights)


class PenaltyStep(nn.Module):
    """C, Z and M: c = Dx, z = S(c + β), β⁺ = β + η(c − z). S is piecewise linear."""

    def __init__(self, count: int, knot_count: int) -> None:
        super().__init__()
        self.filters = Filters(count)
        self.shrinkage = PiecewiseLinear(count, soft_threshold(knots(knot_count), THRESHOLD))
        self.steps = nn.Parameter(torch.full((count,), STEP))

    def forward(self, image: Tensor, multiplier: Tensor | float) -> tuple[Tensor, Tensor]:
        """z − β⁺ and β⁺, both ``(batch, L, H, W)``."""
        code = convolve(image, self.filters())
        shrunk = self.shrinkage(code + multiplier)
        moved = multiplier + self.steps[:, None, None] * (code - shrunk)
        return shrunk - moved, moved


@MODELS.register("admm_net")
class ADMMNet(UnfoldingNetwork):
    """Deep ADMM-Net: ADMM for min ½‖Φx − y‖² + Σ λ_l g(D_l x), with all parts learned.

    Before training it is this algorithm with cosine filters and soft thresholds of 0.05. The stages
    share no weights. The operator must be a `FourierMask` of real images, because each stage
    divides by ΦᵀΦ + Σ ρ_l H_lᵀH_l at every frequency.

    Args:
        stages: N. A final X step follows the stages.
        filters: L, at most 8.
        knots: number of knots of the piecewise linear functions, equally spaced in [-1, 1].

    Shapes:
        measurement ``(batch, 2, H, W)`` -> image ``(batch, 1, H, W)``.

    Raises:
        ValueError: in the constructor, a number is out of range; in ``forward``, another operator
            was given.

    Paper:     Y. Yang, J. Sun, H. Li and Z. Xu, NIPS 2016; TPAMI 2020, arXiv:1705.06869.
    Original:  github.com/yangyan92/Deep-ADMM-Net (MATLAB)
    Differences from the original: F is orthonormal, so our y is 1/√(H W) times theirs; the image is
    the same. If a mask has k but not −k, the authors take the real part of a division by the mask;
    here the X step is the exact minimiser over real images. The published masks have both k and −k.
    The authors train with L-BFGS in float64 on the loss ‖x̂ − x‖/‖x‖, and score |x̂| by the PSNR.
    Their files named stage 7 and 14 have 9 and 16 ``stages``.
    """

    def __init__(self, stages: int = 5, filters: int = 8, knots: int = 101) -> None:
        super().__init__()
        require_positive(stages=stages, filters=filters)
        if filters > 8:
            raise ValueError(f"filters is {filters}, expected 1 to 8: 3 x 3 has 8 cosine patterns")
        self.data_steps = nn.ModuleList(ReconstructionStep(filters) for _ in range(stages))
        self.priors = nn.ModuleList(PenaltyStep(filters, knots) for _ in range(stages))
        self.last_step = ReconstructionStep(filters)

    def check_operator(self, operator: LinearOperator) -> None:
        if not isinstance(operator, FourierMask) or operator.channels != 1:
            raise ValueError(
                f"admm_net was given {type(operator).__name__} with {operator.channels} image "
                "channels, expected FourierMask with 1; for other operators use admm_csnet"
            )

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        self.check_operator(operator)
        assert isinstance(operator, FourierMask)
        back_projection = operator.adjoint(measurement)
        split, multiplier = None, 0.0
        for k, (data_step, prior) in enumerate(zip(self.data_steps, self.priors, strict=True)):
            image = data_step(back_projection, split, operator)
            show(watch, image, stage_name(k))
            split, multiplier = prior(image, multiplier)
        image = self.last_step(back_projection, split, operator)
        show(watch, image, "last step")
        return Reconstruction(image)

    def stages(self) -> Iterable[nn.Module]:
        return self.priors


# Kind of a layer in the authors' files -> its tensors here, in the order of the file.
PUBLISHED_LAYERS = {
    "X": ("filters.mixture", "weights"),
    "Convo": ("filters.mixture",),
    "Non": ("shrinkage.values",),
    "Multi": ("steps",),
}


def from_published(state: Mapping[str, Tensor]) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Translate the authors' weights to the options and the state of the network.

    Args:
        state: the cell array ``net.layers``, read by `lgmnet.weights.foreign.load_foreign`. Its
            keys are ``{index}.{kind}.{number}``, such as ``0.X_org.0``.

    Raises:
        ValueError: the file belongs to another network.
    """
    if "0.X_org.0" not in state or "1.Convo.0" not in state:
        raise OtherNetwork(
            "this is not a weights file of Deep ADMM-Net: it has no layers X_org and Convo "
            f"(its first tensors: {', '.join(list(state)[:4]) or 'none'})"
        )
    layers = 1 + max(int(key.split(".")[0]) for key in state)
    stages, rest = divmod(layers, 4)
    own = {}
    for key, tensor in state.items():
        found = re.fullmatch(r"(\d+)\.(X|Convo|Non|Multi)(?:_\w+|_?lin\w+)?\.(\d)", key)
        if found is None or rest != 1:
            raise ValueError(
                f"this is not a weights file of Deep ADMM-Net: {layers} layers, including {key}"
            )
        stage, place = divmod(int(found[1]), 4)
        part = f"priors.{stage}" if place else f"data_steps.{stage}"
        part = "last_step" if stage == stages else part
        # In the authors' files a column is a filter.
        tensor = tensor.flatten() if 1 in tensor.shape else tensor.T
        own[f"{part}.{PUBLISHED_LAYERS[found[2]][int(found[3])]}"] = tensor.contiguous()
    values = own["priors.0.shrinkage.values"]
    return {"stages": stages, "filters": len(values), "knots": values.shape[1]}, own
