"""Random training crops: sample n of a seed is always the same crop.

A crop depends on the seed and its number only, not on workers, processes, image source or history.
So a resumed run continues with exactly the same crops, two processes see the same crops as one, and
a faster image source changes the speed, but not the data.
"""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lgmnet.data.datasets import TrainingImages
from lgmnet.data.images import ImageError
from lgmnet.data.transforms import DIHEDRAL_MODES, channels_first, dihedral
from lgmnet.data.values import as_type, unit_array
from lgmnet.files import DISK_FULL

# Signals that end a run after it has saved its state. Windows has two of them.
STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]
SHARED_MEMORY_FULL = (
    "the shared memory (/dev/shm) has no room for what loader processes hand over; make it larger, "
    "lower data.workers, or set data.source=device"
)
ATTEMPTS = 100
NONE_READABLE = f"{ATTEMPTS} images drawn in a row cannot be decoded; check the training folder"


class Plan(NamedTuple):
    """The sample numbers of a process: ``batch`` numbers per step and all processes, from ``step``.

    With ``repeat`` every step has the numbers of the first step.
    """

    step: int
    batch: int
    rank: int = 0
    processes: int = 1
    repeat: bool = False

    def numbers(self) -> Iterator[list[int]]:
        """Sample numbers of each step, without end. All processes together take whole batches."""
        share = self.batch // self.processes
        step = 0 if self.repeat else self.step
        while True:
            first = step * self.batch + self.rank * share
            yield list(range(first, first + share))
            step += not self.repeat


class CropRule(NamedTuple):
    """How crops are drawn. ``augment``: ``sample``, ``batch`` or ``none``."""

    size: int
    seed: int
    augment: str = "sample"
    batch: int = 1


def generator(seed: int, number: int, stream: int = 0) -> np.random.Generator:
    """An independent random generator for every ``(seed, number)``."""
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, number], dtype=np.uint64), counter=[0, 0, 0, stream])
    )


def draw_mode(rule: CropRule, number: int) -> int:
    """The flip and rotation of a sample; with ``augment="batch"``, of the whole batch."""
    if rule.augment == "none":
        return 0
    shared = rule.augment == "batch"
    source = generator(rule.seed, number // rule.batch if shared else number, stream=1 + shared)
    return int(source.integers(DIHEDRAL_MODES))


def draw_crops(
    sizes: list[tuple[int, int]], rule: CropRule, number: int
) -> Iterator[tuple[int, int, int]]:
    """``(image, top, left)`` of a sample, and further choices in case the image cannot be read."""
    source = generator(rule.seed, number)
    for _ in range(ATTEMPTS):
        image = int(source.integers(len(sizes)))
        height, width = sizes[image]
        top = int(source.integers(height - rule.size + 1))
        left = int(source.integers(width - rule.size + 1))
        yield image, top, left


class TrainingCrops(Dataset[Tensor]):
    """Sample number -> crop ``(channels, size, size)``. Every crop reads its image again.

    Crops are uint8 if all images are uint8, else float32 on the unit scale. ``unreadable`` counts
    the failures per image, including those in loader processes.
    """

    def __init__(self, images: TrainingImages, rule: CropRule) -> None:
        self.images = images
        self.rule = rule
        self.unreadable = torch.zeros(len(images.names), dtype=torch.int32).share_memory_()

    def __getitem__(self, number: int) -> Tensor:
        size = self.rule.size
        for image, top, left in draw_crops(self.images.sizes, self.rule, number):
            try:
                pixels = self.images.read(image)
            except ImageError:
                self.unreadable[image] += 1
                continue
            crop = np.array(pixels[top : top + size, left : left + size])
            if crop.shape[:2] == (size, size):
                tensor = channels_first(as_type(crop, self.images.dtype))
                return dihedral(tensor, draw_mode(self.rule, number))
            self.unreadable[image] += 1
        raise ImageError(NONE_READABLE)

    def unreadable_names(self) -> list[str]:
        return [self.images.names[k] for k in self.unreadable.nonzero().flatten().tolist()]


def loaded_batches(
    crops: TrainingCrops, plan: Plan, workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Batches ``(b, channels, size, size)`` on ``device``. Loader processes read ahead.

    Raises:
        ImageError: no image can be decoded.
        OSError: there is no room for the memory that the processes share.
    """
    workers = min(workers, os.cpu_count() or 1)
    loader = DataLoader(
        crops,
        batch_sampler=plan.numbers(),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker if workers else None,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # only the noise uses the global random state
    )
    others = multiprocessing.active_children()
    with _named_errors():
        batches = iter(loader)
    atexit.register(_kill, [p for p in multiprocessing.active_children() if p not in others])
    while True:
        with _named_errors():
            batch = next(batches)
        yield batch.to(device, non_blocking=True)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Errors of loader processes without a traceback. They write only to /dev/shm."""
    try:
        yield
    except ImageError:
        raise ImageError(NONE_READABLE) from None
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in DISK_FULL or "</torch_" in str(error)
        if not full:
            raise
        raise OSError(SHARED_MEMORY_FULL) from None


def _kill(processes: list[multiprocessing.process.BaseProcess]) -> None:
    """Kill loader processes that still run, because they ignore the signals of Python.

    Otherwise a process that ends with an error would wait for them forever. PyTorch's handler for
    the end of a loader process would raise an error in any code that runs at that moment.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in processes:
        if process.is_alive():
            process.kill()


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the main process ends the run


class DeviceCrops:
    """All images in one flat array on one device. One gather makes a batch.

    The crops are those of `TrainingCrops`. Images that cannot be decoded, or whose size differs
    from their header, are never drawn. ``unreadable`` names them.

    Args:
        show: show a progress bar while the images are read.
    """

    def __init__(self, images: TrainingImages, device: torch.device, show: bool = False) -> None:
        self.sizes = images.sizes
        self.widths = np.array([width for _, width in self.sizes])
        ends = np.cumsum([height * width for height, width in self.sizes])
        self.starts = np.concatenate([[0], ends[:-1]])
        self.readable = [False] * len(ends)
        self.channels = images.channels
        kind = torch.uint8 if images.dtype == np.uint8 else torch.float32
        # Images are copied one after the other, so the host never holds all of them. The first
        # channels of all images come first, then all second channels.
        self.bytes = torch.empty(self.channels * int(ends[-1]), dtype=kind, device=device)
        planes = self.bytes.view(self.channels, -1)
        self.offsets = (torch.arange(self.channels, device=device) * int(ends[-1]))[:, None, None]
        names = tqdm(images.names, "reading images", unit="image", leave=False, disable=not show)
        for k, _ in enumerate(names):
            try:
                pixels = np.array(images.read(k))
            except ImageError:
                continue
            self.readable[k] = pixels.shape[:2] == self.sizes[k]
            if self.readable[k]:
                image = channels_first(as_type(pixels, images.dtype))
                planes[:, self.starts[k] : ends[k]] = image.flatten(1)
        if not any(self.readable):
            raise ImageError("none of the training images can be decoded")
        self.unreadable = [n for n, ok in zip(images.names, self.readable, strict=True) if not ok]

    def batches(self, rule: CropRule, plan: Plan) -> Iterator[Tensor]:
        """Batches ``(b, channels, size, size)`` on the device. A thread draws one step ahead."""
        steps = plan.numbers()
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._places, rule, next(steps))
            for numbers in steps:
                places, ahead = ahead.result(), pool.submit(self._places, rule, numbers)
                yield self._gather(places)

    def batch(self, rule: CropRule, numbers: list[int]) -> Tensor:
        """The crops with these numbers."""
        return self._gather(self._places(rule, numbers))

    def _gather(self, places: Tensor) -> Tensor:
        """The pixels at the given indices; an index is the sum of a row part and a column part."""
        vertical, horizontal = places.to(self.bytes.device, non_blocking=True)
        places = vertical[:, None, :, None] + horizontal[:, None, None, :]
        return self.bytes[places + self.offsets if self.channels > 1 else places]

    def _places(self, rule: CropRule, numbers: list[int]) -> Tensor:
        """Indices of the pixels of each crop, ``(2, b, size)`` int64: row parts and column parts.

        Flips and rotations change the order of the indices, so pixels are moved only once.
        """
        drawn = np.array([self._draw(rule, number) for number in numbers])
        image, top, left = (column[:, None] for column in drawn.T)
        mode = np.array([[draw_mode(rule, number)] for number in numbers])
        width, offset = self.widths[image], np.arange(rule.size)
        row, column = (np.where(mode & bit, offset[::-1], offset) for bit in (1, 2))
        down = self.starts[image] + (top + row) * width
        along = left + column
        turned = mode & 4 > 0
        places = np.stack([np.where(turned, along, down), np.where(turned, down, along)])
        if self.bytes.device.type == "cuda":
            return torch.from_numpy(places).pin_memory()  # so that its copy does not wait
        return torch.from_numpy(places)

    def unreadable_names(self) -> list[str]:
        return self.unreadable

    def _draw(self, rule: CropRule, number: int) -> tuple[int, int, int]:
        for choice in draw_crops(self.sizes, rule, number):
            if self.readable[choice[0]]:
                return choice
        raise ImageError(NONE_READABLE)


def sample_blocks(images: TrainingImages, side: int, count: int, seed: int) -> Tensor:
    """Random blocks ``(count, side²)``, float32 on the unit scale, for the PCA of Φ.

    Every image gives the same number of blocks and is read once. Unreadable images reduce the
    count.

    Raises:
        ImageError: no image can be decoded, or the images have more than one channel.
    """
    if images.channels > 1:
        raise ImageError(
            f"blocks need images of one channel, but these images have {images.channels}; set "
            "data.color=luma, or another sampling.phi_init"
        )
    source = generator(seed, 0, stream=9)
    share = -(-count // len(images.names))
    blocks = []
    for k in range(len(images.names)):
        try:
            pixels = np.asarray(images.read(k))
        except ImageError:
            continue
        tops = source.integers(pixels.shape[0] - side + 1, size=share)
        lefts = source.integers(pixels.shape[1] - side + 1, size=share)
        places = zip(tops, lefts, strict=True)
        blocks += [as_type(pixels[t : t + side, w : w + side], images.dtype) for t, w in places]
    if not blocks:
        raise ImageError("none of the training images can be decoded")
    array = np.stack(blocks).reshape(len(blocks), -1)
    kept = source.permutation(len(array))[:count]
    return torch.from_numpy(unit_array(array[kept]))
