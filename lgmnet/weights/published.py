"""Weights that authors published for a Fourier mask, in our terms."""

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
    """Options and state of a network, and the channels of the images it was trained on."""

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
    """Translate an authors' file of weights for MRI. The files do not hold the mask.

    Args:
        network: one of `TRANSLATORS`.
        path: a .pkl, .pth or .mat of the authors.
        mask: ``(H, W)``, uncentred, that the weights were trained for; a network of any size of
            image works at any mask, but well only at this one.

    Raises:
        OtherNetwork: the file is of another network.
        ValueError: no file, damaged, incomplete, no translator, or no mask; the message says which.
    """
    require_choice("network with weights for a mask", network, TRANSLATORS)
    translate, channels = TRANSLATORS[network]
    FourierMask(mask, channels)  # refuses what is no mask
    tensors = load_foreign(path)
    try:
        options, state = translate(tensors)
    except (LookupError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no complete {network} file ({type(error).__name__}: {error})"
        ) from None
    load_state(MODELS.create(network, **options), state, str(path))  # refuses what does not fit
    return PublishedForMask(options, state, channels)
