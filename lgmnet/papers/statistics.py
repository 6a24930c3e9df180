"""Is one method better than another on the same images? A paired test."""

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from scipy import stats

# With fewer images no result of the two-sided test is below 5 %: 2 / 2**5 = 0.0625.
FEWEST = 6
LEVEL = 0.05
HOW = (
    "Wilcoxon signed-rank test, two-sided, on the differences per image; not corrected for the "
    "number of comparisons. It speaks of other images, not of other trainings"
)


class Difference(NamedTuple):
    """The mean difference to the base, its number of images, and p (None: too few images)."""

    mean: float
    images: int
    p: float | None

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < LEVEL


def difference(own: Mapping[str, float], base: Mapping[str, float]) -> Difference | None:
    """Own score minus that of the base, for the images that both have; None if there are none.

    Args:
        own, base: scores by name of the image.
    """
    pairs = [own[name] - base[name] for name in own if name in base]
    if not pairs or not all(map(math.isfinite, pairs)):
        return None
    p = None
    if len(pairs) >= FEWEST:
        p = float(stats.wilcoxon(pairs).pvalue) if any(pairs) else 1.0
    return Difference(statistics.fmean(pairs), len(pairs), p)
