"""How all figures look: sizes for a two-column page, embedded fonts, marks beside colours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lgmnet.files import write_figure

# Widths in inches of one and of two columns of an IEEE page.
ONE_COLUMN, TWO_COLUMNS = 3.5, 7.16
DPI = 300
MARKS = "osD^vP*X<>"
SETTINGS: Any = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "lines.markersize": 4, "lines.linewidth": 1.2,
    "pdf.fonttype": 42, "ps.fonttype": 42,  # TrueType inside the file, as publishers ask
}  # fmt: skip


@contextmanager
def plotting() -> Iterator[Any]:
    """matplotlib.pyplot without a screen, with these settings; all figures are closed after."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(SETTINGS):
        try:
            yield plt
        finally:
            plt.close("all")


def save(path: Path, figure: Any) -> None:
    write_figure(path, figure, dpi=DPI)
