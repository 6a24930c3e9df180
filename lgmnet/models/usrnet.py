"""USRNet: half-quadratic splitting for super-resolution with blur, steps chosen by a network."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgmnet.models.base import (
    MODELS,
    Reconstruction,
    UnfoldingNetwork,
    Watch,
    require_tensors,
    strip_prefix,
)
from lgmnet.models.denoisers import ResidualUNet
from lgmnet.models.watching import FIRST, show, stage_name
from lgmnet.operators import BlurDown, LinearOperator
from lgmnet.unfolding.checks import require_positive

# Steps and noise levels are at least this.
SMALLEST = 1e-6


class Schedule(nn.Module):
    """Weights of the data steps and noise levels of the denoiser, from σ and s.

    Args:
        stages: K.
        hidden: width of the two hidden layers.
    """

    def __init__(self, stages: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * stages),
        )

    def forward(self, noise_std: float, scale: int) -> tuple[Tensor, Tensor]:
        """Weights and levels, each ``(K,)``, positive."""
        known = next(self.parameters()).new_tensor([noise_std, float(scale)])
        weights, levels = (F.softplus(self.layers(known)) + SMALLEST).chunk(2)
        return weights, levels


@MODELS.register("usrnet")
class USRNet(UnfoldingNetwork):
    """USRNet: exact data steps and one residual U-Net for all stages, which knows the noise level.

    It needs `BlurDown`: the scale, the kernel (in the data step) and σ, its ``noise_std``, are the
    operator's. So one network serves all scales, kernels and noise levels.

    Args:
        image_channels: of the operator.
        stages: K.
        widths: channels of the U-Net at each scale.
        blocks: residual blocks of a scale.
        hidden: width of the network that chooses weights and noise levels.

    Shapes:
        measurement ``(batch, channels, H/s, W/s)`` -> image ``(batch, channels, H, W)``.

    Paper:     K. Zhang, L. Van Gool and R. Timofte, CVPR 2020, arXiv:2003.10428.
    Original:  github.com/cszn/USRNet
    Differences from the original: the defaults are the tiny network (590,332 values). Theirs is
    ``stages=8 widths=[64,128,256,512] hidden=64``. Data steps are in float64: in float32,
    as theirs, the weights of 4e-6 without noise leave rounding errors of up to 1e-3 in the image.
    """

    def __init__(
        self,
        image_channels: int = 3,
        stages: int = 6,
        widths: tuple[int, ...] = (16, 32, 64, 64),
        blocks: int = 2,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        require_positive(stages=stages, hidden=hidden)
        if len(widths) < 2:
            raise ValueError(f"widths is {list(widths)}, expected at least two numbers of channels")
        self.denoiser = ResidualUNet(image_channels + 1, image_channels, tuple(widths), blocks)
        self.schedule = Schedule(stages, hidden)

    def check_operator(self, operator: LinearOperator) -> None:
        if not isinstance(operator, BlurDown):
            raise ValueError(
                f"usrnet needs a scale and a kernel, which {type(operator).__name__} does not have;"
                " choose sampling.operator=blur_down, or another network"
            )

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        assert isinstance(operator, BlurDown)
        image = F.interpolate(measurement, scale_factor=operator.scale, mode="nearest")
        # Weights go down to 4e-6, and what rounding leaves of a solution is divided by them.
        back_projection = operator.adjoint(measurement.double())
        weights, levels = self.schedule(operator.noise_std, operator.scale)
        show(watch, image, FIRST)
        for k, (weight, level) in enumerate(zip(weights, levels, strict=True)):
            exact = operator.solve(image.double(), weight.double(), back_projection)
            image = exact.to(measurement.dtype)
            noise_map = level.to(image.dtype).expand_as(image[:, :1])
            image = self.denoiser(torch.cat([image, noise_map], dim=1))
            show(watch, image, stage_name(k))
        return Reconstruction(image)

    def stages(self) -> Iterable[nn.Module]:
        return (self.denoiser,)


def from_published(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Translate the authors' weights to options of the network and its state.

    The number of channels of the images is that of ``denoiser.last.weight``.

    Raises:
        ValueError: the file is of another network.
    """
    state = strip_prefix(state)
    require_tensors("USRNet", state, "p.m_head.weight", "p.m_tail.weight", "h.mlp.4.weight")
    scales = sum(key.endswith(".0.res.0.weight") and "m_down" in key for key in state)
    names = published_names(scales)
    own: dict[str, Tensor] = {}
    for key, tensor in state.items():
        theirs = next((name for name in names if key.startswith(f"{name}.")), None)
        if theirs is None:
            raise ValueError(f"this is not a USRNet file: its tensor {key} is unknown")
        ours = names[theirs] + key.removeprefix(theirs).replace(".res.", ".body.")
        is_linear = theirs == "h.mlp" and tensor.ndim == 4  # theirs are 1 x 1 convolutions
        own[ours] = tensor.flatten(1) if is_linear else tensor
    return published_options(own, scales), own


def published_names(scales: int) -> dict[str, str]:
    """Beginnings of names in the authors' files -> here."""
    names = {
        "p.m_head": "denoiser.first",
        "p.m_body": "denoiser.middle",
        "p.m_tail": "denoiser.last",
        "h.mlp": "schedule.layers",
    }
    for k in range(scales):
        names[f"p.m_down{k + 1}"] = f"denoiser.down.{k}"
        names[f"p.m_up{scales - k}"] = f"denoiser.up.{k}"
    return names


def published_options(state: Mapping[str, Tensor], scales: int) -> dict[str, Any]:
    """Options of the network that has these tensors, in our names."""
    blocks = sum(key.startswith("denoiser.middle.") for key in state) // 2
    coarser = [len(state[f"denoiser.down.{k}.{blocks}.weight"]) for k in range(scales)]
    return {
        "stages": len(state["schedule.layers.4.weight"]) // 2,
        "widths": (len(state["denoiser.first.weight"]), *coarser),
        "blocks": blocks,
        "hidden": len(state["schedule.layers.0.weight"]),
    }
