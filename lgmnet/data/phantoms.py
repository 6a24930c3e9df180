"""Seeded phantoms: random ellipses, as training images for tomography."""

import numpy as np

# Ellipses inside the large one, at least and at most.
INSIDE = (5, 15)
# Each pixel is the mean of so many points along both axes, so edges are not jagged.
FINER = 4


def phantom(side: int, seed: int, number: int) -> np.ndarray:
    """Image ``number`` of a seed, ``(side, side)`` float32 in [0, 1].

    One large ellipse holds smaller ones, whose values are added. Beyond it is zero. It lies in the
    inscribed circle, so every view of a beam as wide as the image sees all of it.
    """
    random = np.random.default_rng((seed, number))
    fine = side * FINER
    line = (np.arange(fine) + 0.5) / fine * 2 - 1
    body = ellipse(line, np.zeros(2), random.uniform(0.6, 0.95, 2), random.uniform(0, np.pi))
    values = body * random.uniform(0.2, 0.6)
    for _ in range(random.integers(*INSIDE, endpoint=True)):
        middle, axes = random.uniform(-0.6, 0.6, 2), random.uniform(0.03, 0.35, 2)
        inner = ellipse(line, middle, axes, random.uniform(0, np.pi))
        values = values + body * inner * random.uniform(-0.3, 0.4)
    means = values.reshape(side, FINER, side, FINER).mean(axis=(1, 3))
    return np.clip(means, 0, 1).astype(np.float32)


def ellipse(line: np.ndarray, middle: np.ndarray, axes: np.ndarray, turn: float) -> np.ndarray:
    """1 inside and 0 outside, at all pairs of coordinates on ``line``.

    Args:
        middle: along both axes of the image.
        axes: half of the length of both axes.
        turn: radians.
    """
    x, y = line - middle[0], line[:, None] - middle[1]
    along = (x * np.cos(turn) + y * np.sin(turn)) / axes[0]
    across = (y * np.cos(turn) - x * np.sin(turn)) / axes[1]
    return (along**2 + across**2 < 1).astype(np.float32)


def phantoms(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Images 0 to ``count`` − 1 of a seed, ``(count, side, side)`` float32 in [0, 1].

    Raises:
        ValueError: a number is below one.
    """
    if count < 1 or side < 1:
        raise ValueError(f"count is {count} and side is {side}, expected at least 1")
    return np.stack([phantom(side, seed, number) for number in range(count)])
