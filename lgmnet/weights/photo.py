"""A photograph in and out: a simulated measurement with the Φ of some weights."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from lgmnet.data import color as planes
from lgmnet.data.images import read_pixels
from lgmnet.data.values import to_uint8
from lgmnet.weights.measurement import measure_image, reconstruct_image
from lgmnet.weights.saved import load


def reconstruct(
    photo: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "lgm_net_tiny_r0.10",
    *,
    color: bool = False,
    condition: str | None = None,
) -> Image.Image:
    """Measure a photograph with the Φ of some weights, and reconstruct it from y alone.

    >>> lgmnet.reconstruct("photo.jpg").save("out.png")

    Args:
        photo: an image file of any size.
        weights: name, folder or file; `lgmnet.available` lists the shipped ones.
        color: measure and reconstruct red, green and blue separately. Otherwise the result is the
            luma of the photograph.
        condition: of weights for several conditions, such as ``r0.05``.

    Returns:
        The reconstruction as an image of 8 bits, in the size of the photograph.

    Raises:
        ValueError: the photograph or the weights cannot be read or do not fit together.
    """
    model = load(os.fspath(weights), condition=condition)
    if model.operator.channels != 1:
        raise ValueError(
            f"{weights} measures images of {model.operator.channels} channels, expected weights "
            "for one; use model.measure and model.reconstruct of lgmnet.load"
        )
    path = Path(photo)
    pixels = read_pixels(path)
    parts = planes.channels(pixels, "rgb" if color else "luma")
    rebuilt = [
        reconstruct_image(model, measure_image(model, plane, path.stem, condition))
        for plane in parts
    ]
    image = to_uint8(planes.join(rebuilt))
    return Image.fromarray(np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image)
