"""A measurement as a file: what a camera would send, and what is needed to rebuild the image."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lgmnet.data import color
from lgmnet.data.transforms import channels_first, channels_last, crop_back, pad_to_block
from lgmnet.data.values import to_unit
from lgmnet.models import SensingModel
from lgmnet.runtime import device_of
from lgmnet.weights.files import CheckpointError, write_atomically
from lgmnet.weights.tensor_files import check_content, with_content_hash

FORMAT = "lgmnet-measurement/1"


class Measurement(NamedTuple):
    """y ``(1, …)`` of one image, the image's size before padding, the hash of Φ, the condition.

    The condition is empty where the network serves one only, or the shape of y tells it.
    """

    values: Tensor
    height: int
    width: int
    phi_sha256: str
    condition: str = ""


def measure_image(
    model: SensingModel, pixels: np.ndarray, name: str, condition: str | None = None
) -> Measurement:
    """Measure an image on the device of the model.

    The last row and column are repeated up to whole blocks. Zeros, with which published protocols
    score, leave a seam along these borders.

    Args:
        pixels: ``(H, W)`` or BGR ``(H, W, 3)`` or ``(H, W, C)``, uint8, uint16 or float32. An
            operator of one channel measures the luma, one of three the colours together.
        name: seeds the noise, if the model has any.
        condition: the one that the model was loaded for, if any.

    Returns:
        y on the CPU, for any device of the model.

    Raises:
        ValueError: size or channels of the image do not fit the operator.
    """
    [plane] = color.channels(pixels, color.policy_for(model.operator.channels))
    image = to_unit(channels_first(plane).to(device_of(model)))[None]
    if model.operator.size is None:
        image = pad_to_block(image, model.multiple, "replicate")
    with torch.inference_mode():
        values = model.measure(image, name)
    values = values.cpu().contiguous()  # safetensors takes no other
    height, width = pixels.shape[:2]
    fingerprint = model.operator.fingerprint()
    return Measurement(values, height, width, fingerprint, condition or "")


def measured_numbers(model: SensingModel, measurement: Measurement) -> int:
    """How many numbers of y were measured: those that a mask leaves out are zero."""
    support = model.operator.support
    shape = measurement.values.shape[1:]
    return shape.numel() if support is None else int(support.expand(shape).sum())


def measured_size(model: SensingModel, measurement: Measurement) -> tuple[int, int]:
    """Height and width that y was measured of: the image's, padded to whole blocks."""
    height, width = (s + -s % model.multiple for s in (measurement.height, measurement.width))
    return model.operator.size or (height, width)


def reconstruct_image(model: SensingModel, measurement: Measurement) -> np.ndarray:
    """The image in its size before padding, float32, 1.0 is white, not clipped.

    ``(H, W)``, or ``(H, W, C)``: three channels in OpenCV's order, BGR. It is computed on the
    device of the model.

    Raises:
        CheckpointError: the measurement was made with another Φ, or its size is another.
    """
    own = model.operator.fingerprint()
    if measurement.phi_sha256 != own:
        raise CheckpointError(
            f"the measurement was made with another Φ ({measurement.phi_sha256[:12]}…) than the "
            f"one of these weights ({own[:12]}…); reconstruct with the weights it was measured with"
        )
    _check_size(model, measurement)
    with torch.inference_mode():
        image = model.reconstruct(measurement.values.to(device_of(model)))
    cropped = crop_back(image, measurement.height, measurement.width)[0]
    return color.join([channels_last(cropped.cpu().numpy())])


def _check_size(model: SensingModel, measurement: Measurement) -> None:
    height, width = measurement.height, measurement.width
    expected = 1, *model.operator.measurement_shape(*measured_size(model, measurement))
    if measurement.values.shape != expected:
        raise CheckpointError(
            f"the measurement has shape {tuple(measurement.values.shape)}, but an image of "
            f"{height} x {width} pixels measured with these weights makes {expected}"
        )


def save_measurement(path: Path, measurement: Measurement) -> None:
    """Write y as float32 safetensors. Metadata: sizes, hash of Φ, hash of the content."""
    metadata = {
        "format": FORMAT,
        "height": str(measurement.height),
        "width": str(measurement.width),
        "phi_sha256": measurement.phi_sha256,
    }
    if measurement.condition:
        metadata["condition"] = measurement.condition
    tensors = {"measurement": measurement.values.float().contiguous()}
    metadata = with_content_hash(metadata, tensors)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_measurement(path: Path) -> Measurement:
    """Read what `save_measurement` wrote.

    Raises:
        CheckpointError: missing, damaged, or no measurement.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no measurement {path}; make it with scripts/measure.py")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            values = file.get_tensor("measurement") if "measurement" in names else None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error})") from None
    if metadata.get("format") != FORMAT or values is None:
        raise CheckpointError(f"{path} is no measurement; make it with scripts/measure.py")
    if values.dtype != torch.float32 or values.ndim != 4 or not values.numel():
        raise CheckpointError(
            f"{path} holds {values.dtype} of shape {tuple(values.shape)}, expected float32 with "
            "four axes, such as (1, m, H/B, W/B)"
        )
    check_content(path, metadata, {"measurement": values})
    if not values.isfinite().all():
        raise CheckpointError(f"{path} holds values that are not finite")
    height, width = (_pixels(metadata, key, path) for key in ("height", "width"))
    phi_sha256, condition = metadata.get("phi_sha256", "none"), metadata.get("condition", "")
    return Measurement(values, height, width, phi_sha256, condition)


def _pixels(metadata: Mapping[str, str], key: str, path: Path) -> int:
    """A side of the image."""
    text = metadata.get(key, "nothing")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise CheckpointError(f"{path} gives the {key} as {text}, expected a number of pixels")
    return int(text)
