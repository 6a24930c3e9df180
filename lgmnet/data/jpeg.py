"""JPEG decoding on the GPU by torchvision (nvJPEG), for large folders that are not packed.

So far it was only tested with a replacement of torchvision, not on a GPU. A GPU rounds a few pixels
to the next level, so a run can be repeated exactly only with the same ``data.decode``.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lgmnet.data.crops import Plan, TrainingCrops, draw_crops, draw_mode
from lgmnet.data.datasets import TrainingImages, file_of
from lgmnet.data.images import read_plain_jpeg
from lgmnet.data.transforms import dihedral


class Encoded(NamedTuple):
    """A sample with its number, its crop and the bytes of its file; None for another decoder."""

    number: int
    image: int
    top: int
    left: int
    content: bytes | None


def unavailable(images: TrainingImages, device: torch.device) -> str:
    """The reason why this device cannot decode these images; empty if it can."""
    if device.type != "cuda":
        return "it needs a CUDA device"
    if file_of(images, 0) is None:
        return "a packed store needs no decoding"
    if images.channels > 1 or images.dtype != np.uint8:
        return "it decodes only 8-bit luma"
    try:
        import torchvision.io  # noqa: F401  (slow to import, and optional)
    except (ImportError, RuntimeError) as error:
        return f"torchvision cannot be imported ({error})"
    return ""


def decoded_batches(
    crops: TrainingCrops, plan: Plan, readers: int, device: torch.device
) -> Iterator[Tensor]:
    """The batches of `loaded_batches`, decoded on ``device``. ``readers`` threads read files ahead.

    `TrainingCrops` decodes the other files: other formats, images that need a rotation, files that
    may be cut short, and files that the device cannot decode.
    """
    with ThreadPoolExecutor(max(1, readers)) as pool:
        steps = plan.numbers()
        ahead = [pool.submit(_read, crops, number) for number in next(steps)]
        for numbers in steps:
            samples = [future.result() for future in ahead]
            ahead = [pool.submit(_read, crops, number) for number in numbers]
            yield _cut(crops, samples, device)


def _read(crops: TrainingCrops, number: int) -> Encoded:
    image, top, left = next(draw_crops(crops.images.sizes, crops.rule, number))
    path = file_of(crops.images, image)
    assert path is not None, "unavailable() was not asked"
    return Encoded(number, image, top, left, read_plain_jpeg(path))


def _cut(crops: TrainingCrops, samples: list[Encoded], device: torch.device) -> Tensor:
    """The crops ``(b, 1, size, size)`` of a step."""
    decoded = _decode([s.content for s in samples if s.content is not None], device)
    size, cut = crops.rule.size, []
    for sample in samples:
        pixels = decoded.pop(0) if decoded and sample.content is not None else None
        expected = (1, *crops.images.sizes[sample.image])
        if pixels is not None and pixels.shape == expected and not _ends_flat(pixels[0]):
            rows, columns = (slice(start, start + size) for start in (sample.top, sample.left))
            mode = draw_mode(crops.rule, sample.number)
            cut.append(dihedral(pixels[:, rows, columns], mode))
        else:
            cut.append(crops[sample.number].to(device))
    return torch.stack(cut)


def _ends_flat(luma: Tensor) -> bool:
    """Whether the last 8 x 8 block is constant. Then the end may be missing; the CPU checks it."""
    height, width = luma.shape
    block = luma[(height - 1) // 8 * 8 :, (width - 1) // 8 * 8 :]
    return bool((block == block[0, 0]).all())


def _decode(contents: list[bytes], device: torch.device) -> list[Tensor]:
    """Luma ``(1, H, W)`` uint8 of each file; an empty list if the decoder refuses one file."""
    from torchvision.io import ImageReadMode, decode_jpeg

    if not contents:
        return []
    encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    try:
        return list(decode_jpeg(encoded, mode=ImageReadMode.GRAY, device=device))
    except RuntimeError:
        return []
