"""Translate published weights of the original authors for a Fourier mask."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lgmnet.models import admm_csnet, admm_net, ista_net
from lgmnet.models.base import MODELS
from lgmnet.operators import FourierMask
from lgmnet.registry import require_choice
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.foreign import load_foreign
from lgmnet.weights.tensor_files import load_state


class PublishedForMask(NamedTuple):
    """Options and state of a network, and the channels of its training images."""

    options: dict[str, Any]
    state: dict[str, Tensor]
    image_channels: int


Translator = Callable[[Mapping[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]

# Network -> its translator, and the channels of the authors' images.
TRANSLATORS: dict[str, tuple[Translator, int]] = {
    "admm_csnet": (admm_csnet.from_published, 2),
    "admm_net": (admm_net.from_published, 1),
    "ista_net": (ista_net.from_published_mri, 1),
    "ista_net_plus": (ista_net.from_published_mri, 1),
}


def load_published(network: str, path: Path, mask: Tensor) -> PublishedForMask:
    """Translate an authors' weights file for MRI. The file does not contain the mask.

    Args:
        network: one of `TRANSLATORS`.
        path: a .pkl, .pth or .mat file of the authors.
        mask: ``(H, W)``, uncentred: the mask of the training. The network runs with any mask, but
            reconstructs well only with this one.

    Raises:
        OtherNetwork: the file belongs to another network.
        ValueError: the file is missing, damaged or incomplete, the network has no translator, or
            the mask is not valid. The message says which.
    """
    require_choice("network with weights for a mask", network, TRANSLATORS)
    translate, channels = TRANSLATORS[network]
    FourierMask(mask, channels)  # raises an error if the mask is not valid
    tensors = load_foreign(path)
    try:
        options, state = translate(tensors)
    except (LookupError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a complete {network} file ({type(error).__name__}: {error})"
        ) from None
    load_state(MODELS.create(network, **options), state, str(path))  # checks names and shapes
    return PublishedForMask(options, state, channels)
