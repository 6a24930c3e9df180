"""FISTA-Net: accelerated gradient steps, and one learned transform for all stages."""

import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.models.base import (
    MODELS,
    Published,
    Reconstruction,
    UnfoldingNetwork,
    Watch,
    require_tensors,
    strip_prefix,
)
from lgmnet.models.watching import FIRST, show, stage_name, watch_blocks
from lgmnet.operators import LinearOperator, ParallelBeam
from lgmnet.operators.alista import alista_matrix
from lgmnet.operators.base import in_full_precision
from lgmnet.operators.block_sampling import make_blocks
from lgmnet.operators.parallel_beam import require_beam
from lgmnet.registry import require_choice
from lgmnet.unfolding.blocks import blocks_beyond, join_blocks, soft_threshold, split_measurement
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.fitted import Fitted
from lgmnet.unfolding.starts import BACK_PROJECTION, check_domain, first_estimate

# Filtered back projection, as x⁰ and as W̃ᵀ.
FBP = "fbp"
W_TILDE = ("phi", "alista", FBP)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """The 3 x 3 convolution of this network: Xavier-normal weights, zero bias."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.xavier_normal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def transform(channels: int) -> nn.Sequential:
    """Four convolutions, ReLU between them."""
    layers: list[nn.Module] = [conv(channels, channels)]
    for _ in range(3):
        layers += [nn.ReLU(), conv(channels, channels)]
    return nn.Sequential(*layers)


class TransformPrior(nn.Module):
    """r + G(F̃(s)) with s = soft(F(D(r)), θ).

    Second output: in training mode the symmetry residual F̃(F(D(r))) − D(r), else None. Third
    output: s. Both are ``(batch, C, H, W)``.

    Args:
        entry: D; the default takes one image.
    """

    def __init__(self, channels: int, entry: nn.Conv2d | None = None) -> None:
        super().__init__()
        self.entry = conv(1, channels) if entry is None else entry
        self.analysis = transform(channels)
        self.synthesis = transform(channels)
        self.exit = conv(channels, 1)

    def forward(self, image: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        features = self.entry(image)
        code = self.analysis(features)
        sparse = soft_threshold(code, threshold)
        change = self.exit(self.synthesis(sparse))
        # The residual costs one more synthesis, so only training computes it.
        residual = self.synthesis(code) - features if self.training else None
        return image + change, residual, sparse


class Schedule(nn.Module):
    """Step size μ, threshold θ and momentum ρ of stage k = 0, 1, …, from six trained scalars.

    With sp = softplus: μ = sp(w k + c), θ = sp(w k + c), each with its own slope w and offset c,
    and ρ = (sp(w k + c) − sp(c)) / sp(w k + c), which is 0 at the first stage. With the initial
    slopes μ and θ fall and ρ rises; training may change this.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor([-0.2, 0.1]))
        self.threshold = nn.Parameter(torch.tensor([-0.5, -2.0]))
        self.momentum = nn.Parameter(torch.tensor([0.5, 0.0]))

    def forward(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        lines = torch.stack([self.step, self.threshold, self.momentum])
        step, threshold, growth = F.softplus(lines[:, 0] * k + lines[:, 1])
        return step, threshold, (growth - F.softplus(self.momentum[1])) / growth


class AlistaAdjoint(Fitted):
    """W̃ᵀ in place of Φᵀ: ``(batch, m, H/B, W/B)`` -> ``(batch, 1, H, W)``."""

    matrix: Tensor

    def __init__(self, measurements: int, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size
        self.register_buffer("matrix", torch.full((measurements, block_size**2), torch.nan))

    @property
    def needs_blocks(self) -> bool:
        return False

    @torch.no_grad()
    def fit(self, phi: Tensor, blocks: Tensor | None = None) -> None:
        self.matrix.copy_(alista_matrix(phi))

    @in_full_precision
    def forward(self, measurement: Tensor) -> Tensor:
        return make_blocks(measurement, self.matrix, self.block_size)


def require_dense(operator: LinearOperator) -> ParallelBeam:
    """The operator; ValueError if it has no dense matrix that W̃ can be made of."""
    if not isinstance(operator, ParallelBeam):
        raise ValueError(
            "w_tilde is 'alista', which is made of a matrix Φ, but the operator has none; set "
            "model.w_tilde=phi"
        )
    operator.check_dense()
    return operator


@MODELS.register("fista_net")
class FISTANet(UnfoldingNetwork):
    """FISTA-Net: r = v − μ W̃ᵀ(Φv − y), x⁺ = T(r; θ), v⁺ = x⁺ + ρ(x⁺ − x); all stages share T.

    Args:
        measurements, block_size: m and B, from the operator; None where it has no blocks.
        stages: K.
        channels: width of the transform.
        start: x⁰ by ``regression`` over training blocks; ``adjoint``, the Φᵀ before training; or
            ``back_projection``, Φᵀy. The first two need blocks. ``fbp`` is for tomography: filtered
            back projection.
        w_tilde: W̃ is made of a fixed Φ before training (``alista``), as in the paper, or is Φ
            itself (``phi``). The default is not the paper's network: it serves a learned Φ too, and
            weights whose config does not name W̃ were trained with it. configs/fista_net.yaml
            has ``alista``. In tomography it serves small images (see `ParallelBeam.alista`), and
            ``fbp`` all: W̃ᵀ is filtered back projection, so every data step is nearly exact.
        nonneg: whether T ends with a ReLU.
        prior_domain: T on each ``block`` separately, or on the whole ``image``.
        symmetry_weight: weight of the penalty ``symmetry``, which is the sum over the stages of
            the mean squared F̃(F(D(r))) − D(r).
        sparsity_weight: weight of the penalty ``sparsity``, which is the sum over the stages of
            the mean absolute coefficient after thresholding. Only training computes penalties.

    Shapes:
        measurement as the operator has it -> image ``(batch, 1, H, W)``.

    Paper:     J. Xiang, Y. Dong and Y. Yang, IEEE TMI 2021, arXiv:2008.02683.
    Original:  github.com/jinxixiang/FISTA-Net
    Differences from the original: the default is for block compressive sensing instead of
    tomography: x⁰ is linear in y and not a regularised inversion, and T works on every block
    separately. configs/ct_fista_net.yaml is for tomography; its W̃ is not the paper's by default.
    W̃ is computed exactly, because projected gradients with step 0.1 diverge at ratios of 4 % and
    below. The data step is that of M5FISTANetPlus; the preconditioned Newton step of M5FISTANet
    is not here. If paper and public code differ, we follow the code: the slopes of the schedule
    have any sign (paper: w < 0 for μ and θ, w > 0 for ρ); the symmetry penalty is in feature
    space (paper: on the image); the sparsity penalty is after thresholding (paper: before); both
    are means (paper: norms); T ends with a ReLU. The loss of the code adds 0.1 mean |x̂ − x|,
    which is not in the paper. It is ``training.l1_weight``, because a network does not get x.
    """

    def __init__(
        self,
        measurements: int | None = None,
        block_size: int | None = None,
        stages: int = 7,
        channels: int = 32,
        start: str = "regression",
        w_tilde: str = "phi",
        nonneg: bool = True,
        prior_domain: str = "block",
        symmetry_weight: float = 0.01,
        sparsity_weight: float = 0.001,
    ) -> None:
        super().__init__()
        require_choice("w_tilde", w_tilde, W_TILDE)
        check_domain(prior_domain, block_size)
        require_positive(stages=stages, channels=channels)
        self.filtered_start = start == FBP
        rule = BACK_PROJECTION if self.filtered_start else start
        self.start = first_estimate(rule, measurements, block_size)
        self.w_tilde = w_tilde
        self.alista: AlistaAdjoint | None = None  # of blocks; a beam makes its own W̃
        if w_tilde == "alista" and measurements is not None and block_size is not None:
            self.alista = AlistaAdjoint(measurements, block_size)
        self.schedule = Schedule()
        self.prior = self.make_prior(channels)
        self.stage_count = stages
        self.nonneg = nonneg
        self.prior_domain = prior_domain
        if prior_domain == "block":
            self.reach = 0
        elif block_size is not None:
            # Each stage sees a little beyond a block, and ΦᵀΦ couples all of that block.
            self.reach = stages * blocks_beyond(self.prior, block_size)
        self.symmetry_weight = symmetry_weight
        self.sparsity_weight = sparsity_weight

    def make_prior(self, channels: int) -> nn.Module:
        return TransformPrior(channels)

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        rows, columns = measurement.shape[2:]
        if self.prior_domain == "block":
            measurement = split_measurement(measurement)
        image = point = self.first_image(measurement, operator)
        watch = watch_blocks(watch, rows, columns) if self.prior_domain == "block" else watch
        show(watch, image, FIRST)
        symmetry, sparsity = [], []
        for k in range(self.stage_count):
            step, threshold, momentum = self.schedule(k)
            change = step * self.back_project(operator(point) - measurement, operator)
            estimate = self.data_step(point, change)
            previous = image
            image, residual, sparse = self.prior(estimate, threshold)
            image = image.relu() if self.nonneg else image
            show(watch, image, stage_name(k))
            point = image + momentum * (image - previous)
            if self.training:
                symmetry.append(residual.square().mean())
                sparsity.append(sparse.abs().mean())
        if self.prior_domain == "block":
            image = join_blocks(image, rows, columns)
        if not self.training:
            return Reconstruction(image)
        penalties = {
            "symmetry": self.symmetry_weight * sum(symmetry),
            "sparsity": self.sparsity_weight * sum(sparsity),
        }
        return Reconstruction(image, penalties)

    def check_operator(self, operator: LinearOperator) -> None:
        if self.filtered_start:
            require_beam("start 'fbp'", operator)
        if self.w_tilde == FBP:
            require_beam("w_tilde 'fbp'", operator)
        if self.w_tilde == "alista" and self.alista is None:
            require_dense(operator)

    def first_image(self, measurement: Tensor, operator: LinearOperator) -> Tensor:
        """x⁰."""
        if self.filtered_start:
            return require_beam("start 'fbp'", operator).fbp(measurement)
        return operator.adjoint(measurement) if self.start is None else self.start(measurement)

    def data_step(self, point: Tensor, change: Tensor) -> Tensor:
        """v − μ W̃ᵀ(Φv − y), the input of the prior."""
        return point - change

    def back_project(self, residual: Tensor, operator: LinearOperator) -> Tensor:
        """W̃ᵀ applied to a measurement."""
        if self.w_tilde == FBP:
            return require_beam("w_tilde 'fbp'", operator).fbp(residual)
        if self.w_tilde == "phi":
            return operator.adjoint(residual)
        if self.alista is None:
            return require_dense(operator).alista(residual)
        if any(True for _ in operator.parameters()):
            raise ValueError(
                "w_tilde is 'alista', which needs a fixed Φ, but Φ is learned; set "
                "sampling.phi: fixed, or model.w_tilde: phi"
            )
        return self.alista(residual)

    def learned_values(self) -> dict[str, list[float]]:
        triples = [self.schedule(k) for k in range(self.stage_count)]
        names = ("step", "threshold", "momentum")
        return {n: [float(t[k]) for t in triples] for k, n in enumerate(names)}

    def stages(self) -> Iterable[nn.Module]:
        # All stages run one module. It is listed once; each call of it is recomputed.
        return (self.prior,)


SCALARS = {"mu": "step", "theta": "threshold", "rho": "momentum"}


def from_published(
    state: Mapping[str, Tensor], matrix: Tensor | None = None, start: Tensor | None = None
) -> Published:
    """Translate the authors' weights, with W̃ = Φ.

    The authors' M5FISTANet has the same tensors but a preconditioned step instead of the gradient
    step. Its weights give wrong results here.

    Args:
        matrix: Φ ``(m, B²)``; the authors' files do not contain it.
        start: Q ``(B², m)``; without it x⁰ is Φᵀy.

    Raises:
        ValueError: Φ is missing, Q has another shape, the file is of another network, or its
            copies of the shared transform differ.
    """
    state = strip_prefix(state)
    require_tensors("FISTA-Net", state, "w_theta", "bb.conv_D.weight")
    if matrix is None:
        raise ValueError("FISTA-Net's files do not contain Φ; give it with --matrix")
    if start is not None and start.shape != matrix.T.shape:
        raise ValueError(
            f"the start has shape {tuple(start.shape)}, but Φ {tuple(matrix.shape)} needs "
            f"{tuple(matrix.T.shape)}"
        )
    own = {"start.matrix": matrix.T if start is None else start}
    for theirs, ours in SCALARS.items():
        pair = [state[f"w_{theirs}"].reshape(()), state[f"b_{theirs}"].reshape(())]
        own[f"schedule.{ours}"] = torch.stack(pair)
    stages = 0
    for key, tensor in state.items():
        copied = re.fullmatch(r"fcs\.(\d+)\.(.+)", key)
        if copied:
            stages = max(stages, int(copied[1]) + 1)
            check_copy(key, tensor, state.get(f"bb.{copied[2]}"))
        elif key.startswith("bb."):
            own[f"prior.{own_name(key)}"] = tensor
        elif not re.fullmatch(r"[wb]_(mu|theta|rho)", key):
            raise ValueError(f"this is not a FISTA-Net file: its tensor {key} is unknown")
    options = {"stages": stages, "start": "adjoint" if start is None else "regression"}
    return Published(options, matrix, own)


def check_copy(key: str, tensor: Tensor, shared: Tensor | None) -> None:
    if shared is None or not torch.equal(tensor, shared):
        raise ValueError(
            f"{key} differs from the transform that all stages share (bb.*); the file was trained "
            "with other code than FISTA-Net's"
        )


def own_name(key: str) -> str:
    """``bb.conv2_forward.weight`` -> ``analysis.2.weight``."""
    found = re.fullmatch(r"bb\.conv(_D|_G|[1-4]_forward|[1-4]_backward)\.(weight|bias)", key)
    if found is None:
        raise ValueError(f"this is not a FISTA-Net file: its tensor {key} is unknown")
    if found[1] in ("_D", "_G"):
        return f"{'entry' if found[1] == '_D' else 'exit'}.{found[2]}"
    part = "analysis" if found[1].endswith("forward") else "synthesis"
    return f"{part}.{2 * int(found[1][0]) - 2}.{found[2]}"
