"""AMP-Net (TIP 2021): approximate message passing with a learned noise estimator."""

import re
from collections.abc import Iterable, Mapping

import torch
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
from lgmnet.models.watching import FIRST, show, stage_name
from lgmnet.operators import LinearOperator
from lgmnet.registry import require_choice
from lgmnet.unfolding.blocks import blocks_beyond, conv3x3, join_blocks, split_blocks
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.data_steps import GradientStep
from lgmnet.unfolding.starts import LinearStart

VARIANTS = ("k", "b", "m", "bm")
# If |ΦΦᵀ − I| is above this, `from_published` assumes that Φ was trained.
ORTHONORMAL_TOLERANCE = 1e-4


def noise_estimator(channels: int, entry: nn.Conv2d | None = None) -> nn.Sequential:
    """Four convolutions, the last without bias: N_k on blocks, P_k on the image.

    Args:
        entry: the first convolution; the default takes one image.
    """
    return nn.Sequential(
        conv3x3(1, channels) if entry is None else entry,
        nn.ReLU(),
        conv3x3(channels, channels),
        nn.ReLU(),
        conv3x3(channels, channels),
        nn.ReLU(),
        nn.Conv2d(channels, 1, 3, padding=1, bias=False),
    )


class Stage(nn.Module):
    """One stage on images ``(batch, 1, H, W)``.

    z = x + αΦᵀ(y − Φx) and x⁺ = z − (αΦᵀΦ − I)n with the estimated noise n = N(x). Both together
    are the gradient step at x + n, which needs Φ and Φᵀ once instead of twice. With a
    deblocker P the result is x⁺ − P(x⁺).

    Args:
        entry: first convolution of N; see `noise_estimator`.
    """

    def __init__(
        self,
        channels: int,
        block_size: int,
        learned_step: bool,
        deblock: bool,
        entry: nn.Conv2d | None = None,
    ) -> None:
        super().__init__()
        self.block_size = block_size
        self.denoiser = noise_estimator(channels, entry)
        self.data_step = GradientStep(1.0).requires_grad_(learned_step)
        self.deblocker = noise_estimator(channels) if deblock else None

    def forward(self, image: Tensor, measurement: Tensor, operator: LinearOperator) -> Tensor:
        image = self.data_step(image + self.noise(image), measurement, operator)
        return image if self.deblocker is None else image - self.deblocker(image)

    def noise(self, image: Tensor) -> Tensor:
        """N(x), computed separately for each block."""
        b = self.block_size
        noise = self.denoiser(split_blocks(image, b))
        return join_blocks(noise, image.shape[2] // b, image.shape[3] // b)


@MODELS.register("amp_net_tip")
class AMPNetTIP(UnfoldingNetwork):
    """AMP-Net of Zhang et al.: each stage estimates and removes the noise of a linear step.

    Args:
        measurements, block_size: m and B, from the operator.
        variant: ``bm``, ``b``, ``m`` or ``k``. In ``bm`` and ``b`` each stage ends with a
            deblocker on the whole image. In ``k`` every step size α stays one. The M of the paper
            is a learned Φ, which the config selects: ``sampling.phi`` is ``learned`` for M and BM
            and ``fixed`` for K and B. In all four Φ starts orthonormal.
        stages: K.
        channels: width of denoisers and deblockers.

    Shapes:
        measurement ``(batch, m, H/B, W/B)`` -> image ``(batch, 1, H, W)``.

    Paper:     Z. Zhang, Y. Liu, J. Liu, F. Wen and C. Zhu, "AMP-Net: Denoising-based deep
               unfolding for compressive image sensing", IEEE TIP 30, 2021.
    Original:  github.com/ZhonghaoZ/AMP-Net_TIP
    Differences from the original: the two linear terms of a stage are computed as one, with
    the same result up to rounding. Blocks have any size.
    """

    def __init__(
        self,
        measurements: int,
        block_size: int,
        variant: str = "bm",
        stages: int = 9,
        channels: int = 32,
    ) -> None:
        super().__init__()
        require_choice("variant", variant, VARIANTS)
        require_positive(stages=stages, channels=channels)
        self.start = LinearStart(measurements, block_size, "adjoint", learned=True)
        self.iterations = nn.ModuleList(
            self.make_stage(channels, block_size, variant != "k", "b" in variant)
            for _ in range(stages)
        )
        # A deblocker reads some pixels of the next block, and ΦᵀΦ couples all pixels of a block.
        first = self.iterations[0]
        assert isinstance(first, Stage)
        self.reach = stages * blocks_beyond(first.deblocker, block_size) if first.deblocker else 0

    def make_stage(
        self, channels: int, block_size: int, learned_step: bool, deblock: bool
    ) -> Stage:
        return Stage(channels, block_size, learned_step, deblock)

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        image = self.start(measurement)
        show(watch, image, FIRST)
        for k, stage in enumerate(self.iterations):
            image = stage(image, measurement, operator)
            show(watch, image, stage_name(k))
        return Reconstruction(image)

    def stages(self) -> Iterable[nn.Module]:
        return self.iterations


# Names in the authors' files -> names here. The authors count stages from 1.
PUBLISHED_NAMES = {"denoiser": "denoiser", "deblock": "deblocker", "step": "data_step.step"}


def from_published(
    state: Mapping[str, Tensor], matrix: Tensor | None = None, start: Tensor | None = None
) -> Published:
    """Translate the authors' weights. Variant, stages and channels are read from the tensors.

    If Φ has orthonormal rows, it was not trained: the variant is K or B. With the same tensors
    K and M give the same output, and so do B and BM.

    Args:
        matrix, start: must be None; the file contains Φ and Q.

    Raises:
        ValueError: the file is not from this AMP-Net, or a matrix or start was given.
    """
    if matrix is not None or start is not None:
        raise ValueError("AMP-Net's files (TIP 2021) contain Φ and Q; give neither of them")
    state = strip_prefix(state)
    require_tensors("AMP-Net", state, "A", "Q", "step_1", "denoiser_1.D.0.weight")
    own = {_rename(key): tensor for key, tensor in state.items() if key != "A"}
    options = {
        "variant": _variant(state),
        "stages": sum(key.startswith("step_") for key in state),
        "channels": len(state["denoiser_1.D.0.weight"]),
    }
    return Published(options, state["A"], own)


def _rename(key: str) -> str:
    if key == "Q":
        return "start.matrix"
    match = re.fullmatch(r"(?:(step)_(\d+)|(denoiser|deblock)_(\d+)\.D(\.\d\.\w+))", key)
    if match is None:
        raise ValueError(f"this is not an AMP-Net file (TIP 2021): its tensor {key} is unknown")
    part, number, rest = match[1] or match[3], match[2] or match[4], match[5] or ""
    return f"iterations.{int(number) - 1}.{PUBLISHED_NAMES[part]}{rest}"


def _variant(state: Mapping[str, Tensor]) -> str:
    phi = state["A"].double()
    moved = (phi @ phi.T - torch.eye(len(phi)).to(phi)).abs().max() > ORTHONORMAL_TOLERANCE
    if "deblock_1.D.0.weight" in state:
        return "bm" if moved else "b"
    return "m" if moved else "k"
