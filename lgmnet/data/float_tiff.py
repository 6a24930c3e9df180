"""Read TIFF files with float colour or 64-bit floats, which Pillow cannot open."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lgmnet.data import tiff_content
from lgmnet.data.jpeg_content import opencv

ENDINGS = (".tif", ".tiff")
SAMPLE_FORMAT, FLOAT = 339, 3


def decode(path: Path) -> np.ndarray | None:
    """Grey ``(H, W)`` or BGR ``(H, W, 3)`` float32 of such a file; None for other files.

    Raises:
        ValueError: it is such a file, but it is too large or damaged.
    """
    if path.suffix.lower() not in ENDINGS or _is_known(path):
        return None
    try:
        tags = tiff_content.first_tags(path)
        kinds = tiff_content.values(tags, SAMPLE_FORMAT)
    except Exception:  # a damaged file can raise any error
        return None
    negative = tags.get(tiff_content.PHOTOMETRIC) == tiff_content.WHITE_IS_ZERO
    if set(kinds) != {FLOAT} or negative or tiff_content.is_planar(tags):
        return None
    try:
        content = path.read_bytes()
        tiff_content.refuse_incomplete(content, tags)
        pixels = opencv(content, cv2.IMREAD_UNCHANGED)
    except Exception as error:  # a damaged file can raise any error
        raise ValueError(f"{path} cannot be decoded ({error}); it may be truncated") from None
    is_image = pixels.ndim == 2 or pixels.shape[2] == 3
    return pixels.astype(np.float32) if is_image and pixels.dtype.kind == "f" else None


def _is_known(path: Path) -> bool:
    """Whether Pillow can open the file, or knows that it is too large."""
    try:
        with Image.open(path, formats=["TIFF"]):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # a damaged file can raise any error
        return False
