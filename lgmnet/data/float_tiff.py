"""Read TIFF files with float colour or 64-bit floats, which Pillow cannot open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from lgmnet.data.jpeg_content import opencv

ENDINGS = (".tif", ".tiff")
SAMPLES = TiffImagePlugin.SAMPLESPERPIXEL


def decode(path: Path) -> np.ndarray | None:
    """Grey ``(H, W)`` or BGR ``(H, W, 3)`` float32 of such a file; None for other files."""
    if path.suffix.lower() not in ENDINGS or _is_known(path):
        return None
    try:
        with path.open("rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        if is_planar(tags):
            return None
        pixels = opencv(path.read_bytes(), cv2.IMREAD_UNCHANGED)
    except Exception:  # a damaged file can raise any error
        return None
    is_image = pixels.ndim == 2 or pixels.shape[2] == 3
    return pixels.astype(np.float32) if is_image and pixels.dtype.kind == "f" else None


def is_planar(tags: Mapping[int, Any]) -> bool:
    """Whether R, G and B are stored as separate planes, which OpenCV would mix."""
    return tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) != 1 and tags.get(SAMPLES, 1) > 1


def _is_known(path: Path) -> bool:
    """Whether Pillow can open the file."""
    try:
        with Image.open(path, formats=["TIFF"]):
            return True
    except Exception:  # a damaged file can raise any error
        return False
