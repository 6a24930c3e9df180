"""Damaged images of every format: refused by name, or read right.

Each image is made here and damaged in seeded ways. A format with checksums is refused, or has the
pixels of the whole file. In a format without checksums other values cannot be noticed, but missing
ones can.
"""

import io
import random
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lgmnet.data.images import (
    ImageError,
    inspect,
    read_pixels,
    read_training_luma,
    read_training_pixels,
)

READERS = (
    read_pixels,
    read_training_luma,
    lambda path: read_training_pixels(path, "rgb"),
    lambda path: read_training_pixels(path, "color"),
)


def photograph(channels=3, top=255, dtype=np.uint8) -> np.ndarray:
    """Smooth with some noise, not square: ``(37, 52)`` or ``(37, 52, channels)``, RGB."""
    draw = np.random.default_rng(0)
    smooth = cv2.resize(draw.random((5, 7, 3)), (52, 37), interpolation=cv2.INTER_LINEAR)
    values = np.clip(smooth + draw.normal(0, 0.02, smooth.shape), 0, 1) * top
    return values.astype(dtype)[:, :, 0] if channels == 1 else values.astype(dtype)


def saved(format, image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pillow(format, mode="RGB", **options):
    """A function that makes the bytes of an image with Pillow."""
    return lambda: saved(format, Image.fromarray(photograph()).convert(mode), **options)


def opencv(ending, pixels, *options):
    return lambda: cv2.imencode(ending, pixels, options)[1].tobytes()


def tiff(pixels, **options):
    def make():
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **options)
        return file.getvalue()

    return make


def opaque(format, **options):
    plane = np.full((37, 52), 255, np.uint8)
    image = Image.fromarray(np.dstack([photograph(), plane]))
    return lambda: saved(format, image, **options)


DEEP, DEEP_GREY = photograph(3, 65535, np.uint16), photograph(1, 65535, np.uint16)
FLOAT, FLOAT_GREY = photograph(3, 1, np.float32), photograph(1, 1, np.float32)
PLAIN = b"P2\n52 37\n255\n" + b"\n".join(
    b" ".join(b"%d" % value for value in row) for row in photograph(1)
)

# Formats in which each byte of the pixels is covered by a checksum. That of deflate does not cover
# the tags of a TIFF, so those files are tested with damage in their streams.
CHECKED = {
    "png grey": pillow("PNG", "L"),
    "png bits": pillow("PNG", "1"),
    "png palette": pillow("PNG", "P"),
    "png colour": pillow("PNG"),
    "png opaque": opaque("PNG"),
    "png deep": opencv(".png", DEEP[:, :, ::-1]),  # OpenCV takes BGR
    "png deep grey": opencv(".png", DEEP_GREY),
}
# Formats without, or with one of which no reader takes notice.
OPEN = {
    "tiff deflate": pillow("TIFF", compression="tiff_adobe_deflate"),
    "jpeg": pillow("JPEG"),
    "jpeg grey": pillow("JPEG", "L"),
    "jpeg progressive": pillow("JPEG", progressive=True),
    "jpeg restarts": pillow("JPEG", restart_marker_blocks=2),
    "tiff": pillow("TIFF"),
    "tiff lzw": pillow("TIFF", compression="tiff_lzw"),
    "tiff packbits": pillow("TIFF", compression="packbits"),
    "tiff jpeg": pillow("TIFF", compression="jpeg"),
    "tiff fax": pillow("TIFF", "1", compression="group4"),
    "tiff palette": pillow("TIFF", "P"),
    "tiff opaque": opaque("TIFF"),
    "tiff tiles": tiff(photograph(), tile=(16, 16), photometric="rgb"),
    "tiff big": tiff(photograph(), bigtiff=True, photometric="rgb"),
    "tiff deep": tiff(DEEP, photometric="rgb"),
    "tiff deep deflate": tiff(DEEP, photometric="rgb", compression="zlib"),
    "tiff deep grey": tiff(DEEP_GREY, byteorder=">"),
    "tiff float": tiff(FLOAT, photometric="rgb"),
    "tiff float deflate": tiff(FLOAT, photometric="rgb", compression="zlib"),
    "tiff float grey": tiff(FLOAT_GREY),
    "tiff pages": pillow("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
    "bmp": pillow("BMP"),
    "bmp grey": pillow("BMP", "L"),
    "bmp bits": pillow("BMP", "1"),
    "bmp palette": pillow("BMP", "P"),
    "pgm": pillow("PPM", "L"),
    "pbm": pillow("PPM", "1"),
    "ppm": pillow("PPM"),
    "pgm plain": lambda: PLAIN,
    "webp": pillow("WEBP"),
    "webp lossless": pillow("WEBP", lossless=True),
    "webp opaque": opaque("WEBP", lossless=True),
    "mpo": pillow("MPO", save_all=True, append_images=[Image.new("RGB", (52, 37))]),
}
IMAGES = CHECKED | OPEN


def decoded(content: bytes, name: str) -> np.ndarray:
    """The pixels in RGB order, by another decoder than the one of this package."""
    if "deep" in name or "float" in name:
        return photographs(name)
    with Image.open(io.BytesIO(content)) as image:
        grey = image.mode in ("1", "L")
        return np.asarray(image.convert("L" if grey else "RGB"))


def photographs(name: str) -> np.ndarray:
    """The pixels that were stored without loss."""
    if "deep" in name:
        return DEEP_GREY if "grey" in name else DEEP
    return FLOAT_GREY if "grey" in name else FLOAT


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / ("x.tif" if "tiff" in name else "x.png")
    path.write_bytes(content)
    return path


def rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else pixels[:, :, ::-1]


@pytest.mark.parametrize("name", IMAGES)
def test_every_format_has_the_pixels_of_another_decoder(name, tmp_path):
    content = IMAGES[name]()
    pixels = rgb(read_pixels(written(tmp_path, name, content)))
    np.testing.assert_array_equal(pixels, decoded(content, name))


def cut(content, draw):
    return content[: draw.randrange(len(content))]


def longer(content, draw):
    return content + draw.randbytes(draw.randrange(1, 200))


def over(fill):
    """Damage that writes other bytes over some."""

    def damage(content, draw):
        place = draw.randrange(len(content))
        end = min(len(content), place + draw.randrange(1, 200))
        return content[:place] + fill(content[place:end], draw) + content[end:]

    return damage


def flip(content, draw):
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


DAMAGES = {
    "cut": cut,
    "zeros": over(lambda old, draw: bytes(len(old))),
    "noise": over(lambda old, draw: draw.randbytes(len(old))),
    "twice": over(lambda old, draw: old * 2),
    "longer": longer,
    "bit": flip,
}


def answers(path: Path) -> list[np.ndarray | None]:
    """What each reader gives; None if it refuses the file by name."""
    found = []
    for read in READERS:
        problem = None
        try:
            found.append(read(path))
        except ImageError as error:
            problem = str(error)
            found.append(None)
        assert problem is None or path.name in problem
    return found


def harm(folder: Path, name: str, kind: str, count: int) -> dict[str, int]:
    """Damage an image in many ways; the number of files refused, same and other."""
    draw = random.Random(f"{name} {kind}")
    content, tally = IMAGES[name](), {"refused": 0, "same": 0, "other": 0}
    whole = answers(written(folder, name, content))
    for _ in range(count):
        path = written(folder, name, DAMAGES[kind](content, draw))
        found = answers(path)
        if found[0] is None:
            tally["refused"] += 1
            # The luma of a baseline JPEG is compared only where it ends in grey.
            assert "jpeg" in name or "mpo" in name or found == [None] * 4
            continue
        assert all(pixels is not None for pixels in found)
        assert inspect(path)[:2] == found[0].shape[:2]
        same = all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))
        tally["same" if same else "other"] += 1
    return tally


def require_noticed(name: str, kind: str, tally: dict[str, int]) -> None:
    """Other pixels only where no checksum covers them; missing ones nowhere."""
    if name in CHECKED or kind in ("cut", "longer"):
        assert tally["other"] == 0, f"{name}, {kind}: {tally}"
    if kind == "cut" and name != "mpo":  # an MPO that is cut after its first image is whole
        assert tally["refused"] >= 0.5 * sum(tally.values())


@pytest.mark.parametrize("name", IMAGES)
def test_a_damaged_image_is_refused_by_name_or_right(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about damaged metadata
        for kind in DAMAGES:
            require_noticed(name, kind, harm(tmp_path, name, kind, 4))


@pytest.mark.long
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_damaged_in_1200_ways_is_refused_by_name_or_right(name, tmp_path):
    total = {"refused": 0, "same": 0, "other": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in DAMAGES:
            tally = harm(tmp_path, name, kind, 200)
            require_noticed(name, kind, tally)
            total = {key: total[key] + tally[key] for key in total}
    print(f"{name}: {total}")
