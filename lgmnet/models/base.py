"""The interface of a network, and its result."""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from lgmnet.models.steps import Runner
from lgmnet.operators import LinearOperator
from lgmnet.registry import Registry


class Reconstruction(NamedTuple):
    """The result of a network.

    image: ``(batch, channels, H, W)``, in the unit of the measured image, not clipped.
    penalties: scalar terms that the network adds to the loss, by name, already weighted.
    """

    image: Tensor
    penalties: Mapping[str, Tensor] = {}


Watch = Callable[[Tensor, str], None]
"""Called with every estimate ``(batch, channels, H, W)`` of an image, and the name of its step."""


class UnfoldingNetwork(nn.Module, ABC):
    """K stages: ``(measurement, operator) -> Reconstruction``."""

    multiple: int = 1
    """Height and width of the image must also be multiples of this, in pixels."""
    reach: int | None = None
    """Largest distance, in blocks, from which a measurement can change a pixel; None: no limit."""
    stepwise: bool = False
    """Whether `unfold` has several steps, each with its own reach. Each can work in strips."""
    any_channels: bool = False
    """Whether the network supports any number of image channels, without ``image_channels``."""
    inside_stages: tuple[str, ...] = ()
    """Submodules that are arguments of the stages. They are recomputed with the stages, not
    separately."""

    @abstractmethod
    def forward(
        self, measurement: Tensor, operator: LinearOperator, watch: Watch | None = None
    ) -> Reconstruction:
        """Reconstruct the image from its ``measurement`` by ``operator``.

        Args:
            watch: called with the estimates that the network has anyway, first to last; the last
                one is the result. Without it they are not kept. See `lgmnet.models.iterates`.
        """

    def learn(self, image: Tensor) -> Reconstruction | None:
        """The result of a training step that does not measure; the loss compares it with ``image``.

        None, the default: training measures the images ``(batch, channels, H, W)``, and the whole
        network reconstructs them. A network overrides it if its prior is trained alone.
        """
        return None

    def unfold(self, measurement: Any, operator: LinearOperator, run: Runner) -> Any:
        """The image; ``run`` executes every step.

        By default the whole network is one step, and `reach` must be set. A ``stepwise`` network
        overrides this method, and its ``forward`` calls it with `AtOnce`.
        """
        assert self.reach is not None
        return run(lambda y: self(y, operator).image, self.reach, measurement)

    def grow_from(self, smaller: "UnfoldingNetwork") -> None:
        """Take the weights of a smaller network of this class, and compute the same image.

        Raises:
            ValueError: this class cannot grow, or the networks do not fit.
        """
        raise ValueError(f"{type(self).__name__} cannot grow from a smaller network")

    def check_operator(self, operator: LinearOperator) -> None:
        """Raise ValueError if the network does not support this operator."""

    def learned_values(self) -> dict[str, list[float]]:
        """Learned numbers that have one value per stage, such as step sizes, by name.

        By default they are the parameters with one value, such as ``data_steps.3.step``.
        """
        found: dict[str, list[float]] = {}
        for name, parameter in self.named_parameters():
            if parameter.numel() == 1 and re.search(r"\.\d+\.", name):
                key = re.sub(r"\.\d+\.", " ", name, count=1)
                found.setdefault(key, []).append(float(parameter.detach()))
        return found

    @abstractmethod
    def stages(self) -> Iterable[nn.Module]:
        """The stages, first to last. Training may recompute them to save memory."""


class Published(NamedTuple):
    """The weights of the original authors, translated.

    options: arguments of the network.
    matrix: Φ ``(m, B²)``.
    state: tensors of the network, by name.
    """

    options: dict[str, Any]
    matrix: Tensor
    state: dict[str, Tensor]


def strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers: DataParallel's at the start, torch.compile's anywhere."""
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


class OtherNetwork(ValueError):
    """A weights file of the original authors belongs to another network than the given one."""


def require_tensors(network: str, state: Mapping[str, Tensor], *needed: str) -> None:
    """Raise OtherNetwork unless an authors' file has the tensors that only ``network`` has."""
    missing = [key for key in needed if key not in state]
    if missing:
        raise OtherNetwork(
            f"this is not a weights file of {network}: it has no tensor {missing[0]} "
            f"(its first tensors: {', '.join(list(state)[:4]) or 'none'})"
        )


# Arguments of a network's constructor whose values come from the operator.
SIZES = frozenset(("image_channels", "measurements", "block_size"))

MODELS: Registry[UnfoldingNetwork] = Registry("model")


def create_network(
    name: str, options: Mapping[str, Any], sizes: Mapping[str, int]
) -> UnfoldingNetwork:
    """Build a registered network.

    A constructor may have the arguments ``image_channels``, ``measurements`` and ``block_size``.
    Their values come from the operator, never from the config.

    Args:
        sizes: sizes of the operator, see `LinearOperator.sizes`.

    Raises:
        ValueError: an option is unknown or wrong, or the network does not support the operator.
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
            f"{name} reconstructs images of one channel, but the operator measures {channels}; "
            "choose another network, such as ista_net_plus"
        )
    return MODELS.create(name, **options, **{k: v for k, v in sizes.items() if k in known})
