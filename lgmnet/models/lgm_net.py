"""LGM-Net: unfolding on features with a learned gradient mapping, in a U-Net."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

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
from lgmnet.models.lgm_net_growth import grow
from lgmnet.models.lgm_net_options import (
    AEGR_INPUTS,
    AVF_BRANCHES,
    AVF_DOWN,
    AVF_UP,
    choose,
)
from lgmnet.models.lgm_net_stages import FDIM, Chain, at_scale
from lgmnet.models.steps import AtOnce, Runner
from lgmnet.models.watching import FIRST, ignore, show
from lgmnet.operators import LinearOperator
from lgmnet.registry import require_choice
from lgmnet.unfolding.blocks import ResidualBlock, conv3x3, radius
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.layout import convolve_together


@MODELS.register("lgm_net")
class LGMNet(UnfoldingNetwork):
    """LGM-Net: pairs of features (X, Z), updated by learned gradients, in a U-Net.

    The network unfolds half-quadratic splitting of ½‖Φx − y‖² + λΨ(z) with z = x, on features.
    A gradient step is a fixed sum of x, ΦᵀΦx, z and Φᵀy. Here a small network (AEGR) computes
    the update of X from these four. A residual network (NSM) updates Z. AVF maps the pair from
    one scale to the next.

    The defaults are the published network. The other values are its ablations:

    Args:
        D: FDIM stages at each scale of the encoder and of the decoder.
        dim, dimf: width of the NSM and of the features, at full resolution.
        scales: resolutions of the U-Net, 1 to 3; 1 is plain unfolding on features.
        mid_factor: the coarsest scale has ``mid_factor * D`` stages.
        data_step: ``aegr``, ``gd_feature``, ``gd_pixel``, ``prl_sigmoid``, ``gin``, ``hqs``.
        aegr_inputs: inputs of AEGR: ``x``, ``gram``, ``z``, ``phity``, or some of them.
        aegr_refine: refine the fused features by two residual blocks.
        aegr_skip: add X to the update of X.
        z_refine: layers on Z before AEGR: ``rb``, ``plain`` (no skip, as in the figure), ``none``.
        variables: ``dual``, or ``single`` for Z ≡ X.
        avf_down: ``avf``, ``strided2``, ``strided4``, ``maxpool``, ``avgpool``, ``unshuffle``.
        avf_branches: branches of AVF-D: ``pool``, ``2``, ``4``, ``8``, or some of them.
        avf_up: ``tconv``, ``shuffle``, ``bilinear``.
        level1_skip: which variables skip the coarsest scale: ``both``, ``x``, ``none``.
        outer_skip: ``x`` adds the first features before the last convolution, or ``none``.
        share_iterations: ``none``; ``iterations``, one FDIM per chain; ``levels``, the decoder
            uses the stages of the encoder.
        phity_skip: add Φᵀy to the output and start the last convolution at zero. Then the
            untrained network returns Φᵀy.

    Shapes:
        measurement ``(batch, m, H/B, W/B)`` -> image ``(batch, 1, H, W)``.

    Paper:     LGM-Net, IEEE Transactions on Multimedia, 2026.
    Original:  the code that the authors published with it.
    Differences from the original: the operator is an argument, not a module global. The
    residual block in the refinement of Z follows the public code, not the figure. ``phity_skip``
    and the ablations are ours. ``prl_sigmoid`` starts its step at Z, the output of the prior.
    """

    stepwise = True

    def __init__(
        self,
        D: int = 4,
        dim: int = 8,
        dimf: int = 8,
        scales: int = 3,
        mid_factor: int = 2,
        data_step: str = "aegr",
        aegr_inputs: tuple[str, ...] = AEGR_INPUTS,
        aegr_refine: bool = True,
        aegr_skip: bool = False,
        z_refine: str = "rb",
        variables: str = "dual",
        avf_down: str = "avf",
        avf_branches: tuple[str, ...] = AVF_BRANCHES,
        avf_up: str = "tconv",
        level1_skip: str = "both",
        outer_skip: str = "x",
        share_iterations: str = "none",
        phity_skip: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("scales", scales, (1, 2, 3)),
            ("variables", variables, ("dual", "single")),
            ("level1_skip", level1_skip, ("both", "x", "none")),
            ("outer_skip", outer_skip, ("x", "none")),
            ("share_iterations", share_iterations, ("none", "iterations", "levels")),
        ):
            require_choice(name, value, known)
        require_positive(D=D, dim=dim, dimf=dimf, mid_factor=mid_factor)
        self.single = variables == "single"
        self.level1_skip, self.outer_skip, self.phity_skip = level1_skip, outer_skip, phity_skip

        # If AEGR does not use Z, only the last Z of a chain is used.
        reads_z = data_step != "aegr" or "z" in aegr_inputs or self.single

        def chain(level: int, count: int) -> Chain:
            scale = 2**level
            distinct = 1 if share_iterations == "iterations" else count
            stages = [
                FDIM(
                    dimf * scale**2,
                    dim * scale**2,
                    scale,
                    data_step=data_step,
                    aegr_inputs=tuple(str(name) for name in aegr_inputs),
                    aegr_refine=aegr_refine,
                    aegr_skip=aegr_skip,
                    z_refine=z_refine,
                    single=self.single,
                    with_prior=reads_z or k + 1 == distinct,
                )
                for k in range(distinct)
            ]
            return Chain(stages, count)

        pair = 1 if self.single else 2
        down = choose("avf_down", avf_down, AVF_DOWN)
        up = choose("avf_up", avf_up, AVF_UP)
        branches = {"branches": tuple(str(b) for b in avf_branches)} if avf_down == "avf" else {}
        widths = [dimf * 4**level for level in range(scales - 1)]

        self.multiple = 2 ** (scales - 1)
        self.start_z = conv3x3(1, 1)
        self.lift = conv3x3(2, pair * dimf)
        self.down_chains = nn.ModuleList(chain(level, D) for level in range(scales - 1))
        self.down_fusions = nn.ModuleList(down(c, 4 * c * pair, **branches) for c in widths)
        self.mid_chain = chain(scales - 1, mid_factor * D)
        self.up_fusions = nn.ModuleList(up(4 * c, c * pair) for c in reversed(widths))
        levels = () if share_iterations == "levels" else reversed(range(scales - 1))
        self.up_chains = nn.ModuleList(chain(level, D) for level in levels)
        self.refine = nn.Sequential(ResidualBlock(dimf), ResidualBlock(dimf))
        self.project = conv3x3(dimf, 1)
        if phity_skip:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

        # Radius of the receptive field of each step, in pixels of its input.
        self.open_reach = radius(self.start_z) + radius(self.lift)
        self.down_reach = max(map(radius, self.down_fusions), default=0)
        self.up_reach = max(map(radius, self.up_fusions), default=0)
        self.close_reach = radius(self.refine) + radius(self.project)

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        return Reconstruction(self.unfold(measurement, operator, AtOnce(), watch))

    def unfold(
        self,
        measurement: Any,
        operator: LinearOperator,
        run: Runner,
        watch: Watch | None = None,
    ) -> Any:
        start = run(operator.adjoint, 0, measurement)
        x, z = run(self.open, self.open_reach, run.keep(start))
        x_first = run.keep(x)
        back_projections = [
            run.view(partial(at_scale, 2**level), start, x_first)
            for level in range(len(self.down_chains) + 1)
        ]

        skips: list[tuple[Any, Any]] = []
        show(watch, start, FIRST)

        def seen(level: int, rising: bool = False) -> Callable[[Any, Any], None]:
            if watch is None:
                return ignore
            context = (level, rising, tuple(skips), x_first, start)
            return lambda x, z: watch(self.read_out(x, z, *context), f"stage at scale 1/{2**level}")

        for level, (chain, fuse) in enumerate(
            zip(self.down_chains, self.down_fusions, strict=True)
        ):
            if level > 0:
                skips.append((run.keep(x), run.keep(z)))
            x, z = chain(x, z, operator, back_projections[level], run, seen(level))
            x, z = run(partial(self.cross, fuse), self.down_reach, x, z)

        coarsest = seen(len(self.down_chains))
        x, z = self.mid_chain(x, z, operator, back_projections[-1], run, coarsest)

        up_chains = self.up_chains if len(self.up_chains) else reversed(self.down_chains)
        levels = reversed(range(len(self.down_chains)))
        for level, fuse, chain in zip(levels, self.up_fusions, up_chains, strict=True):
            x, z = run(partial(self.cross, fuse), self.up_reach, x, z)
            x, z = chain(x, z, operator, back_projections[level], run, seen(level, True))
            if level > 0:
                x, z = run(self.skip, 0, x, z, *skips.pop())

        return run(self.close, self.close_reach, x, z, x_first, start)

    def grow_from(self, smaller: UnfoldingNetwork) -> None:
        """See `UnfoldingNetwork.grow_from`. Larger can be D, dim, dimf and mid_factor."""
        grow(self, smaller, variables=1 if self.single else 2)

    def open(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """The first pair (X, Z), computed from Φᵀy."""
        return self._pair(convolve_together(self.lift, [start, self.start_z(start)]))

    def cross(self, fuse: nn.Module, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The pair at the next scale; ``fuse`` changes the resolution."""
        return self._pair(fuse(x if self.single else x + z))

    def close(self, x: Tensor, z: Tensor, x_first: Tensor, start: Tensor) -> Tensor:
        """The image, computed from the last pair, the first X and Φᵀy."""
        features = self.refine(x) + z
        if self.outer_skip == "x":
            features = features + x_first
        image = self.project(features)
        return start + image if self.phity_skip else image

    def read_out(
        self,
        x: Tensor,
        z: Tensor,
        level: int,
        rising: bool,
        skips: tuple[tuple[Tensor, Tensor], ...],
        x_first: Tensor,
        start: Tensor,
    ) -> Tensor:
        """The image of a pair at a level, as if no further stage followed.

        Args:
            rising: the pair is of the decoder, so the pair of the encoder is added at its level.
        """
        if rising and level > 0:
            x, z = self.skip(x, z, *skips[level - 1])
        for coarse in range(level, 0, -1):
            x, z = self.cross(self.up_fusions[len(self.up_fusions) - coarse], x, z)
            if coarse > 1:
                x, z = self.skip(x, z, *skips[coarse - 2])
        return self.close(x, z, x_first, start)

    def stages(self) -> Iterable[FDIM]:
        for chain in (*self.down_chains, self.mid_chain, *self.up_chains):
            yield from chain.iterations

    def _pair(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self.single:
            return features, features
        x, z = features.chunk(2, dim=1)
        return x, z

    def skip(self, x: Tensor, z: Tensor, x_down: Tensor, z_down: Tensor) -> tuple[Tensor, Tensor]:
        """Add the pair of the encoder to the pair of the decoder."""
        if self.level1_skip == "none":
            return x, z
        x_new = x + x_down
        if self.single:
            return x_new, x_new
        return x_new, z + z_down if self.level1_skip == "both" else z


# Names in the authors' files -> names here, applied in this order.
PUBLISHED_NAMES = (
    (r"^z0\.", "start_z."),
    (r"^body\.conv_first\.", "lift."),
    (r"^body\.conv_last\.", "project."),
    (r"^body\.kd\.", "refine."),
    (r"^body\.mid\.hqsM\.", "mid_chain.iterations."),
    (r"^body\.down(\d)\.hqsD\.", r"down_chains.\1.iterations."),
    (r"^body\.down(\d)\.hqsD1\.conv\.", r"down_fusions.\1.branches.1."),
    (r"^body\.down(\d)\.hqsD1\.conv3\.", r"down_fusions.\1.branches.2."),
    (r"^body\.down(\d)\.hqsD1\.conv5\.", r"down_fusions.\1.branches.3."),
    (r"^body\.down(\d)\.hqsD1\.merge\.", r"down_fusions.\1.merge."),
    (r"^body\.up(\d)\.hqsU\.0\.", r"up_fusions.\1."),
    (r"^body\.up(\d)\.hqsU1\.", r"up_chains.\1.iterations."),
    (r"(iterations\.\d+)\.z\.", r"\1.refine_z."),
    (r"(iterations\.\d+)\.G\.", r"\1.data_step.fuse."),
    (r"(iterations\.\d+)\.init\.", r"\1.refine_x."),
    (r"(iterations\.\d+)\.body\.", r"\1.prior."),
)


def from_published(
    state: Mapping[str, Tensor], matrix: Tensor | None = None, start: Tensor | None = None
) -> Published:
    """Translate the authors' weights. D, dim and dimf are read from the tensors.

    Args:
        matrix, start: must be None; the file contains Φ, and the network has no start matrix.

    Raises:
        ValueError: the file is not from LGM-Net, or a matrix or start was given.
    """
    if matrix is not None or start is not None:
        raise ValueError("LGM-Net's files contain Φ and need no start; give neither of them")
    state = strip_prefix(state)
    probe = "body.mid.hqsM.0.body.0.weight"
    require_tensors("LGM-Net", state, "Phi_weight", "body.conv_first.weight", probe)
    iterations = {m[1] for key in state if (m := re.match(r"body\.down1\.hqsD\.(\d+)\.", key))}
    options = {
        "D": len(iterations),
        "dim": state[probe].shape[0] // 16,
        "dimf": state["body.conv_first.weight"].shape[0] // 2,
    }
    own = {_rename(key): value for key, value in state.items() if key != "Phi_weight"}
    return Published(options, state["Phi_weight"].flatten(1), own)


def _rename(key: str) -> str:
    for pattern, name in PUBLISHED_NAMES:
        key = re.sub(pattern, name, key)
    # We count levels from 0 in the order of execution; the authors from 1, by resolution.
    key = re.sub(r"^(down_\w+)\.([12])", lambda m: f"{m[1]}.{int(m[2]) - 1}", key)
    return re.sub(r"^(up_\w+)\.([12])", lambda m: f"{m[1]}.{2 - int(m[2])}", key)
