"""The photographs of scikit-image: all there, and no test image in the training part."""

from itertools import combinations, product

import cv2
import numpy as np
import pytest

from lgmnet.data.builtin import TEST, TRAIN, paths
from lgmnet.data.color import luma
from lgmnet.data.datasets import open_test_set, open_training_images
from lgmnet.data.images import read_pixels

# Thumbnails of different scenes correlate by 0.59 at most, the motorcycle pair by 0.86.
SAME_SCENE = 0.75


@pytest.fixture(scope="module")
def thumbnails() -> dict[str, np.ndarray]:
    """16 x 16 luma of every image, with mean 0 and norm 1; flips and turns are left in."""

    def small(path):
        plane = cv2.resize(luma(read_pixels(path)), (16, 16), interpolation=cv2.INTER_AREA)
        plane = plane - plane.mean(dtype=np.float64)
        return plane / np.linalg.norm(plane)

    return {path.name: small(path) for path in paths(TRAIN + TEST)}


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Largest correlation over the eight flips and turns."""
    turned = [np.rot90(image, k) for k in range(4) for image in (second, second[:, ::-1])]
    return max(float((first * image).sum()) for image in turned)


def test_every_file_is_in_the_installed_scikit_image():
    assert all(path.is_file() for path in paths(TRAIN + TEST))


def test_training_and_test_part_share_no_name_and_hold_each_name_once():
    assert len(set(TRAIN + TEST)) == len(TRAIN) + len(TEST)


def test_no_test_image_is_in_the_training_part_even_scaled_or_turned(thumbnails):
    for train, test in product(TRAIN, TEST):
        assert likeness(thumbnails[train], thumbnails[test]) < SAME_SCENE, (train, test)


def test_the_two_views_of_the_motorcycle_are_one_scene_and_in_one_part(thumbnails):
    """Also shows that the comparison above finds what it looks for."""
    views = ("motorcycle_left.png", "motorcycle_right.png")

    assert likeness(*(thumbnails[view] for view in views)) > SAME_SCENE
    assert set(views) <= set(TRAIN)


def test_the_test_images_are_all_different(thumbnails):
    for first, second in combinations(TEST, 2):
        assert likeness(thumbnails[first], thumbnails[second]) < SAME_SCENE, (first, second)


def test_the_test_set_has_a_fixed_order():
    """Tables list images in this order, and seeds of noise go with names."""
    images = open_test_set("builtin", [])

    names = [image.name for image in images]
    assert names == ["astronaut", "camera", "chelsea", "coffee", "coins", "rocket"]
    assert len(images) == len(names)


def test_all_training_images_can_be_cropped_at_the_default_size():
    images, rejected = open_training_images(["builtin"], [], smallest=128)

    assert tuple(images.names) == TRAIN
    assert not rejected


def test_a_missing_image_is_named_with_what_to_install():
    with pytest.raises(FileNotFoundError, match=r"has no nothing\.png in .*install"):
        paths(("camera.png", "nothing.png"))
