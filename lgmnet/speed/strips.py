"""Any image size in bounded memory: strip after strip, equal to the whole image at once.

An image is a list of *rows*, each one block high. A step of the network reads a strip of rows and
a few more above and below, its halo, so that what it returns for the strip itself is what it would
return for the whole image. Rows that no later strip reads are dropped at once.

ΦᵀΦ couples whole blocks in every iteration, so after a few iterations every pixel depends on pixels
far away: tiles of the image with any practical overlap would not be exact. That is why LGM-Net is
cut inside, iteration by iteration.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lgmnet import complexity
from lgmnet.models import LGMNet, SensingModel, UnfoldingNetwork
from lgmnet.models.lgm_net import FDIM, Chain
from lgmnet.models.lgm_net_options import AEGR, FeatureGradient, GradientInformed
from lgmnet.operators import LinearOperator
from lgmnet.unfolding.blocks import radius
from lgmnet.unfolding.layout import in_format_of

Rows = list[Tensor]
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
# Libraries work in memory that is not a tensor; a plan leaves this much more than it counts.
MARGIN = 1.25


class Strips:
    """Runs steps over strips of ``height`` rows; ``done`` is told the rows of each."""

    def __init__(self, height: int, done: Callable[[int], object] = lambda rows: None) -> None:
        self.height = height
        self.done = done
        self.deepest = 0

    def __call__(self, step: Callable[..., Any], halo: int, *inputs: Rows) -> tuple[Rows, ...]:
        """The rows of each tensor that ``step`` returns. The lists given are emptied on the way.

        Args:
            step: takes one tensor per input.
            halo: rows above and below that ``step`` depends on.
        """
        self.deepest = max(self.deepest, halo)
        count = len(inputs[0])
        results: tuple[Rows, ...] = ()
        for top in range(0, count, self.height):
            bottom = min(top + self.height, count)
            first, last = max(0, top - halo), min(count, bottom + halo)
            outputs = step(*(torch.cat(rows[first:last], dim=2) for rows in inputs))
            outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
            results = results or tuple([] for _ in outputs)
            # Clones, for a view would keep the whole strip alive; one of what is returned twice.
            cuts = {
                id(output): [
                    row.clone()
                    for row in output.chunk(last - first, dim=2)[top - first : bottom - first]
                ]
                for output in outputs
            }
            for rows, output in zip(results, outputs, strict=True):
                rows += cuts[id(output)]
            passed = max(0, bottom - halo)
            for rows in inputs:
                rows[:passed] = [torch.empty(0)] * passed
            self.done(bottom - top)
        return results


class InStrips(SensingModel):
    """A model whose `reconstruct` works in strips.

    Args:
        max_memory: bytes that the tensors of one reconstruction may take: not the program, the
            weights, the measurement and the image itself.
        progress: show a bar.

    Raises:
        ValueError: the network needs the whole image at once.
    """

    def __init__(self, model: SensingModel, max_memory: int, progress: bool = False) -> None:
        super().__init__(model.operator, model.network, model.noise_std)
        check_strips(model.network)
        self.max_memory = max_memory
        self._sizes: Sizes | None = None
        self.progress = progress

    @torch.inference_mode()
    def reconstruct(self, measurement: Tensor) -> Tensor:
        """See `SensingModel.reconstruct`; one measurement of a batch after the other.

        Raises:
            ValueError: the memory does not suffice for strips of one row.
        """
        height = self.strip_height(measurement)
        images = []
        for one in measurement.split(1):
            with tqdm(desc="strips", unit="row", leave=False, disable=not self.progress) as bar:
                images.append(rebuild(self, one, Strips(height, bar.update)))
        return torch.cat(images)

    def strip_height(self, measurement: Tensor) -> int:
        """The most rows that a strip may have.

        Raises:
            ValueError: strips of one row need more than ``max_memory``.
        """
        sizes = self.sizes(measurement)
        rows, columns = (math.ceil(side / rows_high(self)) for side in measurement.shape[2:])
        if sizes.total(rows, columns, rows) <= self.max_memory:
            return rows
        least = sizes.total(rows, columns, 1)
        if least > self.max_memory:
            height, width = (side * self.operator.multiple for side in measurement.shape[2:])
            raise ValueError(
                f"{in_words(self.max_memory)} of memory do not suffice for {height} x {width} "
                f"pixels; {self.network_name} needs at least {in_words(least)}"
            )
        more = sizes.total(rows, columns, 2) - least
        return 1 + int((self.max_memory - least) / more) if more else rows

    @property
    def network_name(self) -> str:
        return type(self.network).__name__

    def sizes(self, measurement: Tensor) -> "Sizes":
        """Measured once, on an image of one square column."""
        if self._sizes is None:
            self._sizes = measure_sizes(self, measurement)
        return self._sizes


class Sizes(NamedTuple):
    """Bytes for every square of an image: what stays from step to step, and the work on a strip.

    halo: of the step with the largest one.
    """

    state: float
    strip: float
    halo: int

    def total(self, rows: int, columns: int, height: int) -> int:
        """Bytes that strips of ``height`` rows need."""
        read = min(rows, height + 2 * self.halo)
        return int(MARGIN * columns * (self.state * rows + self.strip * read))


@torch.inference_mode()
def measure_sizes(model: SensingModel, measurement: Tensor) -> Sizes:
    """From small images, one square wide, with the tensors of the real run."""
    high = rows_high(model)

    def peak(rows: int, strips: Strips) -> int:
        y = measurement.new_zeros(1, measurement.shape[1], rows * high, high)
        return complexity.memory(lambda: rebuild(model, y, strips), y.device).peak

    single = Strips(1)
    if not isinstance(model.network, LGMNet):
        reach = math.ceil(check_strips(model.network) / high)
        image = 4.0 * model.multiple**2
        return Sizes(image, peak(2, Strips(2)) / 2, reach)
    # What a row more costs is state; the rest is the work on the largest strip.
    few, many = peak(8, single), peak(12, single)
    state = (many - few) / 4
    return Sizes(state, (few - 8 * state) / min(8, 1 + 2 * single.deepest), single.deepest)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2GiB``.

    Raises:
        ValueError: not a number and a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if found is None or found[2] not in UNITS:
        raise ValueError(f"'{text}' is no size; write a number and a unit, such as 2GiB or 800MiB")
    return int(float(found[1]) * UNITS[found[2]])


def in_words(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{math.ceil(size / 2**20)} MiB"


def rows_high(model: SensingModel) -> int:
    """Blocks in the height of a row: more than one where blocks and scales do not fit."""
    return model.multiple // model.operator.multiple


def rebuild(model: SensingModel, measurement: Tensor, strips: Strips) -> Tensor:
    """The image ``(1, 1, H, W)`` of one measurement; see `check_strips` for the networks."""
    measured = list(measurement.split(rows_high(model), dim=2))
    if isinstance(model.network, LGMNet):
        rows = lgm_net(model.network, model.operator, measured, strips)
    else:
        halo = math.ceil(check_strips(model.network) / rows_high(model))
        (rows,) = strips(lambda y: model.network(y, model.operator).image, halo, measured)
    return torch.cat(rows, dim=2)


def check_strips(network: UnfoldingNetwork) -> int:
    """Blocks around a strip that the network needs; 0 where `rebuild` finds out step by step.

    Raises:
        ValueError: it needs the whole image.
    """
    if isinstance(network, LGMNet):
        return 0
    if network.reach is None:
        raise ValueError(
            f"{type(network).__name__} needs the whole image at once and cannot work in strips; "
            "run it without a memory limit"
        )
    return network.reach


def lgm_net(network: LGMNet, operator: LinearOperator, measured: Rows, strips: Strips) -> Rows:
    """`LGMNet.forward`, one step after the other."""
    (start,) = strips(operator.adjoint, 0, measured)
    unit = start[0].shape[2]

    def halo(scale: int, *modules: nn.Module) -> int:
        return math.ceil(sum(map(radius, modules)) * scale / unit)

    def iterate(chain: nn.Module, scale: int, x: Rows, z: Rows) -> tuple[Rows, ...]:
        assert isinstance(chain, Chain)
        for k in range(chain.count):
            stage = chain.iterations[k % len(chain.iterations)]
            assert isinstance(stage, FDIM)
            step = partial(iteration, stage, operator, scale)
            beyond = halo(scale, stage) + (not gram_comes_first(stage))
            x, z = strips(step, beyond, x, z, list(start))
        return x, z

    x, z = strips(network.open, halo(1, network.start_z, network.lift), list(start))
    x_first = list(x)
    skips = []
    for level, (chain, fuse) in enumerate(
        zip(network.down_chains, network.down_fusions, strict=True)
    ):
        x, z = iterate(chain, 2**level, x, z)
        x, z = strips(partial(network.cross, fuse), halo(2**level, fuse), x, z)
        skips.append((list(x), list(z)))
    if skips:
        skips.pop()  # the coarsest scale is not skipped
    x, z = iterate(network.mid_chain, 2 ** len(network.down_chains), x, z)
    up_chains = network.up_chains if len(network.up_chains) else reversed(network.down_chains)
    levels = reversed(range(len(network.down_chains)))
    for level, fuse, chain in zip(levels, network.up_fusions, up_chains, strict=True):
        x, z = strips(partial(network.cross, fuse), halo(2 ** (level + 1), fuse), x, z)
        x, z = iterate(chain, 2**level, x, z)
        if level > 0:
            x, z = strips(network.skip, 0, x, z, *skips.pop())
    around = halo(1, network.refine, network.project)
    return strips(network.close, around, x, z, x_first, start)[0]


def iteration(
    stage: FDIM, operator: LinearOperator, scale: int, x: Tensor, z: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    return stage(x, z, operator, in_format_of(x, F.pixel_unshuffle(start, scale)))


def gram_comes_first(stage: FDIM) -> bool:
    """Whether ΦᵀΦ sees X itself; after a convolution it carries that one's reach a block on."""
    return isinstance(stage.data_step, AEGR | FeatureGradient | GradientInformed)
