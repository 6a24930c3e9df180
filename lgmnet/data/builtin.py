"""Photographs of the scikit-image package: images for training and tests without a download.

The split is fixed. No scene is in both parts.
"""

import importlib.util
from pathlib import Path

TEST = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "rocket.jpg")

TRAIN = (
    "brick.png",
    "cell.png",
    "clock_motion.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "text.png",
)


def paths(names: tuple[str, ...]) -> list[Path]:
    """The paths of these images in the installed scikit-image.

    Raises:
        FileNotFoundError: the installed release does not contain one of them.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("scikit-image is not installed; the built-in images are in it")
    folder = Path(spec.origin).parent / "data"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"the installed scikit-image has no {', '.join(missing)} in {folder}; "
            "install the release that constraints.txt names"
        )
    return [folder / name for name in names]
