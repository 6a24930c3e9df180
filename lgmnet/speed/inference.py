"""Rewrite a network for inference: the same output in less time.

The rewrites are applied from outside, to a copy. The plain path (float32, NCHW) does not change and
is the reference in tests. docs/performance.md gives the effect of the rewrites.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lgmnet.config import PRECISIONS
from lgmnet.models import LoRun, SensingModel, UnfoldingNetwork
from lgmnet.operators import BlockSampling
from lgmnet.registry import require_choice
from lgmnet.runtime import device_of, use_channels_last
from lgmnet.speed.memory import release_freed_memory
from lgmnet.speed.precision import computed_precision, has_bf16_arithmetic, precision_note
from lgmnet.speed.strips import InStrips, parse_size
from lgmnet.unfolding.blocks import ResidualBlock
from lgmnet.unfolding.layout import as_channels_last


def optimize_for_inference(
    model: SensingModel, precision: str = "fp32", compile: bool = False
) -> SensingModel:
    """A copy of ``model`` that reconstructs faster; the original does not change.

    - Linear layers with nothing between them become one layer.
    - The memory format becomes channels_last. (Not in ``fp32`` on a GPU, because there the fast
      channels_last kernels need TF32 or bf16.)
    - On a CPU, convolutions call oneDNN with weights in its own layout, and compute ReLU and
      residual sum in the same pass. (In bf16 only if the CPU has bf16 arithmetic; otherwise a
      warning says that bf16 is slow.)
    - Adapters of LoRun are merged into one denoiser per stage.

    In ``fp32`` the output is equal up to rounding. Call this on the device where the model will
    run. The copy cannot be trained, and it gives no gradient for y.

    Args:
        precision: ``fp32``, ``tf32`` or ``bf16``. ``bf16`` is for convolutions and for ΦᵀΦ of
            features; Φ and Φᵀ of images, and convolutions whose output is an image, stay in
            float32. ``tf32`` prepares the model for a GPU with TF32. It does not enable TF32: set
            ``torch.backends.cudnn.allow_tf32`` when the model runs.
        compile: compile every stage with torch.compile instead of using oneDNN. The first image
            of each size takes a minute or more.

    Raises:
        ValueError: the precision is unknown.
    """
    require_choice("precision", precision, PRECISIONS)
    fast = copy.deepcopy(model).eval()
    if isinstance(fast.network, LoRun) and fast.network.sharing == "lora":
        fast.network = fast.network.merged()  # packed weights cannot change from stage to stage
    fast.requires_grad_(False)
    if isinstance(fast.operator, BlockSampling):
        fast.operator.gathers, fast.operator.reduced_gram = True, precision == "bf16"
    merge_linear_pairs(fast.network)
    device = device_of(fast)
    if note := precision_note(precision, device):
        warnings.warn(note, stacklevel=2)
    if precision == "bf16":
        reduce_precision(fast.network)
    if device.type == "cpu" or computed_precision(precision, device) != "fp32":
        use_channels_last(fast.network)
        for stage in fast.network.stages():
            stage.register_forward_pre_hook(enter_channels_last)
    if compile:
        compile_stages(fast.network)
    elif device.type == "cpu" and not torch.backends.mkldnn.is_available():
        warnings.warn("no oneDNN here: convolutions are unchanged", stacklevel=2)
    elif device.type == "cpu" and (precision != "bf16" or has_bf16_arithmetic(device)):
        # oneDNN refuses bf16 weights on other CPUs.
        pack_convolutions(fast.network)
    return fast


def prepare(
    model: SensingModel, fast: bool, precision: str, max_memory: str | None
) -> SensingModel:
    """The model prepared for the flags ``--fast``, ``--precision`` and ``--max-memory``.

    This does not enable TF32 for the convolutions of a GPU; see `precision.convolutions`.

    Raises:
        ValueError: the flags exclude each other, or the network cannot work in strips.
    """
    require_choice("--precision", precision, PRECISIONS)
    if precision == "bf16" and not fast:
        raise ValueError("--precision bf16 needs --fast: the plain path is float32")
    if fast:
        model = optimize_for_inference(model, precision)
    elif note := precision_note(precision, device_of(model)):
        warnings.warn(note, stacklevel=2)
    if max_memory is None:
        return model
    # The limit holds only if the memory of a freed strip leaves the process.
    release_freed_memory()
    return InStrips(model, parse_size(max_memory), progress=True)


def merge_linear_pairs(network: nn.Module) -> None:
    """Merge two convolutions with nothing between them, if that needs no more arithmetic."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            merged: list[nn.Module] = []
            for layer in module:
                if merged and is_linear_pair(merged[-1], layer):
                    layer = merged_pair(merged.pop(), layer)
                merged.append(layer)
            module._modules = {str(k): layer for k, layer in enumerate(merged)}


def is_linear_pair(first: nn.Module, second: nn.Module) -> bool:
    """Whether ``second`` is a 1 x 1 convolution that costs less when merged into ``first``.

    Zero padding is no problem, because only the input of ``first`` is padded.
    """
    if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)):
        return False
    pointwise = second.kernel_size == second.stride == (1, 1) and second.padding == (0, 0)
    grouped = first.groups > 1 or second.groups > 1
    one = len(first.weight[0].flatten()) * second.out_channels
    two = first.weight.numel() + second.weight.numel()
    return pointwise and not grouped and one <= two


@torch.no_grad()
def merged_pair(first: nn.Module, second: nn.Module) -> nn.Conv2d:
    """One convolution that computes second(first(v)); computed in double precision."""
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    result = copy.deepcopy(first)
    mix = second.weight[:, :, 0, 0].double()
    weight = torch.einsum("oc,cikl->oikl", mix, first.weight.double())
    bias = mix.new_zeros(len(mix))
    if first.bias is not None:
        bias += mix @ first.bias.double()
    if second.bias is not None:
        bias += second.bias.double()
    result.out_channels = second.out_channels
    result.weight = nn.Parameter(weight.to(first.weight), requires_grad=False)
    result.bias = nn.Parameter(bias.to(first.weight), requires_grad=False)
    return result


def reduce_precision(network: nn.Module) -> None:
    """Use bf16 for every convolution except those whose output is an image (float32)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if module.out_channels > 1:
                module.bfloat16()
            module.register_forward_pre_hook(enter_own_format)


def enter_own_format(layer: nn.Conv2d, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast the first tensor to the number format of the layer's weights."""
    return arguments[0].type_as(layer.weight), *arguments[1:]


def enter_channels_last(stage: nn.Module, arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Bring every input to channels_last; one in NCHW would change concatenations to NCHW."""
    return tuple(
        as_channels_last(a) if isinstance(a, Tensor) and a.ndim == 4 else a for a in arguments
    )


class PackedConv2d(nn.Conv2d):
    """A convolution by oneDNN: weights in its layout, ReLU and a sum in the same pass.

    `pack_convolutions` makes it from a plain convolution by exchanging the class.
    """

    def forward(self, features: Tensor, relu: bool = False, plus: Tensor | None = None) -> Tensor:
        """relu(conv(features)), or conv(features) + plus.

        Raises:
            ValueError: a gradient is asked for; oneDNN would return a wrong one without a word.
        """
        if features.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "a network of optimize_for_inference has no gradient; use the original network, "
                "or torch.no_grad() if y needs none"
            )
        features = as_channels_last(features)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if not hasattr(self, "packed"):
            # oneDNN chooses its layout for the first size; other sizes work too.
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *geometry, features.shape
            )
        if plus is None:
            activation = "relu" if relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(
                features, self.packed, self.bias, *geometry, activation, [], ""
            )
        return torch.ops.mkldnn._convolution_pointwise.binary(
            features, as_channels_last(plus), self.packed, self.bias, *geometry,
            "add", 1.0, None, [], None,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, object]:
        """Without the packed weights, which cannot be copied or pickled; a copy packs again."""
        return {key: value for key, value in self.__dict__.items() if key != "packed"}


class PackedResidualBlock(ResidualBlock):
    """`ResidualBlock` in two passes over the features."""

    def forward(self, features: Tensor) -> Tensor:
        first, _, second = self.body
        return second(first(features, relu=True), plus=features)


def pack_convolutions(network: nn.Module) -> None:
    for module in list(network.modules()):
        if type(module) is ResidualBlock:
            module.__class__ = PackedResidualBlock
        elif type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = PackedConv2d


def compile_stages(network: UnfoldingNetwork) -> None:
    for stage in network.stages():
        stage.forward = Compiled(stage.forward)


class Compiled:
    """A function compiled by torch.compile; if compiling fails, the function itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.eager = function
        self.function = torch.compile(function)

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self.function(*arguments)
        except Exception as error:  # the compiler raises its own types
            if self.function is self.eager:
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"torch.compile failed, going on without it ({reason})", stacklevel=2)
            self.function = self.eager
            return self.eager(*arguments)
