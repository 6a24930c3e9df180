"""The images of a run: for training, for validation, and those left out."""

from pathlib import Path
from typing import NamedTuple

import torch

from lgmnet.config import Config, ConfigError, DataConfig
from lgmnet.data.datasets import (
    TrainingImages,
    file_images,
    find_folder,
    find_images,
    open_training_images,
    part_of,
    readable,
    scan_measured,
    split,
    without_copies,
)
from lgmnet.data.images import printable
from lgmnet.evaluation.rebuild import check_channels
from lgmnet.operators import LinearOperator
from lgmnet.project import find_file
from lgmnet.runtime import data_roots


class TrainingData(NamedTuple):
    """Images for training and validation; ``rejected``: path of a file -> reason."""

    train: TrainingImages
    validation: TrainingImages | None
    rejected: dict[str, str]


def open_data(config: Config) -> TrainingData:
    """Find the images of ``config.data``. Validation images are never trained on.

    Raises:
        ImageError: images are missing, or no usable image is left.
    """
    data, roots = config.data, data_roots()
    smallest = max(data.crop_size, config.sampling.smallest)
    for name in data.train:
        if name != "builtin":
            # So that this error comes before one about validation images.
            find_folder(part_of(name)[0], roots)
    listed = data.validation.endswith(".txt")
    reserved = find_images(data.validation, roots) if data.validation and not listed else []
    images, rejected = open_training_images(data.train, roots, smallest, reserved, data.color)
    if data.exclude:
        images, _ = split(images, data.exclude)
    validation: TrainingImages | None = None
    if listed:
        images, validation = split(images, _read_list(data.validation))
        images, copies = without_copies(images, validation)
        rejected |= copies
    elif reserved:
        chosen = reserved[: data.validation_images]
        found = scan_measured(chosen, config.sampling.smallest, data.color)
        validation = file_images(found, data.color)
        rejected |= {printable(path): reason for path, reason in found.rejected.items()}
    if validation is not None:
        validation, unreadable = readable(validation)
        rejected |= unreadable
    return TrainingData(images, validation, rejected)


def check_fit(operator: LinearOperator, images: TrainingImages, data: DataConfig) -> None:
    """Raise ConfigError unless crops of the images are what the operator measures."""
    try:
        check_channels(operator, images.channels, f"data.color={data.color}")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _check_crops(operator, data.crop_size)


def _check_crops(operator: LinearOperator, side: int) -> None:
    """Raise ConfigError unless the operator measures crops of this side."""
    given = f"data.crop_size is {side}, but {type(operator).__name__} measures images"
    if (size := operator.size) is not None and size != (side, side):
        advice = f"set data.crop_size={size[0]}" if size[0] == size[1] else "crops are square"
        raise ConfigError(f"{given} of {size[0]} x {size[1]} pixels; {advice}")
    if rest := side % operator.multiple:
        raise ConfigError(
            f"{given} whose sides are multiples of {operator.multiple}; set "
            f"data.crop_size={side + operator.multiple - rest}"
        )
    try:
        operator.check_image(torch.empty(1, operator.channels, side, side, device="meta"))
    except ValueError as error:
        raise ConfigError(f"data.crop_size is {side}: {error}") from None


def _read_list(name: str) -> list[str]:
    path = find_file(Path(name))
    if not path.is_file():
        raise ConfigError(
            f"data.validation names {path}, but there is no such file; see configs/validation"
        )
    # Notepad writes a byte order mark at the start. A name may be not UTF-8.
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    return [printable(line.strip()) for line in lines if line.strip() and line[0] != "#"]
