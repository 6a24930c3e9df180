"""Image files: which are found, which are refused, and the exact pixels of the others."""

import cv2
import numpy as np
import pytest
from PIL import Image

from lgmnet.data.color import channels, join, luma
from lgmnet.data.images import (
    ImageError,
    list_images,
    read_header,
    read_pixels,
    read_training_luma,
    scan,
    to_uint8,
    write_image,
)


def photograph(height: int = 40, width: int = 56) -> np.ndarray:
    """Smooth RGB, not square, every channel different."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


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


def test_a_single_file_is_a_list_of_one(tmp_path):
    (tmp_path / "x.png").touch()

    assert list_images(tmp_path / "x.png") == [tmp_path / "x.png"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"there is no folder .*nowhere"):
        list_images(tmp_path / "nowhere")


def test_a_folder_without_images_says_which_files_would_do(tmp_path):
    (tmp_path / "notes.txt").touch()

    with pytest.raises(ImageError, match=r"holds no image \(.*\.png.*subfolders"):
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


def test_a_jpeg_with_bytes_after_its_end_is_read(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(photograph()).save(path)
    whole = read_pixels(path)
    path.write_bytes(path.read_bytes() + b"\0" * 16)

    np.testing.assert_array_equal(read_pixels(path), whole)


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


def test_pixels_that_are_not_8_bit_grey_or_rgb_are_refused_with_their_kind(tmp_path):
    grey = photograph()[:, :, 0]
    files = {"16-bit I;16": "x.png", "CMYK": "x.jpg", "F": "x.tif"}
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "x.png")
    Image.fromarray(photograph()).convert("CMYK").save(tmp_path / "x.jpg")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "x.tif")

    for kind, name in files.items():
        for read in (read_header, read_pixels):
            with pytest.raises(ImageError, match=rf"holds {kind} pixels.*convert it first"):
                read(tmp_path / name)


def test_16_bit_colour_is_refused(tmp_path):
    """Pillow's header calls it RGB, so only the decoder sees it."""
    cv2.imwrite(str(tmp_path / "x.png"), photograph().astype(np.uint16) * 257)

    for read in (read_header, read_pixels):
        with pytest.raises(ImageError, match="holds 16-bit RGB pixels"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("alpha", [0, 254])
def test_a_transparent_pixel_is_refused(tmp_path, alpha):
    with_alpha(alpha).save(tmp_path / "x.png")

    with pytest.raises(ImageError, match="partly transparent; flatten it"):
        read_pixels(tmp_path / "x.png")


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


def test_a_turn_in_the_metadata_is_ignored_as_the_header_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.fromarray(photograph()).save(tmp_path / "x.jpg", exif=exif)

    assert read_header(tmp_path / "x.jpg") == (40, 56)
    assert read_pixels(tmp_path / "x.jpg").shape[:2] == (40, 56)
    assert read_training_luma(tmp_path / "x.jpg").shape == (40, 56)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_grey_is_unchanged_with_one_channel_and_with_three_equal_ones(tmp_path, name):
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for pixels in (grey, np.dstack([grey] * 3)):
        Image.fromarray(pixels).save(tmp_path / name)

        np.testing.assert_array_equal(luma(read_pixels(tmp_path / name)), grey)
        np.testing.assert_array_equal(read_training_luma(tmp_path / name), grey)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
def test_the_training_reader_is_within_one_level_of_the_exact_luma(tmp_path, name):
    """Where no colour is clipped: there a JPEG's own Y is another by up to 15 levels."""
    Image.fromarray(photograph()).save(tmp_path / name, quality=95)

    difference = read_training_luma(tmp_path / name) - luma(read_pixels(tmp_path / name)).astype(
        int
    )

    assert np.abs(difference).max() <= 1


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
