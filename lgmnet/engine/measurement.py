"""A measurement as a file: what a camera would send, and what is needed to rebuild the image."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lgmnet.data.transforms import crop_back, pad_to_block
from lgmnet.engine.checkpoint import CheckpointError, Weights, write_atomically
from lgmnet.engine.untrained import Untrained
from lgmnet.models import SensingModel

FORMAT = "lgmnet-measurement/1"


class Measurement(NamedTuple):
    """y ``(1, m, H/B, W/B)`` of one image, the image's size before padding, and the hash of Φ."""

    values: Tensor
    height: int
    width: int
    phi_sha256: str


def measure_image(
    model: SensingModel, weights: Weights | Untrained, luma: np.ndarray, name: str
) -> Measurement:
    """Measure an image of any size; zeros complete it to whole blocks.

    Args:
        luma: ``(H, W)`` uint8.
        name: fixes the noise, where the model has any.
    """
    image = torch.from_numpy(luma)[None, None].float() / 255
    padded = pad_to_block(image, model.operator.multiple)
    with torch.inference_mode():
        values = model.measure(padded, name)
    return Measurement(values, luma.shape[0], luma.shape[1], weights.metadata["phi_sha256"])


def reconstruct_image(
    model: SensingModel, weights: Weights | Untrained, measurement: Measurement
) -> np.ndarray:
    """The image ``(H, W)`` float32 in [0, 1], not clipped, in its size before padding.

    Raises:
        CheckpointError: the measurement was made with another Φ.
    """
    if measurement.phi_sha256 != weights.metadata["phi_sha256"]:
        raise CheckpointError(
            f"the measurement was made with another Φ ({measurement.phi_sha256[:12]}…) than the "
            f"one of {weights.name} ({weights.metadata['phi_sha256'][:12]}…); reconstruct with the "
            "weights it was measured with"
        )
    with torch.inference_mode():
        image = model.reconstruct(measurement.values)
    return crop_back(image, measurement.height, measurement.width)[0, 0].numpy()


def save_measurement(path: Path, measurement: Measurement) -> None:
    """Write y as float32 safetensors, with the sizes and the hash of Φ as metadata."""
    metadata = {
        "format": FORMAT,
        "height": str(measurement.height),
        "width": str(measurement.width),
        "phi_sha256": measurement.phi_sha256,
    }
    tensors = {"measurement": measurement.values.float().contiguous()}
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
    return Measurement(
        values, int(metadata["height"]), int(metadata["width"]), metadata["phi_sha256"]
    )
