"""Images of any size in limited memory: reconstruct in strips, with the result of the whole image.

An image is a list of *rows*, each one block high. A step of the network reads a strip of rows and
some more rows above and below, the halo. So its result for the strip equals that for the whole
image. Rows that no later strip reads are freed immediately.

ΦᵀΦ couples whole blocks in every stage, so after a few stages every pixel depends on pixels
far away. Tiles of the image with any practical overlap would not be exact. Therefore a network
with `UnfoldingNetwork.unfold` is cut inside the network, step by step.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from lgmnet import complexity
from lgmnet.models import SensingModel, UnfoldingNetwork
from lgmnet.operators import BlockSampling, LinearOperator

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
# Libraries use memory that is not a tensor, so a plan multiplies its count by this.
MARGIN = 1.25


class Rows:
    """An image as a list of rows."""

    def __init__(self, rows: Iterable[Tensor]) -> None:
        self.rows = list(rows)

    def read(self, first: int, last: int) -> Tensor:
        return torch.cat(self.rows[first:last], dim=2)

    def drop(self, end: int) -> None:
        """Free the rows before ``end``."""
        self.rows[:end] = [torch.empty(0)] * end


class View:
    """A function of the rows of another image, computed each time they are read."""

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], image: Rows, like: Rows
    ) -> None:
        self.function, self.image, self.like = function, image, like

    def read(self, first: int, last: int) -> Tensor:
        return self.function(self.image.read(first, last), self.like.rows[0])

    def drop(self, end: int) -> None:
        pass


class Strips:
    """A `Runner` over strips of ``height`` rows; it calls ``done(rows)`` after each strip."""

    def __init__(self, height: int, done: Callable[[int], object] = lambda rows: None) -> None:
        self.height = height
        self.done = done
        self.deepest = 0

    def __call__(
        self, step: Callable[..., Any], reach: int, image: Rows, *others: Rows | View
    ) -> Any:
        """See `Runner`. Rows that no later strip reads are freed immediately."""
        images = (image, *others)
        count, pixels = len(image.rows), image.rows[0].shape[2]
        halo = math.ceil(reach / pixels)
        self.deepest = max(self.deepest, halo)
        results: list[Rows] = []
        for top in range(0, count, self.height):
            bottom = min(top + self.height, count)
            first, last = max(0, top - halo), min(count, bottom + halo)
            returned = step(*(each.read(first, last) for each in images))
            outputs = (returned,) if isinstance(returned, Tensor) else returned
            results = results or [Rows([]) for _ in outputs]
            # Clone, because a view would keep the whole strip. A tensor that is returned twice is
            # cloned once.
            cuts = {
                id(output): [
                    row.clone()
                    for row in output.chunk(last - first, dim=2)[top - first : bottom - first]
                ]
                for output in outputs
            }
            for result, output in zip(results, outputs, strict=True):
                result.rows += cuts[id(output)]
            for each in images:
                each.drop(max(0, bottom - halo))
            self.done(bottom - top)
        return results[0] if isinstance(returned, Tensor) else results

    def keep(self, image: Rows) -> Rows:
        return Rows(image.rows)

    def view(self, function: Callable[[Tensor, Tensor], Tensor], image: Rows, like: Rows) -> View:
        return View(function, image, like)


class InStrips(SensingModel):
    """A model whose `reconstruct` works in strips.

    Args:
        max_memory: limit in bytes for the tensors of one reconstruction, without the program, the
            weights, the measurement and the image itself.
        progress: show a bar.

    Raises:
        ValueError: the network needs the whole image at once.
    """

    def __init__(self, model: SensingModel, max_memory: int, progress: bool = False) -> None:
        super().__init__(model.operator, model.network, model.noise_std, model.detector)
        check_strips(model.network, model.operator)
        self.max_memory = max_memory
        self._sizes: Sizes | None = None
        self.progress = progress

    @torch.inference_mode()
    def reconstruct(self, measurement: Tensor) -> Tensor:
        """See `SensingModel.reconstruct`. The measurements of a batch are processed one by one.

        Raises:
            ValueError: the memory is too small for strips of one row.
        """
        height = self.strip_height(measurement)
        images = []
        for one in measurement.split(1):
            with tqdm(desc="strips", unit="row", leave=False, disable=not self.progress) as bar:
                images.append(rebuild(self, one, Strips(height, bar.update)))
        return torch.cat(images)

    def strip_height(self, measurement: Tensor) -> int:
        """The largest height of a strip, in rows.

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
                f"{in_words(self.max_memory)} of memory are not enough for {height} x {width} "
                f"pixels; {self.network_name} needs at least {in_words(least)}"
            )
        more = sizes.total(rows, columns, 2) - least
        return 1 + int((self.max_memory - least) / more) if more else rows

    @property
    def network_name(self) -> str:
        return type(self.network).__name__

    def sizes(self, measurement: Tensor) -> "Sizes":
        """Measured once, on an image that is one square wide."""
        if self._sizes is None:
            self._sizes = measure_sizes(self, measurement)
        return self._sizes


class Sizes(NamedTuple):
    """Bytes per square of an image: ``state`` stays from step to step, ``strip`` is for one strip.

    ``halo`` is the largest halo of all steps, in rows.
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
    """Measure on small images, one square wide."""
    high = rows_high(model)

    def peak(rows: int, strips: Strips) -> int:
        y = measurement.new_zeros(1, measurement.shape[1], rows * high, high)
        return complexity.memory(lambda: rebuild(model, y, strips), y.device).peak

    if not model.network.stepwise:
        double = Strips(2)
        return Sizes(4.0 * model.multiple**2, peak(2, double) / 2, double.deepest)
    single = Strips(1)
    # Each additional row adds state only. The rest is the work on the largest strip.
    few, many = peak(8, single), peak(12, single)
    state = (many - few) / 4
    return Sizes(state, (few - 8 * state) / min(8, 1 + 2 * single.deepest), single.deepest)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``2GiB``.

    Raises:
        ValueError: the text is not a number and a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if found is None or found[2] not in UNITS:
        raise ValueError(f"'{text}' is not a size; write a number and a unit, such as 2GiB")
    return int(float(found[1]) * UNITS[found[2]])


def in_words(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{math.ceil(size / 2**20)} MiB"


def rows_high(model: SensingModel) -> int:
    """Height of a row in blocks: more than one if the block size does not fit the scales."""
    return model.multiple // model.operator.multiple


def rebuild(model: SensingModel, measurement: Tensor, strips: Strips) -> Tensor:
    """The image ``(1, 1, H, W)`` of one measurement; see `check_strips` for the networks."""
    check_strips(model.network, model.operator)
    measured = Rows(measurement.split(rows_high(model), dim=2))
    return torch.cat(model.network.unfold(measured, model.operator, strips).rows, dim=2)


def check_strips(network: UnfoldingNetwork, operator: LinearOperator) -> None:
    """Raise ValueError if a network or an operator needs the whole image."""
    if not isinstance(operator, BlockSampling):
        raise ValueError(
            f"{type(operator).__name__} measures the whole image at once, so it cannot be rebuilt "
            "in strips; run it without a memory limit"
        )
    if network.reach is None and not network.stepwise:
        raise ValueError(
            f"{type(network).__name__} needs the whole image at once and cannot work in strips; "
            "run it without a memory limit"
        )
