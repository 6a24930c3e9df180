"""Image files: which are found, which are refused, and the exact pixels of the others."""

import errno
import io
import os
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from lgmnet.data.color import channels, join, luma
from lgmnet.data.images import (
    ImageError,
    inspect,
    list_images,
    printable,
    read_header,
    read_pixels,
    read_plain_jpeg,
    read_training_luma,
    scan,
    write_image,
)
from lgmnet.data.values import to_uint8


def photograph(height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth RGB, not square, every channel different."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(name: str, image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def with_alpha(alpha: int) -> Image.Image:
    """The photograph with one pixel of another opacity."""
    plane = np.full((40, 56), 255, np.uint8)
    plane[30, 50] = alpha
    return Image.fromarray(np.dstack([photograph(), plane]))


# Finding files.


def test_images_are_listed_in_all_subfolders_by_path(tmp_path):
    """A folder's files stay together: a/ comes before a-b/, which is later in ASCII."""
    for name in ("b.PNG", "a-b/1.jpeg", "a/2.tif", "a/10.png", "a/notes.txt", "c.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()

    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]

    assert names == ["a/10.png", "a/2.tif", "a-b/1.jpeg", "b.PNG"]


def test_what_systems_hide_is_left_out(tmp_path):
    """Thumbnails, copies and deleted images; the folder that was asked for may be hidden."""
    hidden = ("._a.png", ".trash/b.png", "@eaDir/a.png/c.png", "__MACOSX/x/d.png", "#recycle/e.png")
    for name in ("a.png", *hidden):
        path = tmp_path / ".mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert list_images(tmp_path / ".mine") == [tmp_path / ".mine" / "a.png"]


def test_links_to_folders_are_followed_once(tmp_path):
    for name in ("set/a/1.png", "elsewhere/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "set" / "linked").symlink_to("../elsewhere")
    (tmp_path / "set" / "a" / "loop").symlink_to("..")
    (tmp_path / "set" / "b").symlink_to("a")

    found = [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path / "set")]

    assert found == ["set/a/1.png", "set/linked/2.png"]


def test_a_folder_or_link_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """Not by its mode: a superuser reads all."""
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = scan(list_images(tmp_path), smallest=1)

    assert [path.name for path in found.paths] == ["a.png"]
    assert {path.name for path in found.rejected} == {"closed", "gone.png"}
    with pytest.raises(ImageError, match="closed cannot be read"):
        read_pixels(tmp_path / "closed")


def test_a_single_file_is_a_list_of_one(tmp_path):
    (tmp_path / "x.png").touch()

    assert list_images(tmp_path / "x.png") == [tmp_path / "x.png"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"there is no folder .*nowhere"):
        list_images(tmp_path / "nowhere")


def test_a_folder_without_images_says_which_files_would_do(tmp_path):
    (tmp_path / "notes.txt").touch()

    with pytest.raises(ImageError, match=r"subfolders contain no image \(.*\.png"):
        list_images(tmp_path)


# Files that are refused.


def test_a_file_that_is_no_image_is_refused_by_every_reader(tmp_path):
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n"):
        path = tmp_path / "x.png"
        path.write_bytes(content)
        for read in (read_header, read_pixels, read_training_luma):
            with pytest.raises(ImageError, match=r"x\.png cannot be"):
                read(path)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.tif"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    """Its header is whole. OpenCV fills the missing part of a JPEG with grey, without error."""
    path = tmp_path / name
    Image.fromarray(photograph(200, 300)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    assert read_header(path) == (200, 300)
    for read in (read_pixels, read_training_luma):
        with pytest.raises(ImageError, match="truncated"):
            read(path)


JPEGS = {
    "plain": {},
    "all colours": {"subsampling": 0},
    "own tables": {"optimize": True},
    "restarts": {"restart_marker_blocks": 2},
    "progressive": {"progressive": True},
    "thumbnail": {"exif": b"Exif\0\0" + encoded("JPEG", Image.new("L", (16, 16)))},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_that_ends_too_early_is_refused(tmp_path, options, mode):
    """OpenCV decodes these without an error: cut and ended, or filled with zeros by a download."""
    path = tmp_path / "x.jpg"
    whole = encoded("JPEG", Image.fromarray(photograph(97, 155)).convert(mode), **options)
    path.write_bytes(whole)
    assert read_pixels(path).shape[:2] == read_training_luma(path).shape == (97, 155)

    for share in (0.6, 0.75, 0.9):
        kept = int(len(whole) * share)
        for ending in (b"\xff\xd9", bytes(len(whole) - kept)):
            path.write_bytes(whole[:kept] + ending)
            for read in (read_pixels, read_training_luma):
                with pytest.raises(ImageError, match=r"x\.jpg cannot be decoded .*truncated"):
                    read(path)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_whole_jpeg_that_ends_in_one_level_is_read(tmp_path, options, level):
    """As grey as what a decoder puts for missing data."""
    pixels = photograph(97, 155)
    pixels[40:] = level
    Image.fromarray(pixels).save(tmp_path / "x.jpg", **options)

    assert (read_training_luma(tmp_path / "x.jpg")[60:] == level).all()
    assert (read_pixels(tmp_path / "x.jpg")[80:] == level).all()


@pytest.mark.parametrize(
    "after", [bytes(16), b"a film" * 1000, encoded("JPEG", with_alpha(0).convert("RGB"))]
)
def test_a_jpeg_with_bytes_after_its_end_is_read(tmp_path, after):
    path = tmp_path / "x.jpg"
    Image.fromarray(photograph()).save(path)
    pixels, grey = read_pixels(path), read_training_luma(path)
    path.write_bytes(path.read_bytes() + after)

    np.testing.assert_array_equal(read_pixels(path), pixels)
    np.testing.assert_array_equal(read_training_luma(path), grey)


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw"])
def test_a_damaged_tiff_is_refused_where_pillow_refuses_it(tmp_path, compression):
    """OpenCV gives other pixels without an error. In deflate, Pillow accepts some damage too."""
    whole = Image.fromarray(photograph())
    content = encoded("TIFF", whole, compression=compression)
    refused = 0
    for position in range(20, len(content) - 200, len(content) // 40):
        damaged = bytearray(content)
        damaged[position] ^= 16
        (tmp_path / "x.tif").write_bytes(damaged)
        try:
            expected = np.asarray(Image.open(io.BytesIO(damaged)).convert("RGB"))[:, :, ::-1]
        except Exception:
            refused += 1
            with pytest.raises(ImageError, match=r"x\.tif cannot be"):
                read_pixels(tmp_path / "x.tif")
            continue
        if compression == "tiff_lzw":
            np.testing.assert_array_equal(read_pixels(tmp_path / "x.tif"), expected)
        elif not np.array_equal(expected, np.asarray(whole)[:, :, ::-1]):
            with pytest.raises(ImageError, match=r"x\.tif cannot be .*deflate stream"):
                read_pixels(tmp_path / "x.tif")
    assert refused > 1


def test_the_profile_of_a_png_gives_no_warning(tmp_path, capfd):
    """libpng prints: iCCP: known incorrect sRGB profile, or that a profile is not valid."""
    pixels = photograph()
    Image.fromarray(pixels).save(tmp_path / "x.png", icc_profile=bytes(200))
    cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert "iCCP" in capfd.readouterr().err
    np.testing.assert_array_equal(read_pixels(tmp_path / "x.png"), pixels[..., ::-1])
    assert capfd.readouterr().err == ""


def test_a_png_damaged_inside_is_refused(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(photograph()).save(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)

    for read in (read_pixels, read_training_luma):
        with pytest.raises(ImageError, match=r"x\.png cannot be decoded"):
            read(path)


def test_pixels_of_a_kind_that_is_not_read_are_refused_with_their_kind(tmp_path):
    grey = photograph()[:, :, 0]
    files = {"CMYK": "x.jpg", "16-bit I": "x.tif"}
    Image.fromarray(photograph()).convert("CMYK").save(tmp_path / "x.jpg")
    tifffile.imwrite(tmp_path / "x.tif", -grey.astype(np.int16))

    for kind, name in files.items():
        for read in (read_header, read_pixels):
            with pytest.raises(ImageError, match=rf"has {kind} pixels.*convert it first"):
                read(tmp_path / name)


def stored(dtype, shape) -> np.ndarray:
    """Values over the whole range of a type, the first and the last included."""
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    values = np.random.default_rng(0).random(shape) * top
    values.flat[0], values.flat[-1] = 0, top
    return values.astype(dtype)


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 3), (9, 12, 4)])
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bits_are_read_whole(tmp_path, name, shape):
    """Pillow would keep 8 of them in colour."""
    pixels = stored("uint16", shape)
    pixels[..., 3:] = 65535 if len(shape) == 3 else pixels[..., 3:]
    cv2.imwrite(str(tmp_path / name), pixels)

    assert inspect(tmp_path / name) == (9, 12, 1 if len(shape) == 2 else 3, np.uint16)
    expected = pixels[:, :, :3] if len(shape) == 3 else pixels
    np.testing.assert_array_equal(read_pixels(tmp_path / name), expected)


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tiff_of_floats_is_read(tmp_path, shape, dtype):
    pixels = stored("float32", shape).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb" if len(shape) == 3 else None)

    assert inspect(tmp_path / "x.tif") == (9, 12, 1 if len(shape) == 2 else 3, np.float32)
    expected = pixels[:, :, ::-1] if len(shape) == 3 else pixels
    np.testing.assert_array_equal(read_pixels(tmp_path / "x.tif"), expected)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((20, 24), {"byteorder": ">"}), ((3, 20, 24), {"photometric": "minisblack"})],
    ids=["big endian", "pages"],
)
def test_of_a_tiff_the_first_page_is_read_in_any_order_of_bytes(tmp_path, shape, options):
    pixels = stored("uint16", shape)
    tifffile.imwrite(tmp_path / "x.tif", pixels, **options)

    expected = pixels if len(shape) == 2 else pixels[0]
    np.testing.assert_array_equal(read_pixels(tmp_path / "x.tif"), expected)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_planes_one_after_the_other_are_refused(tmp_path, dtype):
    """OpenCV would mix them without an error."""
    planes = stored(dtype, (3, 20, 24))
    tifffile.imwrite(tmp_path / "x.tif", planes, photometric="rgb", planarconfig="separate")

    for read in (read_header, read_pixels):
        with pytest.raises(ImageError, match="x.tif (has 16-bit RGB|cannot be read)"):
            read(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("value", "message"),
    [(1.5, r"x\.tif has values up to 1.5, expected -1 to 1"), (-2, "up to 2"), (np.nan, "NaN"),
     (np.inf, "NaN or infinite")],
)  # fmt: skip
def test_floats_beyond_white_or_no_numbers_are_refused(tmp_path, value, message):
    pixels = stored("float32", (9, 12))
    pixels[3, 4] = value
    Image.fromarray(pixels).save(tmp_path / "x.tif")

    with pytest.raises(ImageError, match=message):
        read_pixels(tmp_path / "x.tif")


def test_a_truncated_16_bit_tiff_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "x.tif"), stored("uint16", (40, 50, 3)))
    content = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(content[: len(content) // 2])

    with pytest.raises(ImageError, match=r"x\.tif cannot be"):
        read_pixels(tmp_path / "x.tif")


@pytest.mark.parametrize("name", ["x.ppm", "x.pgm"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_pnm_of_more_than_8_bits_is_refused(tmp_path, name, plain):
    magic = {"x.ppm": b"P3" if plain else b"P6", "x.pgm": b"P2" if plain else b"P5"}[name]
    values = b"1000 2000 3000 " * 4 if plain else bytes(24)
    (tmp_path / name).write_bytes(magic + b"\n2 2\n4000\n" + values)

    for read in (read_header, read_pixels, read_training_luma):
        with pytest.raises(ImageError, match="expected 8-bit"):
            read(tmp_path / name)


@pytest.mark.parametrize("alpha", [0, 254])
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
def test_a_transparent_pixel_is_refused(tmp_path, alpha, name):
    with_alpha(alpha).save(tmp_path / name, lossless=True)

    for read in (read_pixels, read_training_luma):
        with pytest.raises(ImageError, match="partly transparent; flatten it"):
            read(tmp_path / name)


def test_an_image_too_large_for_the_memory_is_refused_by_its_header(tmp_path):
    """Two gigabytes out of a few bytes."""
    header = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    size = (30_000).to_bytes(4, "little") * 2
    (tmp_path / "x.bmp").write_bytes(header + size + b"\1\0\x18\0" + bytes(1000))
    head = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0"
    checked = b"\0\0\0\x0d" + head + zlib.crc32(head).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + checked + b"\0\0\1\0IDAT")

    for name in ("x.bmp", "x.png"):
        for read in (read_header, read_pixels, read_training_luma):
            with pytest.raises(ImageError, match="decompression bomb"):
                read(tmp_path / name)


def test_a_program_is_no_image(tmp_path):
    """Pillow would give PostScript to another program."""
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")

    with pytest.raises(ImageError, match="cannot be read as an image"):
        read_header(tmp_path / "x.png")


# Files that are read.


def test_pixels_are_bgr_as_stored(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "x.png")

    np.testing.assert_array_equal(read_pixels(tmp_path / "x.png"), photograph()[:, :, ::-1])
    assert read_header(tmp_path / "x.png") == (40, 56)


def test_an_opaque_alpha_channel_is_dropped(tmp_path):
    with_alpha(255).save(tmp_path / "x.png")

    np.testing.assert_array_equal(read_pixels(tmp_path / "x.png"), photograph()[:, :, ::-1])


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif"])
def test_a_palette_is_expanded_to_its_colours(tmp_path, name):
    palette = Image.fromarray(photograph()).quantize(16)
    palette.save(tmp_path / name)

    assert Image.open(tmp_path / name).mode == "P"
    expected = np.array(palette.convert("RGB"))[:, :, ::-1]
    np.testing.assert_array_equal(read_pixels(tmp_path / name), expected)


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
def test_the_orientation_in_the_metadata_is_applied_everywhere(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(photograph())
    image.save(tmp_path / name, exif=exif, lossless=True)
    stored = {} if name != "x.jpg" else {"quality": 75}
    image.save(tmp_path / f"plain-{name}", lossless=True, **stored)
    plain = read_pixels(tmp_path / f"plain-{name}")
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # as in Pillow's ImageOps
    turned = Image.fromarray(plain)
    expected = np.asarray(turned if method is None else turned.transpose(method))

    np.testing.assert_array_equal(read_pixels(tmp_path / name), expected)
    assert read_header(tmp_path / name) == expected.shape[:2]
    assert (read_plain_jpeg(tmp_path / name) is None) == (name != "x.jpg" or method is not None)
    grey = read_training_luma(tmp_path / name).astype(int)
    assert np.abs(grey - luma(expected)).max() <= (1 if name == "x.jpg" else 0)


def test_metadata_that_cannot_be_read_are_no_orientation(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "x.jpg", exif=b"Exif\0\0nonsense")

    assert read_header(tmp_path / "x.jpg") == read_pixels(tmp_path / "x.jpg").shape[:2] == (40, 56)


@pytest.mark.parametrize("plain", [True, False])
def test_the_largest_value_of_a_pnm_is_white(tmp_path, plain):
    """Of 0, 3, 10 and 15 out of 15."""
    values = b"0 3 10 15" if plain else bytes((0, 3, 10, 15))
    (tmp_path / "x.pgm").write_bytes((b"P2" if plain else b"P5") + b"\n2 2\n15\n" + values)

    for read in (read_pixels, read_training_luma):
        np.testing.assert_array_equal(read(tmp_path / "x.pgm"), [[0, 51], [170, 255]])


@pytest.mark.parametrize("chunk", ["gAMA", "sRGB", "cHRM", "none"])
def test_training_sees_the_luma_of_a_png_whatever_its_chunks_say(tmp_path, chunk):
    contents = {"gAMA": (45455).to_bytes(4, "big"), "sRGB": b"\0", "cHRM": bytes(range(32))}
    chunks = PngImagePlugin.PngInfo()
    if chunk in contents:
        chunks.add(chunk.encode(), contents[chunk])
    Image.fromarray(photograph()).save(tmp_path / "x.png", pnginfo=chunks)

    expected = luma(photograph()[:, :, ::-1].copy())
    np.testing.assert_array_equal(read_training_luma(tmp_path / "x.png"), expected)
    np.testing.assert_array_equal(luma(read_pixels(tmp_path / "x.png")), expected)


def test_the_content_says_the_format_not_the_name(tmp_path):
    for name, format in {"x.jpg": "PNG", "x.png": "TIFF", "x.tif": "BMP"}.items():
        (tmp_path / name).write_bytes(encoded(format, Image.fromarray(photograph())))
        np.testing.assert_array_equal(read_pixels(tmp_path / name), photograph()[:, :, ::-1])


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_grey_is_unchanged_with_one_channel_and_with_three_equal_ones(tmp_path, name):
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for pixels in (grey, np.dstack([grey] * 3)):
        Image.fromarray(pixels).save(tmp_path / name)

        np.testing.assert_array_equal(luma(read_pixels(tmp_path / name)), grey)
        np.testing.assert_array_equal(read_training_luma(tmp_path / name), grey)


@pytest.mark.parametrize(("name", "levels"), [("x.png", 0), ("x.tif", 0), ("x.jpg", 1)])
def test_the_training_reader_gives_the_exact_luma_of_all_but_jpeg(tmp_path, name, levels):
    """Where no colour is clipped: there a JPEG's own Y is another by up to 15 levels."""
    Image.fromarray(photograph()).save(tmp_path / name, quality=95)

    exact = luma(read_pixels(tmp_path / name)).astype(int)

    assert np.abs(read_training_luma(tmp_path / name) - exact).max() <= levels


# Colour.


def test_luma_is_the_full_range_y_of_bt601():
    """On the corners of the colour cube, where a swap of R and B is 47 levels."""
    rgb = np.concatenate(
        [
            np.indices((2, 2, 2)).reshape(3, 8).T * 255,
            np.random.default_rng(0).integers(0, 256, (1000, 3)),
        ]
    )
    expected = rgb @ [0.299, 0.587, 0.114]

    result = luma(rgb[None, :, ::-1].astype(np.uint8))[0]

    assert np.abs(result - expected).max() <= 0.51  # rounded, not truncated
    assert result.dtype == np.uint8


def test_channels_are_y_or_r_g_b_in_this_order():
    bgr = photograph()
    r, g, b = channels(bgr, "rgb")

    np.testing.assert_array_equal(np.dstack([b, g, r]), bgr)
    (y,) = channels(bgr, "luma")
    np.testing.assert_array_equal(y, luma(bgr))


@pytest.mark.parametrize("pixels", [photograph(), photograph()[:, :, 0]], ids=["colour", "grey"])
def test_join_undoes_channels(pixels):
    np.testing.assert_array_equal(join(channels(pixels, "rgb")), pixels)


# Scanning.


def test_a_scan_keeps_usable_files_in_order_and_says_why_the_others_are_not(tmp_path):
    for name, (height, width) in {
        "a": (40, 56),
        "c": (16, 90),
        "d": (15, 90),
        "e": (90, 15),
    }.items():
        Image.fromarray(photograph(height, width)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"hello")
    Image.fromarray(photograph()).convert("CMYK").save(tmp_path / "f.jpg")

    found = scan(list_images(tmp_path), smallest=16)

    assert [path.name for path in found.paths] == ["a.png", "c.png"]
    assert found.sizes == [(40, 56), (16, 90)]
    reasons = {path.name: reason for path, reason in found.rejected.items()}
    assert set(reasons) == {"b.png", "d.png", "e.png", "f.jpg"}
    assert "cannot be read" in reasons["b.png"]
    assert "too small: 15 x 90" in reasons["d.png"]
    assert "too small: 90 x 15" in reasons["e.png"]
    assert "CMYK" in reasons["f.jpg"]


# Writing.


def test_a_written_image_reads_back_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "x.png"
    write_image(path, photograph())

    np.testing.assert_array_equal(read_pixels(path), photograph())


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.pgm", "x.webp", "x.bmp"])
def test_a_name_that_is_not_utf8_is_read_written_and_printed(tmp_path, name):
    """OpenCV would end the process with signal 11."""
    path = tmp_path / os.fsdecode(b"caf\xe9-" + name.encode())
    write_image(path, photograph()[:, :, 0])

    assert list_images(tmp_path) == [path]
    assert read_header(path) == read_pixels(path).shape[:2] == read_training_luma(path).shape
    path.write_bytes(b"no image")
    (reason,) = scan([path], smallest=1).rejected.values()
    for read in (read_header, read_pixels, read_training_luma):
        with pytest.raises(ImageError, match=r"caf\\udce9-x") as caught:
            read(path)
        for text in (str(caught.value), reason, printable(path)):
            assert text.encode("utf-8").decode("ascii")


def test_a_full_disk_leaves_the_old_picture_and_no_other_file(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    write_image(path, photograph())

    def write_bytes(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", write_bytes)
    with pytest.raises(ImageError, match=r"cannot write .*x\.png: .*No space left"):
        write_image(path, np.zeros((8, 8), np.uint8))

    np.testing.assert_array_equal(read_pixels(path), photograph())
    assert os.listdir(tmp_path) == ["x.png"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_takes_no_bytes_is_an_error_and_stays(tmp_path):
    (tmp_path / "x.png").symlink_to("/dev/full")

    with pytest.raises(ImageError, match="No space left"):
        write_image(tmp_path / "x.png", photograph())
    assert (tmp_path / "x.png").is_char_device()


def test_a_link_to_a_picture_stays_a_link(tmp_path):
    (tmp_path / "link.png").symlink_to("x.png")
    write_image(tmp_path / "link.png", photograph())

    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(read_pixels(tmp_path / "x.png"), photograph())


def test_an_image_that_cannot_be_written_says_what_to_do(tmp_path):
    with pytest.raises(ImageError, match=r"cannot write .*x\.abc.*such as x\.png"):
        write_image(tmp_path / "x.abc", photograph())
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(ImageError, match=r"cannot write .*taken\.png"):
        write_image(tmp_path / "taken.png", photograph())


def test_a_folder_that_cannot_be_made_is_an_image_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ImageError, match=r"cannot write .*x\.png"):
        write_image(tmp_path / "file" / "x.png", photograph())


def test_to_uint8_clips_and_rounds():
    values = np.array([-0.5, 0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1, 1.7])

    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 1, 255, 255, 255])
    assert to_uint8(values).dtype == np.uint8


def test_a_format_that_does_not_take_the_pixels_is_refused_by_name(tmp_path):
    """WEBP ends at 16,383 pixels; OpenCV says so by a flag or by an error of its own."""
    with pytest.raises(ImageError, match=r"cannot write .*x\.webp.*such as x\.png"):
        write_image(tmp_path / "x.webp", np.zeros((1, 17000), np.uint8))
    assert not (tmp_path / "x.webp").exists()
