"""LoRun: one denoiser for all stages, with a low-rank change of its weights in each stage."""

import copy
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, Watch
from lgmnet.models.denoisers import Transformer, UNet, residual_unet
from lgmnet.models.dual_path import DualPath
from lgmnet.models.half_shuffle import HST
from lgmnet.models.watching import FIRST, show, stage_name
from lgmnet.operators import BlurDown, LinearOperator
from lgmnet.registry import require_choice
from lgmnet.unfolding.checks import require_positive
from lgmnet.unfolding.data_steps import GradientStep, NoStep, QuadraticStep
from lgmnet.unfolding.low_rank import Adapters

SHARING = ("block1", "independent", "shared", "lora")
ALGORITHMS: dict[str, Callable[[float], GradientStep | QuadraticStep | NoStep]] = {
    "pgd": GradientStep,
    "hqs": QuadraticStep,
    "none": NoStep,
}
DENOISERS: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
    "transformer": Transformer,
    "dpfb": DualPath,
    "residual_unet": residual_unet,
    "hst": HST,
}
STARTS = ("adjoint", "nearest", "bicubic")
NOISE_CHANNELS = ("none", "map")
# ρ, λ and μ before training.
START = 0.5
# The noise level is a square root, which has no gradient at zero.
SMALLEST_VARIANCE = 1e-6


class Stage(nn.Module):
    """One stage on images ``(batch, c, H, W)``: a data step with ρ or μ, then a denoiser.

    The noise to be removed has variance ρλ (PGD), λ/μ (HQS) or λ (no data step). If the denoiser
    does not use the variance, there is no λ.

    Args:
        algorithm: see `ALGORITHMS`.
        tells_variance: whether the denoiser needs the variance.
        noise_map: whether it gets the noise level √variance as another channel.
        denoiser: of this stage only; without it, pass the shared denoiser to `forward`.
        adapters: the changes of this stage to the weights of the shared denoiser.
        step: ρ or μ before training.
    """

    def __init__(
        self,
        algorithm: str,
        tells_variance: bool,
        noise_map: bool,
        denoiser: nn.Module | None = None,
        adapters: Adapters | None = None,
        step: float = START,
    ) -> None:
        super().__init__()
        self.data_step = ALGORITHMS[algorithm](step)
        self.regularisation = nn.Parameter(torch.tensor(START)) if tells_variance else None
        self.noise_map = noise_map
        self.denoiser = denoiser
        self.adapters = adapters

    def forward(
        self,
        image: Tensor,
        measurement: Tensor,
        operator: LinearOperator,
        backbone: nn.Module | None = None,
    ) -> Tensor:
        image = self.data_step(image, measurement, operator)
        denoiser = self.denoiser or backbone
        if denoiser is None:
            raise ValueError("this stage has no denoiser; pass the shared one as backbone")
        variance = 0.0 if self.regularisation is None else self.variance(self.regularisation)
        if self.noise_map:
            level = torch.as_tensor(variance).clamp_min(SMALLEST_VARIANCE).sqrt()
            image = torch.cat([image, level.expand_as(image[:, :1])], dim=1)
        if self.adapters is None:
            return denoiser(image, variance)
        return self.adapters(denoiser, image, variance)

    def variance(self, regularisation: Tensor) -> Tensor:
        """ρλ, λ/μ or λ."""
        if isinstance(self.data_step, NoStep):
            return regularisation
        if isinstance(self.data_step, GradientStep):
            return self.data_step.step * regularisation
        return regularisation / self.data_step.weight

    def adopt(self, trained: "Stage", backbone: nn.Module) -> None:
        """Copy the scalars of a trained stage, and refresh the adapters for a new backbone."""
        self.data_step.load_state_dict(trained.data_step.state_dict())
        if self.regularisation is not None and trained.regularisation is not None:
            self.regularisation.copy_(trained.regularisation)
        if self.adapters is not None:
            self.adapters.refresh(backbone)

    def merge(self, backbone: nn.Module) -> None:
        """Replace the adapters by a separate denoiser for this stage."""
        self.denoiser = copy.deepcopy(backbone).requires_grad_(True)
        if self.adapters is not None:
            self.denoiser.load_state_dict(self.adapters.weights(backbone), strict=False)
        self.adapters = None


@MODELS.register("lorun")
class LoRun(UnfoldingNetwork):
    """Proximal gradient descent or half-quadratic splitting with a learned denoiser.

    Args:
        sharing: ``lora``, one frozen denoiser (the backbone) with low-rank adapters per stage;
            ``independent``, one denoiser per stage (Block-K); ``shared``, one denoiser for all
            stages (Block-K-share); ``block1``, a single stage, for any value of ``stages``.
        stages: K.
        algorithm: ``pgd``, which needs Φ and Φᵀ, or ``hqs``, which needs `LinearOperator.solve`
            too; ``none``, a network without data steps, for comparison.
        denoiser: ``unet``, ``transformer``, ``dpfb``, the dual-path block of CPP-Net,
            ``residual_unet``, that of USRNet-tiny, or ``hst``, the half-shuffle Transformer of
            DAUHST, for spectral images.
        width: channels of the denoiser at full resolution; 0 selects its default.
        noise_channel: ``map`` gives the noise level to the denoiser as another channel.
        gamma: rank of the adapters, as a percentage of the full rank.
        exclude, excluded_mode, train_bias, train_norm: see `Adapters`.
        start: x⁰: ``adjoint``, Φᵀy; of super-resolution also ``nearest`` and ``bicubic``.
        step: ρ or μ before training. The largest stable ρ is 2 divided by the largest eigenvalue
            of ΦᵀΦ, which is about 1/s² for super-resolution.
        image_channels: c, from the operator. The denoiser sees all channels together.

    Shapes:
        measurement as the operator has it -> image ``(batch, c, H, W)``.

    Paper:     LoRun, low-rank adapted unfolding. The authors' code is not public.
    Differences from the original: the paper does not state how ρ and λ enter the denoiser,
    its widths, which layers are adapted, and the spread of the random matrices.
    docs/lorun.md lists every guess. Here λ exists only if the denoiser uses it, and μ is kept
    positive. The parameter counts agree with the published ones within 2 % for the U-Net and the
    dual path. The Transformer has 104,589 (published: 0.10 M) and 54,775 (published: 0.06 M).
    """

    inside_stages = ("backbone",)

    def __init__(
        self,
        sharing: str = "lora",
        stages: int = 9,
        algorithm: str = "pgd",
        denoiser: str = "unet",
        width: int = 0,
        noise_channel: str = "none",
        gamma: float = 10.0,
        exclude: tuple[str, ...] = (),
        excluded_mode: str = "per_stage_full",
        train_bias: bool = False,
        train_norm: bool = False,
        start: str = "adjoint",
        step: float = START,
        image_channels: int = 1,
    ) -> None:
        super().__init__()
        require_choice("sharing", sharing, SHARING)
        require_choice("algorithm", algorithm, ALGORITHMS)
        require_choice("denoiser", denoiser, DENOISERS)
        require_choice("noise_channel", noise_channel, NOISE_CHANNELS)
        require_choice("start", start, STARTS)
        if not step > 0:
            raise ValueError(f"step is {step}, expected a number above 0")
        require_positive(stages=stages)
        noise_map = noise_channel == "map"
        tells_variance = noise_map or denoiser == "dpfb"

        def new_denoiser() -> nn.Module:
            sizes = {"width": width} if width else {}
            inputs = image_channels + noise_map
            return DENOISERS[denoiser](inputs=inputs, outputs=image_channels, **sizes)

        self.sharing, self.start = sharing, start
        self.design = {
            "image_channels": image_channels,
            "algorithm": algorithm,
            "denoiser": denoiser,
            "width": width,
            "noise_channel": noise_channel,
        }
        self.backbone = None if sharing == "independent" else new_denoiser()
        self.iterations = nn.ModuleList()
        for _ in range(1 if sharing == "block1" else stages):
            own = new_denoiser() if sharing == "independent" else None
            adapters = None
            if self.backbone is not None and sharing == "lora":
                self.backbone.requires_grad_(False)
                adapters = Adapters(
                    self.backbone, gamma, exclude, excluded_mode, train_bias, train_norm
                )
            self.iterations.append(Stage(algorithm, tells_variance, noise_map, own, adapters, step))

    def check_operator(self, operator: LinearOperator) -> None:
        if self.start != "adjoint" and not isinstance(operator, BlurDown):
            raise ValueError(
                f"start is '{self.start}', which enlarges y, but {type(operator).__name__} is not "
                "super-resolution; set model.start=adjoint"
            )

    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        image = getattr(operator, self.start)(measurement)
        show(watch, image, FIRST)
        for k, stage in enumerate(self.iterations):
            image = stage(image, measurement, operator, self.backbone)
            show(watch, image, stage_name(k))
        return Reconstruction(image)

    def stages(self) -> Iterable[nn.Module]:
        return self.iterations

    def _stages(self) -> list[Stage]:
        return list(cast(Iterable[Stage], self.iterations))

    @torch.no_grad()
    def adopt(self, trained: "LoRun") -> None:
        """Copy the denoiser of a trained network as backbone, and its ρ and λ as initial values.

        If there are more stages than in ``trained``, the others copy its last stage. Adapters are
        unchanged: in a new network they are zero.

        Raises:
            ValueError: ``trained`` has another denoiser, or one for each stage.
        """
        if self.backbone is None or trained.backbone is None:
            raise ValueError(
                "a network with sharing 'independent' has one denoiser per stage and no "
                "backbone; train a network with sharing 'shared' or 'block1'"
            )
        for key, value in self.design.items():
            if trained.design[key] != value:
                raise ValueError(
                    f"the backbone has {key} = {trained.design[key]}, but model.{key} is {value}; "
                    "change it, or choose another backbone"
                )
        self.backbone.load_state_dict(trained.backbone.state_dict())
        theirs = trained._stages()
        for k, stage in enumerate(self._stages()):
            stage.adopt(theirs[min(k, len(theirs) - 1)], self.backbone)

    @torch.no_grad()
    def merged(self) -> "LoRun":
        """A copy with one merged denoiser per stage: faster, and as large as Block-K.

        This network does not change. The copy has ``sharing`` ``independent``.

        Raises:
            ValueError: there are no adapters to merge; perhaps they are merged already.
        """
        if self.backbone is None or self.sharing != "lora":
            raise ValueError(
                f"a network with sharing '{self.sharing}' has no adapters to merge; "
                "were they merged already?"
            )
        result = copy.deepcopy(self)
        for stage in result._stages():
            stage.merge(self.backbone)
        result.backbone, result.sharing = None, "independent"
        return result
