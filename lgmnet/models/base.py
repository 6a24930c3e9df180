"""The contract of a network, and what it returns."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from lgmnet.models.steps import Runner
from lgmnet.operators import LinearOperator
from lgmnet.registry import Registry


class Reconstruction(NamedTuple):
    """What a network makes of a measurement.

    image: ``(batch, 1, H, W)``, in the unit of the measured image, not clipped.
    penalties: scalar terms that the network adds to the loss, by name, already weighted.
    """

    image: Tensor
    penalties: Mapping[str, Tensor] = {}


class UnfoldingNetwork(nn.Module, ABC):
    """K unfolded iterations: ``(measurement, operator) -> Reconstruction``."""

    multiple: int = 1
    """Height and width of the image must be multiples of this too, beside the operator's."""
    reach: int | None = None
    """How many blocks away a measurement can change a pixel; None if it may be any number."""
    stepwise: bool = False
    """Whether `unfold` has steps with a reach of their own, so that each can work in strips."""
    any_channels: bool = False
    """Whether it works on images of any number of channels, without ``image_channels``."""
    inside_stages: tuple[str, ...] = ()
    """Submodules that the stages are given to work with: recomputed with them, not alone."""

    @abstractmethod
    def forward(self, measurement: Tensor, operator: LinearOperator) -> Reconstruction:
        """Rebuild the image that ``operator`` measured as ``measurement``."""

    def unfold(self, measurement: Any, operator: LinearOperator, run: Runner) -> Any:
        """The image, every step by ``run``.

        Here the network is one step, whose reach must be known. One that is ``stepwise`` writes its
        algorithm here, and its ``forward`` runs it `AtOnce`.
        """
        assert self.reach is not None
        return run(lambda y: self(y, operator).image, self.reach, measurement)

    def check_operator(self, operator: LinearOperator) -> None:
        """Raise ValueError if the network does not work with this operator."""

    @abstractmethod
    def stages(self) -> Iterable[nn.Module]:
        """The iterations, first to last: what training may recompute to save memory."""


class Published(NamedTuple):
    """An authors' weights file in our terms: options of the network, Φ ``(m, B²)``, its state."""

    options: dict[str, Any]
    matrix: Tensor
    state: dict[str, Tensor]


def strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the names of wrappers: DataParallel's before every key, torch.compile's anywhere."""
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


class OtherNetwork(ValueError):
    """An authors' file is not one of the network that it was given as."""


def require_tensors(network: str, state: Mapping[str, Tensor], *needed: str) -> None:
    """Raise OtherNetwork unless an authors' file has the tensors that only ``network`` has."""
    missing = [key for key in needed if key not in state]
    if missing:
        raise OtherNetwork(
            f"this is no {network} file: it has no tensor {missing[0]} "
            f"(its first tensors: {', '.join(list(state)[:4]) or 'none'})"
        )


# What the constructors of networks may ask an operator for.
SIZES = frozenset(("image_channels", "measurements", "block_size"))

MODELS: Registry[UnfoldingNetwork] = Registry("model")


def create_network(
    name: str, options: Mapping[str, Any], sizes: Mapping[str, int]
) -> UnfoldingNetwork:
    """Build a registered network.

    A constructor may have ``image_channels``, ``measurements`` and ``block_size`` among its
    arguments. They come from the operator, never from the config.

    Args:
        sizes: of the operator, see `LinearOperator.sizes`.

    Raises:
        ValueError: an option is unknown or wrong, or the network does not work on the operator.
    """
    network = MODELS.get(name)
    known = inspect.signature(network).parameters
    if given := SIZES & options.keys():
        raise ValueError(f"model.{min(given)} follows from sampling; set it there")
    for size in SIZES & known.keys() - sizes.keys():
        if known[size].default is inspect.Parameter.empty:
            raise ValueError(
                f"{name} needs {size}, which only block sampling has; choose "
                "sampling.operator=block_sampling, or another network"
            )
    channels = sizes.get("image_channels", 1)
    many = "image_channels" in known or getattr(network, "any_channels", False)
    if channels != 1 and not many:
        raise ValueError(
            f"{name} rebuilds images of one channel, but the operator measures {channels}; choose "
            "another network, such as ista_net_plus"
        )
    return MODELS.create(name, **options, **{k: v for k, v in sizes.items() if k in known})
