"""Random training crops: sample number n of a seed is the same crop everywhere.

A crop depends on the seed and its number alone, not on workers, processes, source or history.
So a resumed run continues with exactly the crops it would have seen, two processes see what one
would have seen, and a faster source changes the speed, never the data.
"""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lgmnet.data.datasets import TrainingImages
from lgmnet.data.images import ImageError
from lgmnet.data.transforms import DIHEDRAL_MODES, dihedral

ATTEMPTS = 100
NONE_READABLE = f"{ATTEMPTS} images drawn in a row cannot be decoded; check the training folder"


class Plan(NamedTuple):
    """Which sample numbers a process draws: ``batch`` numbers per step, from ``step`` on."""

    step: int
    batch: int
    rank: int = 0
    processes: int = 1

    def numbers(self) -> Iterator[list[int]]:
        """Sample numbers of each step, forever. Together the processes take whole batches."""
        share = self.batch // self.processes
        step = self.step
        while True:
            first = step * self.batch + self.rank * share
            yield list(range(first, first + share))
            step += 1


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
    """The flip and turn of a sample; one for the whole batch with ``augment="batch"``."""
    if rule.augment == "none":
        return 0
    shared = rule.augment == "batch"
    source = generator(rule.seed, number // rule.batch if shared else number, stream=1 + shared)
    return int(source.integers(DIHEDRAL_MODES))


def draw_crops(
    sizes: list[tuple[int, int]], rule: CropRule, number: int
) -> Iterator[tuple[int, int, int]]:
    """``(image, top, left)`` of a sample, and the next choices should the image be unreadable."""
    source = generator(rule.seed, number)
    for _ in range(ATTEMPTS):
        image = int(source.integers(len(sizes)))
        height, width = sizes[image]
        top = int(source.integers(height - rule.size + 1))
        left = int(source.integers(width - rule.size + 1))
        yield image, top, left


class TrainingCrops(Dataset[tuple[Tensor, int]]):
    """Sample number -> ``((1, size, size) uint8 luma, mode)``; reads its image each time.

    ``unreadable`` counts failures per image, also those seen by loader processes.
    """

    def __init__(self, images: TrainingImages, rule: CropRule) -> None:
        self.images = images
        self.rule = rule
        self.unreadable = torch.zeros(len(images.names), dtype=torch.int32).share_memory_()

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        size = self.rule.size
        for image, top, left in draw_crops(self.images.sizes, self.rule, number):
            try:
                pixels = self.images.read(image)
            except ImageError:
                self.unreadable[image] += 1
                continue
            crop = np.array(pixels[top : top + size, left : left + size])
            if crop.shape == (size, size):
                return torch.from_numpy(crop)[None], draw_mode(self.rule, number)
            self.unreadable[image] += 1
        raise ImageError(NONE_READABLE)

    def unreadable_names(self) -> list[str]:
        return [self.images.names[k] for k in self.unreadable.nonzero().flatten().tolist()]


def loaded_batches(
    crops: TrainingCrops, plan: Plan, workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Batches ``(b, 1, size, size)`` uint8 on ``device``, read ahead by loader processes."""
    workers = min(workers, os.cpu_count() or 1)
    loader = DataLoader(
        crops,
        batch_sampler=plan.numbers(),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker if workers else None,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # the global random state is left to the noise
    )
    others = multiprocessing.active_children()
    batches = iter(loader)
    atexit.register(_kill, [p for p in multiprocessing.active_children() if p not in others])
    for batch, modes in batches:
        yield dihedral(batch.to(device, non_blocking=True), modes)


def _kill(processes: list[multiprocessing.process.BaseProcess]) -> None:
    """End loader processes that are still there: they ignore the signals that Python sends them.

    Without it a process that ends by an error would wait for them forever.
    """
    for process in processes:
        if process.is_alive():
            process.kill()


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the main process ends the run


class DeviceCrops:
    """All images on one device as one flat array of bytes; a batch is one gather there.

    Draws the same crops as `TrainingCrops`. Images that cannot be decoded, or whose header lies
    about their size, are never drawn, and named in ``unreadable``.
    """

    def __init__(self, images: TrainingImages, device: torch.device) -> None:
        self.sizes = images.sizes
        self.readable: list[bool] = []
        pixels = []
        for k in range(len(images.names)):
            height, width = images.sizes[k]
            try:
                luma = np.array(images.read(k))
                self.readable.append(luma.shape == (height, width))
            except ImageError:
                self.readable.append(False)
            if self.readable[-1]:
                pixels.append(torch.from_numpy(luma).flatten())
        if not pixels:
            raise ImageError("none of the training images can be decoded")
        self.unreadable = [n for n, ok in zip(images.names, self.readable, strict=True) if not ok]
        areas = [h * w * ok for (h, w), ok in zip(self.sizes, self.readable, strict=True)]
        self.starts = torch.tensor([0, *areas]).cumsum(0)
        self.bytes = torch.cat(pixels).to(device)

    def batches(self, rule: CropRule, plan: Plan) -> Iterator[Tensor]:
        """Batches ``(b, 1, size, size)`` uint8 on the device."""
        for numbers in plan.numbers():
            yield self.batch(rule, numbers)

    def batch(self, rule: CropRule, numbers: list[int]) -> Tensor:
        drawn = [self._draw(rule, number) for number in numbers]
        image, top, left = (torch.tensor(values) for values in zip(*drawn, strict=True))
        width = torch.tensor([self.sizes[k][1] for k in image.tolist()])
        modes = torch.tensor([draw_mode(rule, n) for n in numbers])
        first = (self.starts[image] + top * width + left).to(self.bytes.device)
        offset = torch.arange(rule.size, device=self.bytes.device)
        rows = offset[None, :, None] * width.to(self.bytes.device)[:, None, None]
        index = first[:, None, None] + rows + offset[None, None, :]
        return dihedral(self.bytes[index][:, None], modes)

    def unreadable_names(self) -> list[str]:
        return self.unreadable

    def _draw(self, rule: CropRule, number: int) -> tuple[int, int, int]:
        for choice in draw_crops(self.sizes, rule, number):
            if self.readable[choice[0]]:
                return choice
        raise ImageError(NONE_READABLE)


def sample_blocks(images: TrainingImages, side: int, count: int, seed: int) -> Tensor:
    """``(count, side²)`` float luma in [0, 1]: random blocks, for the PCA of Φ.

    Every image gives an equal share, so each is read once; fewer where images are unreadable.
    """
    source = generator(seed, 0, stream=9)
    share = -(-count // len(images.names))
    blocks = []
    for k in range(len(images.names)):
        try:
            luma = np.asarray(images.read(k))
        except ImageError:
            continue
        tops = source.integers(luma.shape[0] - side + 1, size=share)
        lefts = source.integers(luma.shape[1] - side + 1, size=share)
        blocks += [luma[t : t + side, w : w + side] for t, w in zip(tops, lefts, strict=True)]
    if not blocks:
        raise ImageError("none of the training images can be decoded")
    array = np.stack(blocks).reshape(len(blocks), -1)
    kept = source.permutation(len(array))[:count]
    return torch.from_numpy(array[kept].astype(np.float32) / 255)
