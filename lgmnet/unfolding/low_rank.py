"""Low-rank adapters: changes to the weights of a module.

One module may have several sets of adapters. A set is applied by computing the changed weights.
The module itself does not change, unless you merge a set into it:

    module.requires_grad_(False)                      # freeze
    adapters = Adapters(module, gamma=10)             # attach; changes nothing yet
    result = adapters(module, image)                  # in place of module(image)
    adapters.merge(module)                            # now module(image) gives the same result
    unmerge(module)                                   # restores the old weights, to the bit
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lgmnet.registry import require_choice

# Layers whose weight gets a low-rank change.
ADAPTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
EXCLUDED_MODES = ("per_stage_full", "frozen")
# Attribute of a merged module: its weights before merging, by name.
ORIGINALS = "weights_before_merging"


def rank(shape: Sequence[int], gamma: float) -> int:
    """⌈min(in, out)·γ/100⌉ for a weight whose first two axes are its outputs and inputs.

    A grouped convolution counts the inputs of one group, so a depthwise convolution has rank 1.
    """
    if not 0 < gamma <= 100:
        what = "rank 0" if gamma <= 0 else "more than full rank"
        raise ValueError(
            f"gamma is {gamma:g}, which gives {what}; expected a percentage, 0 < gamma <= 100"
        )
    return math.ceil(min(shape[0], shape[1]) * gamma / 100)


class LowRankUpdate(nn.Module):
    """ΔW = AB of rank r for the weight of one layer. A starts at zero, and so does ΔW.

    B starts with standard deviation 1/r. Then a step of Adam changes W about as much as if W itself
    were trained. The paper does not give this value.

    For a kernel ``(c, d, k, k)`` the product of A ``(c k, r k)`` and B ``(r k, d k)`` is reshaped
    to the kernel. For a matrix k is 1.

    Args:
        shape: of the weight.
        gamma: rank, as a percentage of the full one.
    """

    def __init__(self, shape: Sequence[int], gamma: float) -> None:
        super().__init__()
        self.shape = tuple(shape)
        height, width = self.shape[2:] or (1, 1)
        r = rank(shape, gamma)
        inner = r * min(height, width)
        self.left = nn.Parameter(torch.zeros(shape[0] * height, inner))
        self.right = nn.Parameter(torch.randn(inner, shape[1] * width) / r)

    def forward(self) -> Tensor:
        return (self.left @ self.right).view(self.shape)

    def extra_repr(self) -> str:
        return f"{self.shape}, rank {self.left.shape[1]} of its matrix"


class Adapters(nn.Module):
    """One set of changes to the weights of a module. It holds no reference to the module.

    Every Linear, Conv2d and ConvTranspose2d gets a `LowRankUpdate`. Biases, norms and other values
    are those of the module.

    Args:
        module: the module to adapt. Freeze it with ``requires_grad_(False)``.
        gamma: rank of the changes, as a percentage of the full rank; see `rank`.
        exclude: layers with one of these words in their dotted name get no low-rank change.
        excluded_mode: ``per_stage_full``: this set has its own copy of each excluded layer;
            ``frozen``: all sets use the layer of the module.
        train_bias, train_norm: whether this set has its own biases, and its own norms.

    Raises:
        ValueError: the rank is zero or above the full rank, or ``exclude`` matches no layer.

    Source:
        LoRun. A kernel is treated as a matrix as by E. J. Hu et al., "LoRA: Low-rank
        adaptation of large language models", ICLR 2022.
    """

    def __init__(
        self,
        module: nn.Module,
        gamma: float = 10.0,
        exclude: Sequence[str] = (),
        excluded_mode: str = "per_stage_full",
        train_bias: bool = False,
        train_norm: bool = False,
    ) -> None:
        super().__init__()
        require_choice("excluded_mode", excluded_mode, EXCLUDED_MODES)
        self.updates = nn.ModuleDict()
        self.full = nn.ParameterDict()
        for word in exclude:
            if not any(word in name for name, _ in _adapted(module)):
                raise ValueError(
                    f"exclude names '{word}', but no layer has that in its name; the layers are "
                    f"{', '.join(name for name, _ in _adapted(module))}"
                )
        for name, layer in module.named_modules():
            if isinstance(layer, ADAPTED):
                excluded = any(word in name for word in exclude)
                if not excluded:
                    self.updates[_key(name, "weight")] = LowRankUpdate(layer.weight.shape, gamma)
                elif excluded_mode == "per_stage_full":
                    self._copy(name, layer, "weight")
                if train_bias or (excluded and excluded_mode == "per_stage_full"):
                    self._copy(name, layer, "bias")
            elif isinstance(layer, NORMS) and train_norm:
                self._copy(name, layer, "weight")
                self._copy(name, layer, "bias")

    def _copy(self, name: str, layer: nn.Module, kind: str) -> None:
        if (value := getattr(layer, kind)) is not None:
            self.full[_key(name, kind)] = nn.Parameter(value.detach().clone())

    def forward(self, module: nn.Module, *arguments: object) -> Tensor:
        """``module(*arguments)`` with the changed weights."""
        return functional_call(module, self.weights(module), arguments)

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The changed weights of ``module`` by their dotted name.

        Raises:
            ValueError: the module is merged, so its weights are changed already.
        """
        if hasattr(module, ORIGINALS):
            raise ValueError("this module is merged with adapters; unmerge it first")
        own = dict(module.named_parameters())
        changed = {}
        for key, update in self.updates.items():
            name = _name(key)
            changed[name] = own[name] + update()
        return changed | {_name(key): value for key, value in self.full.items()}

    @torch.no_grad()
    def merge(self, module: nn.Module) -> None:
        """Write the changed weights into ``module``. It keeps the old weights for `unmerge`.

        Raises:
            ValueError: the module is merged already, with these adapters or others.
        """
        own = dict(module.named_parameters())
        changed = self.weights(module)
        setattr(module, ORIGINALS, {name: own[name].detach().clone() for name in changed})
        for name, value in changed.items():
            own[name].copy_(value)

    def refresh(self, module: nn.Module) -> None:
        """Copy the values of the module again to the layers that this set holds in full."""
        own = dict(module.named_parameters())
        with torch.no_grad():
            for key, value in self.full.items():
                value.copy_(own[_name(key)])


@torch.no_grad()
def unmerge(module: nn.Module) -> None:
    """Restore the weights of a merged module, to the bit.

    Raises:
        ValueError: the module is not merged.
    """
    if not hasattr(module, ORIGINALS):
        raise ValueError("this module is not merged with adapters; there is nothing to undo")
    for name, value in getattr(module, ORIGINALS).items():
        module.get_parameter(name).copy_(value)
    delattr(module, ORIGINALS)


def module_fingerprint(module: nn.Module) -> str:
    """SHA-256 of names and values (float32) of the parameters; adapters fit this module only."""
    digest = hashlib.sha256()
    for name, value in sorted(module.named_parameters()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _adapted(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, ADAPTED))


def _key(name: str, kind: str) -> str:
    """The dotted name of a module as a key of a ModuleDict, which allows no dot."""
    return f"{name}.{kind}".lstrip(".").replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
