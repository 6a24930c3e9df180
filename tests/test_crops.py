"""Training crops are the same everywhere; flips and turns; padding."""

import weakref
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lgmnet.data.crops import (
    CropRule,
    DeviceCrops,
    Plan,
    TrainingCrops,
    draw_crops,
    draw_mode,
    loaded_batches,
    sample_blocks,
)
from lgmnet.data.datasets import open_training_images
from lgmnet.data.images import ImageError
from lgmnet.data.packed import pack
from lgmnet.data.transforms import DIHEDRAL_MODES, crop_back, dihedral, pad_to_block

CPU = torch.device("cpu")
SIZES = [(40, 56), (33, 31), (64, 48), (31, 90)]
RULE = CropRule(size=24, seed=7, augment="sample", batch=6)


class Memory:
    """Images in memory; those named ``bad`` cannot be decoded."""

    channels = 1
    dtype = np.dtype(np.uint8)

    def __init__(self, images: list[np.ndarray], bad: tuple[int, ...] = ()) -> None:
        self.images = images
        self.bad = bad
        self.names = [f"{k}.png" for k in range(len(images))]
        self.sizes = [image.shape for image in images]

    def read(self, index: int) -> np.ndarray:
        if index in self.bad:
            raise ImageError(self.names[index])
        return self.images[index]


def noise(sizes=SIZES) -> list[np.ndarray]:
    source = np.random.default_rng(0)
    return [source.integers(0, 256, size, dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four images in files, and in a packed store."""
    root = tmp_path_factory.mktemp("images")
    for k, image in enumerate(noise()):
        cv2.imwrite(str(root / f"{k}.png"), image)
    pack(root, root / "store.luma")
    return root


def batches(source: str, folder, plan: Plan, rule: CropRule = RULE):
    """``source``: what is opened, and how many workers or ``device`` for the device source."""
    what, how = source.split()
    name = str(folder / "store.luma" if what == "packed" else folder)
    images, _ = open_training_images([name], [], rule.size)
    if how == "device":
        return DeviceCrops(images, CPU).batches(rule, plan)
    return loaded_batches(TrainingCrops(images, rule), plan, int(how), CPU)


def take(stream, count: int) -> torch.Tensor:
    return torch.stack(list(islice(stream, count)))


# One number, one crop.


@pytest.mark.parametrize("source", ["files 2", "files device", "packed 0", "packed device"])
def test_a_number_is_the_same_crop_from_every_source(folder, source):
    expected = take(batches("files 0", folder, Plan(0, 6)), 4)

    assert expected.shape == (4, 6, 1, 24, 24)
    assert expected.dtype == torch.uint8
    assert len(torch.unique(expected.flatten(0, 1), dim=0)) == 24  # all different
    assert torch.equal(take(batches(source, folder, Plan(0, 6)), 4), expected)


@pytest.mark.parametrize("change", [{"seed": 8}, {"augment": "none"}, {"size": 20}])
def test_another_rule_gives_other_crops(change):
    crops = DeviceCrops(Memory(noise()), CPU)

    assert not torch.equal(crops.batch(RULE, [0, 1]), crops.batch(RULE._replace(**change), [0, 1]))


@pytest.mark.parametrize("augment", ["sample", "batch", "none"])
@pytest.mark.parametrize("source", ["files 0", "files device"])
def test_two_processes_together_see_what_one_sees(folder, source, augment):
    rule = RULE._replace(augment=augment)
    one = take(batches(source, folder, Plan(0, 6), rule), 3)
    two = [take(batches(source, folder, Plan(0, 6, rank, 2), rule), 3) for rank in (0, 1)]

    assert torch.equal(torch.cat(two, dim=1), one)


@pytest.mark.parametrize("source", ["files 0", "files 2", "files device"])
def test_resuming_at_a_step_continues_the_stream(folder, source):
    whole = take(batches(source, folder, Plan(0, 6)), 5)

    assert torch.equal(take(batches(source, folder, Plan(3, 6)), 2), whole[3:])


# Where crops lie.


def positions(height: int, width: int) -> np.ndarray:
    """A pixel tells its row and column: ``16 row + column``."""
    return (16 * np.arange(height)[:, None] + np.arange(width)).astype(np.uint8)


@pytest.mark.parametrize("source", ["files", "device"])
def test_crops_are_rectangles_inside_one_image_and_reach_its_corners(source):
    """A crop that ran over an edge would hold the first columns of the next row."""
    images = Memory([positions(16, 9), positions(11, 16), positions(5, 5)])
    rule = CropRule(size=5, seed=3, augment="none")
    numbers = list(range(600))
    if source == "device":
        crops = DeviceCrops(images, CPU).batch(rule, numbers)
    else:
        training = TrainingCrops(images, rule)
        crops = torch.stack([training[n] for n in numbers])

    corners = crops[:, 0, :1, :1]
    expected = corners + torch.from_numpy(positions(5, 5))
    assert torch.equal(crops[:, 0], expected)
    rows, columns = corners.flatten() // 16, corners.flatten() % 16
    starts = set(zip(rows.tolist(), columns.tolist(), strict=True))
    tall = {(row, column) for row in range(12) for column in range(5)}
    wide = {(row, column) for row in range(7) for column in range(12)}
    assert starts <= tall | wide
    assert {(0, 0), (11, 0), (11, 4), (0, 11), (6, 11)} <= starts


def test_every_image_is_drawn_equally_often():
    drawn = [next(draw_crops(SIZES, RULE, n))[0] for n in range(2000)]

    assert np.bincount(drawn).min() > 400  # of 500; four standard deviations are 77


# Flips and turns.


def test_augment_none_never_changes_an_image():
    rule = RULE._replace(augment="none")

    assert {draw_mode(rule, n) for n in range(100)} == {0}


def test_augment_sample_reaches_all_modes_within_a_batch():
    assert {draw_mode(RULE, n) for n in range(100)} == set(range(DIHEDRAL_MODES))


def test_augment_batch_draws_one_mode_for_a_batch_and_all_over_time():
    rule = RULE._replace(augment="batch", batch=6)
    modes = np.array([draw_mode(rule, n) for n in range(600)]).reshape(100, 6)

    assert (modes == modes[:, :1]).all()
    assert set(modes[:, 0]) == set(range(DIHEDRAL_MODES))


def test_augmentation_does_not_move_the_crop():
    crops = DeviceCrops(Memory(noise()), CPU)
    plain = crops.batch(RULE._replace(augment="none"), list(range(20)))
    turned = [dihedral(crop, draw_mode(RULE, n)) for n, crop in enumerate(plain)]

    assert torch.equal(crops.batch(RULE, list(range(20))), torch.stack(turned))


def test_the_modes_are_the_eight_symmetries_of_a_square():
    """Rotations and their mirror images, as numpy makes them."""
    square = positions(4, 4)
    turns = [np.rot90(square, k) for k in range(4)]
    expected = {image.tobytes() for turn in turns for image in (turn, turn[:, ::-1])}

    results = [dihedral(torch.from_numpy(square), mode).numpy() for mode in range(8)]

    assert len(expected) == 8
    assert {image.tobytes() for image in results} == expected


def test_bits_of_a_mode_flip_rows_then_columns_then_transpose():
    square = positions(4, 4)
    results = [dihedral(torch.from_numpy(square), mode) for mode in range(8)]

    np.testing.assert_array_equal(results[0], square)
    np.testing.assert_array_equal(results[1], square[::-1])
    np.testing.assert_array_equal(results[2], square[:, ::-1])
    np.testing.assert_array_equal(results[5], square[::-1].T)


# Images that cannot be decoded.


@pytest.fixture
def damaged(folder, tmp_path):
    """The four images, and one whose header is whole and whose pixels are not."""
    for path in folder.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "1-bad.png"
    Image.fromarray(noise()[0]).save(bad)
    bad.write_bytes(bad.read_bytes()[:-400])
    images, rejected = open_training_images([str(tmp_path)], [], RULE.size)
    assert len(images.names) == 5
    assert not rejected
    return images


@pytest.mark.parametrize("workers", [0, 2])
def test_an_undecodable_image_is_skipped_counted_and_named(damaged, workers):
    crops = TrainingCrops(damaged, RULE)
    result = take(loaded_batches(crops, Plan(0, 6), workers, CPU), 4)

    assert result.shape == (4, 6, 1, 24, 24)
    assert crops.unreadable_names() == ["1-bad.png"]
    first_choices = [next(draw_crops(damaged.sizes, RULE, n))[0] for n in range(24)]
    assert crops.unreadable[1] >= first_choices.count(1) > 0


def test_the_device_source_skips_the_same_image_and_draws_the_same_crops(damaged):
    crops = DeviceCrops(damaged, CPU)

    assert crops.unreadable == ["1-bad.png"]
    from_files = take(loaded_batches(TrainingCrops(damaged, RULE), Plan(0, 6), 0, CPU), 4)
    assert torch.equal(take(crops.batches(RULE, Plan(0, 6)), 4), from_files)


def test_the_device_source_holds_one_image_at_a_time_on_the_host():
    """Of COCO 32 GB go to the device; the host must not need them too."""
    alive: list[weakref.ref] = []

    class Watched(Memory):
        def read(self, index):
            assert sum(image() is not None for image in alive) <= 1
            image = super().read(index).copy()
            alive.append(weakref.ref(image))
            return image

    crops = DeviceCrops(Watched(noise()), CPU)

    assert len(alive) == 4
    assert len(crops.bytes) == sum(height * width for height, width in SIZES)


def test_a_set_without_a_decodable_image_is_an_error():
    images = Memory(noise(), bad=(0, 1, 2, 3))

    with pytest.raises(ImageError, match="cannot be decoded; check the training folder"):
        TrainingCrops(images, RULE)[0]
    with pytest.raises(ImageError, match="none of the training images can be decoded"):
        DeviceCrops(images, CPU)
    with pytest.raises(ImageError, match="none of the training images can be decoded"):
        sample_blocks(images, 8, 10, seed=0)


def test_one_good_image_among_thousands_is_an_error_in_both_sources():
    """A hundred choices in a row are bad: something is wrong with the folder."""
    images = Memory(noise([(24, 24)] * 2000), bad=tuple(range(1, 2000)))

    with pytest.raises(ImageError, match="check the training folder"):
        TrainingCrops(images, RULE)[0]
    with pytest.raises(ImageError, match="check the training folder"):
        DeviceCrops(images, CPU).batch(RULE, [0])


# Blocks for the PCA of Φ.


def test_sample_blocks_are_blocks_of_all_images_scaled_to_one():
    images = Memory([positions(16, 9), positions(8, 16)])
    blocks = sample_blocks(images, side=3, count=101, seed=0)

    assert blocks.shape == (101, 9)
    assert blocks.dtype == torch.float32
    levels = (blocks * 255).round().long()
    torch.testing.assert_close(blocks, levels / 255)
    inside = torch.from_numpy(positions(3, 3)).flatten().long()
    assert torch.equal(levels - levels[:, :1], inside.expand(101, 9))
    starts = levels[:, 0].tolist()
    assert max(start // 16 for start in starts) > 5  # only the first image is so high
    assert max(start % 16 for start in starts) > 6  # only the second is so wide


def test_sample_blocks_depend_on_the_seed_alone():
    images = Memory(noise())

    first, again, other = (sample_blocks(images, 8, 50, seed) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Padding to whole blocks.


@pytest.mark.parametrize(
    ("size", "always", "padded"),
    [
        ((32, 32), False, (32, 32)),
        ((32, 32), True, (64, 64)),
        ((250, 250), False, (256, 256)),
        ((250, 250), True, (256, 256)),
        ((33, 97), False, (64, 128)),
        ((96, 33), True, (128, 64)),
    ],
)
@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_padding_reaches_whole_blocks_and_can_be_undone(size, always, padded, mode):
    image = torch.rand(2, 1, *size)

    result = pad_to_block(image, 32, mode, always)

    assert result.shape == (2, 1, *padded)
    assert torch.equal(crop_back(result, *size), image)


def test_padding_is_zero_or_the_last_row_and_column():
    image = torch.arange(1.0, 7).view(1, 1, 2, 3)

    zeros = pad_to_block(image, 4)[0, 0]
    replicated = pad_to_block(image, 4, "replicate")[0, 0]

    assert zeros.tolist() == [[1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert replicated.tolist() == [[1, 2, 3, 3], [4, 5, 6, 6], [4, 5, 6, 6], [4, 5, 6, 6]]
