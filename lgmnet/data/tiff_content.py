"""Read the tags of a TIFF file, and detect damage that its decoders accept.

Decoders fill missing strips with zeros. libtiff does not compare the checksum of a deflate stream
if a damaged stream gives enough bytes. Only the first page is examined, because it is the image.
"""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, TiffImagePlugin

Tags = Mapping[int, Any]

WIDTH, HEIGHT = TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH
SAMPLES, PLANES = TiffImagePlugin.SAMPLESPERPIXEL, TiffImagePlugin.PLANAR_CONFIGURATION
BITS, COMPRESSION = TiffImagePlugin.BITSPERSAMPLE, TiffImagePlugin.COMPRESSION
PHOTOMETRIC, WHITE_IS_ZERO = TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0
ROWS = TiffImagePlugin.ROWSPERSTRIP
STRIPS = TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.STRIPBYTECOUNTS
TILES = TiffImagePlugin.TILEOFFSETS, TiffImagePlugin.TILEBYTECOUNTS
TILE_WIDTH, TILE_HEIGHT = TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH
UNCOMPRESSED, DEFLATE = 1, (8, 32946)
BLOCK_BYTES = 1 << 20
LARGEST_TILE = 4096**2  # pixels; in a larger image a tile may have as many as the image


def first_tags(path: Path) -> Tags:
    """The tags of the first page. A damaged file can raise any error."""
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(8) if 43 in start[2:4] else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        return tags


def is_planar(tags: Tags) -> bool:
    """Whether R, G and B are stored as separate planes, which OpenCV would mix."""
    return tags.get(PLANES, 1) != 1 and tags.get(SAMPLES, 1) > 1


def refuse_bomb(tags: Tags) -> None:
    """Raise ValueError if the image is larger than Pillow's limit, or a tile than the image."""
    pixels, limit = tags[WIDTH] * tags[HEIGHT], Image.MAX_IMAGE_PIXELS
    tile = tags.get(TILE_WIDTH, 1) * tags.get(TILE_HEIGHT, 1)
    if tile > max(pixels, LARGEST_TILE):
        raise ValueError(f"a tile has {tile} pixels, and the image {pixels}")
    if limit is not None and pixels > 2 * limit:
        raise ValueError(f"{pixels} pixels, at most {2 * limit}: could be a decompression bomb")


def refuse_incomplete(content: bytes, tags: Tags) -> None:
    """Raise ValueError if strips or bytes are missing, or a deflate stream is damaged.

    The memory that this takes does not depend on what the streams unpack to.
    """
    refuse_bomb(tags)
    offsets, counts = (values(tags, name) for name in (TILES if TILES[0] in tags else STRIPS))
    if len(offsets) < _pieces(tags):
        raise ValueError(f"it has {len(offsets)} strips or tiles, expected {_pieces(tags)}")
    compression = tags.get(COMPRESSION, UNCOMPRESSED)
    least = tags[HEIGHT] * _row_bytes(tags, tags[WIDTH])
    if compression == UNCOMPRESSED and counts and sum(counts) < least:
        raise ValueError(f"it has {sum(counts)} bytes of pixels, expected {least}")
    if compression in DEFLATE:
        for offset, count in zip(offsets, counts, strict=True):
            _refuse_damaged_stream(content[offset : offset + count], _piece_bytes(tags))


def values(tags: Tags, name: int) -> tuple[int, ...]:
    value = tags.get(name, ())
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _pieces(tags: Tags) -> int:
    """Number of strips or tiles that an image of this size has."""
    planes = tags.get(SAMPLES, 1) if is_planar(tags) else 1
    if TILES[0] in tags:
        across = math.ceil(tags[WIDTH] / tags[TILE_WIDTH])
        return planes * across * math.ceil(tags[HEIGHT] / tags[TILE_HEIGHT])
    return planes * math.ceil(tags[HEIGHT] / tags.get(ROWS, tags[HEIGHT]))


def _piece_bytes(tags: Tags) -> int:
    """Unpacked bytes of one strip or tile."""
    if TILES[0] in tags:
        return tags[TILE_HEIGHT] * _row_bytes(tags, tags[TILE_WIDTH])
    return min(tags.get(ROWS, tags[HEIGHT]), tags[HEIGHT]) * _row_bytes(tags, tags[WIDTH])


def _row_bytes(tags: Tags, width: int) -> int:
    return math.ceil(width * max(values(tags, BITS) or (1,)) * tags.get(SAMPLES, 1) / 8)


def _refuse_damaged_stream(stream: bytes, expected: int) -> None:
    """Unpack it in blocks, which are not kept, up to its checksum."""
    unpacker, unpacked = zlib.decompressobj(), 0
    try:
        while stream and not unpacker.eof:
            unpacked += len(unpacker.decompress(stream, BLOCK_BYTES))
            stream = unpacker.unconsumed_tail
            if unpacked > expected + BLOCK_BYTES:
                raise ValueError(f"a deflate stream has more than the expected {expected} bytes")
    except zlib.error as error:
        raise ValueError(f"a deflate stream is damaged: {error}") from None
    if not unpacker.eof:
        raise ValueError("the end of a deflate stream is missing")
