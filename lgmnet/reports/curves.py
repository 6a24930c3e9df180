"""The results of `robustness` of several weights: CSV, one figure, and a page."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgmnet.files import write_figure, write_text
from lgmnet.reports.page import fill
from lgmnet.reports.robustness import TESTS, Point, Test

Results = Mapping[str, Sequence[Point]]
"""Points by the name of the weights."""


def write_curves(folder: Path, found: Results, about: Mapping[str, str]) -> list[Path]:
    """Write robustness.csv, robustness.png, robustness.pdf and robustness.html into a folder.

    Args:
        about: what the page says about the images and the rules, by name.
    """
    paths = [folder / f"robustness.{ending}" for ending in ("csv", "png", "pdf", "html")]
    write_text(paths[0], table(found))
    for path in paths[1:3]:
        draw(path, found)
    curves = [curve(test, found) for test in TESTS if has_points(test, found)]
    data = {"curves": curves}
    write_text(paths[3], fill("robustness.html", data=data, labels=list(found), about=about))
    return paths


def has_points(test: Test, found: Results) -> bool:
    return any(point.test == test.key for points in found.values() for point in points)


def table(found: Results) -> str:
    """CSV with one row per weights, test and value."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["weights", "test", "value", "unit", "score", "score_unit", "images"])
    tests = {test.key: test for test in TESTS}
    for name, points in found.items():
        for p in points:
            test = tests[p.test]
            writer.writerow(
                [name, p.test, p.value, test.axis, f"{p.score:.4f}", test.score, p.images]
            )
    return text.getvalue()


def curve(test: Test, found: Results) -> dict[str, Any]:
    """One chart of the page."""
    series = []
    for k, (name, points) in enumerate(found.items()):
        own = sorted((p.value, round(p.score, 4)) for p in points if p.test == test.key)
        if own:
            series.append({"label": name, "points": own, "color": k})
    return {"title": test.title, "x": test.axis, "y": test.score, "series": series}


def draw(path: Path, found: Results) -> None:
    """All curves of all weights in one figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [curve(test, found) for test in TESTS if has_points(test, found)]
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), constrained_layout=True)
    for axis, chart in zip(axes.flat, shown, strict=False):
        for series in chart["series"]:
            x, y = zip(*series["points"], strict=True)
            axis.plot(x, y, "o-", ms=3.5, lw=1.4, color=f"C{series['color']}")
        axis.set(title=chart["title"], xlabel=chart["x"], ylabel=chart["y"])
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for k, name in enumerate(found):
        axes.flat[-1].plot([], [], "o-", ms=3.5, lw=1.4, color=f"C{k}", label=name)
    axes.flat[-1].legend(loc="center", frameon=False)
    write_figure(path, figure, dpi=150)
    plt.close(figure)
