"""A snapshot of a spectral camera: the picture of its detector, and the mask that was used."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lgmnet.arrays import read_array
from lgmnet.build import Source, at_condition
from lgmnet.config import ConfigError
from lgmnet.models import SensingModel
from lgmnet.operators import CodedAperture, CodedApertureConfig
from lgmnet.weights.loadable import Loadable
from lgmnet.weights.saved import find_weights

# What the public data sets call the picture.
NAMES = ("meas_real", "meas", "measurement", "y")


def read_snapshot(path: Path, operator: CodedAperture) -> Tensor:
    """The picture ``(1, 1, H, W + step·(bands − 1))`` of a .mat, .npy or .npz file, float32.

    Raises:
        ValueError: the file holds no picture, values that are not finite or negative, or a picture
            of another size than the operator measures.
    """
    _, array = read_array(path, NAMES, "measurement", "'y'")
    if array.ndim != 2 or array.dtype.kind not in "buif":
        raise ValueError(
            f"the measurement in {path} is {array.dtype} of shape {array.shape}, expected numbers "
            "of shape (H, W): one picture of the detector"
        )
    expected = operator.measurement_shape(*operator.mask.shape)[1:]
    if array.shape != expected:
        raise ValueError(_size_message(path, array.shape, operator))
    if not np.isfinite(array).all() or array.min() < 0:
        raise ValueError(
            f"the measurement in {path} has values below 0 or not finite, expected the light that "
            "arrived; subtract no more than the dark picture, and set what is below 0 to 0"
        )
    return torch.from_numpy(array.astype(np.float32))[None, None]


def _size_message(path: Path, shape: tuple[int, ...], operator: CodedAperture) -> str:
    height, width = operator.mask.shape
    expected = operator.measurement_shape(height, width)[1:]
    turned = "; it seems to be turned: transpose it" if shape == expected[::-1] else ""
    return (
        f"the measurement in {path} has {shape[0]} x {shape[1]} pixels, expected {expected[0]} x "
        f"{expected[1]}: the mask has {height} x {width} pixels, and {operator.channels} bands are "
        f"shifted by {operator.step} columns each{turned}"
    )


class WithMask:
    """Weights of spectral imaging that measure with another mask, with the interface of `Weights`.

    Args:
        weights: of any size of image.
        mask: a file, by path or below the folder of the data. All of it is used.

    Raises:
        ConfigError: the weights are not for spectral images, or the mask is none.
    """

    def __init__(self, weights: Loadable, mask: str) -> None:
        settings = weights.config.sampling
        if not isinstance(settings, CodedApertureConfig):
            raise ConfigError(
                f"a mask is for spectral imaging, but {weights.name} measures with "
                f"{type(settings).__name__.removesuffix('Config')}, expected "
                "sampling.operator=coded_aperture; name weights or a config of spectral imaging"
            )
        sampling = dataclasses.replace(settings, mask=mask, size=())
        operator = sampling.make(Source())
        self.name = f"{weights.name}_{Path(mask).stem}"
        self.config = dataclasses.replace(weights.config, sampling=sampling)
        self.metadata = {**weights.metadata, "phi_sha256": operator.fingerprint()}
        self._model = weights.load().measured_by(operator).eval()

    def load(self, condition: str | None = None) -> SensingModel:
        """The model in float32, on the CPU, in evaluation mode; see `Weights.load`."""
        return at_condition(copy.deepcopy(self._model), self.config.sampling, condition)


def model_of_camera(weights: str, mask: str, overrides: tuple[str, ...] = ()) -> SensingModel:
    """A network, or a method without trained values, that measures with the mask of a camera.

    Args:
        weights: name, folder or file of weights; or a config such as configs/cassi_gap_tv.yaml.
        mask: see `WithMask`.
        overrides: changes of a config, ``section.key=value``.

    Raises:
        ConfigError: the weights are not for spectral images, or the mask is none.
    """
    is_config = Path(weights).suffix in (".yaml", ".yml")
    own = [*overrides, f"sampling.mask={mask}"] if is_config else overrides
    return WithMask(find_weights(weights, own), mask).load()
