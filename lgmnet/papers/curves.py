"""PSNR over the sampling ratio, and over the size and cost of the networks."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lgmnet import complexity, report
from lgmnet.papers.collect import Column, Found, Method
from lgmnet.papers.style import MARKS, ONE_COLUMN, TWO_COLUMNS
from lgmnet.weights.saved import find_weights

# The largest bubble, in square points, and the side of the image whose reconstruction is counted.
LARGEST, SIDE = 500.0, 256


def over_ratio(plt: Any, methods: Sequence[Method], dataset: str) -> Any:
    """PSNR over the ratio; bars are the standard deviation over seeds.

    Raises:
        ValueError: no method was scored on the set at a ratio.
    """
    figure, axes = plt.subplots(figsize=(ONE_COLUMN, 2.6), layout="constrained")
    ratios: set[float] = set()
    for k, method in enumerate(methods):
        points = _points(method, dataset)
        if not points:
            continue
        x, y, bars = zip(*points, strict=True)
        ratios |= set(x)
        mark = MARKS[k % len(MARKS)]
        axes.errorbar(x, y, yerr=bars if any(bars) else None, marker=mark, capsize=2,
                      label=method.label)  # fmt: skip
    if not ratios:
        raise ValueError(f"no result is of '{dataset}' at a sampling ratio; score one with test.py")
    axes.set_xscale("log")
    axes.set_xticks(sorted(ratios), [f"{x:g}" for x in sorted(ratios)])
    axes.minorticks_off()
    axes.set_xlabel("sampling ratio (%)")
    _finish(axes, dataset)
    return figure


def _points(method: Method, dataset: str) -> list[tuple[float, float, float]]:
    """Ratio in percent, mean PSNR, deviation over seeds (0 for one run), by ratio."""
    found = []
    for column in method.cells:
        scores = method.scores(column, "psnr")
        if column.dataset == dataset and not isinstance(column.at, str) and scores:
            deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
            found.append((100 * column.at, statistics.fmean(scores), deviation))
    return sorted(found)


class Size(NamedTuple):
    """Parameters without Φ, and FLOPs of the reconstruction of one 256 x 256 image."""

    parameters: int
    flops: int


def size_of(run: Found) -> Size:
    """The size of the network of a result, from the weights beside it.

    Raises:
        ValueError: there are no weights in the folder.
    """
    folders = (run.path.parent, run.path.parent.parent)
    folder = next((f for f in folders if any(f.glob("*.safetensors"))), None)
    if folder is None:
        raise ValueError(f"no weights are beside {run.path}; its size cannot be counted")
    at = report.condition(run.results)
    weights = find_weights(folder)
    several = len(weights.config.sampling.conditions) > 1
    model = weights.load(weights.config.sampling.condition(str(at)) if several else None)
    height, width = model.operator.size or (SIDE, SIDE)
    channels = model.operator.channels
    flops = complexity.cost(model, height, width, channels=channels).flops
    return Size(complexity.parameters(model.network, frozen=True), flops)


def over_cost(plt: Any, methods: Sequence[Method], column: Column) -> Any:
    """PSNR over the number of parameters; the area of a disc is the number of FLOPs."""
    from matplotlib.ticker import EngFormatter

    chosen = [method for method in methods if method.scores(column, "psnr")]
    sizes = [size_of(method.cells[column][0]) for method in chosen]
    most = max(size.flops for size in sizes)
    figure, axes = plt.subplots(figsize=(ONE_COLUMN, 3), layout="constrained")
    for method, size in zip(chosen, sizes, strict=True):
        psnr = statistics.fmean(method.scores(column, "psnr"))
        label = f"{method.label}: {size.flops / 1e9:.3g} GFLOP"
        area = LARGEST * size.flops / most
        axes.scatter(size.parameters, psnr, s=area, alpha=0.6, linewidth=0, label=label)
        axes.plot(size.parameters, psnr, "k.", markersize=2)
    axes.margins(0.25)
    counts = [size.parameters for size in sizes]
    axes.set_xscale("log" if max(counts) > 5 * min(counts) else "linear")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlabel("parameters without Φ\nArea of a disc: FLOPs for one 256 × 256 image")
    _finish(axes, str(column), legend=False)
    legend = figure.legend(loc="outside lower center")
    for mark in legend.legend_handles:
        mark.set_sizes([25])
    return figure


def over_parameters(plt: Any, experiment: Mapping[str, Any], dataset: str) -> Any:
    """PSNR of the rows of an experiment over their parameters; bars are the deviation over seeds.

    Rows are numbered, and the numbers are explained beside the figure. Rows with the same words
    before a colon have one colour.

    Raises:
        ValueError: no run has a score of the set.
    """
    from matplotlib.ticker import EngFormatter, LogLocator

    rows = {
        ", ".join(choices): (runs[0]["parameters"], scores)
        for choices, runs in report.experiment_rows(experiment).items()
        if (scores := [r["scores"][dataset]["psnr"] for r in runs if dataset in r["scores"]])
    }
    if not rows:
        raise ValueError(f"no run of the experiment was scored on '{dataset}'")
    groups = list(dict.fromkeys(name.rpartition(":")[0] for name in rows))
    if len(groups) == 1:
        groups = list(rows)
    figure, axes = plt.subplots(figsize=(TWO_COLUMNS, 4.6), layout="constrained")
    for k, (name, (parameters, scores)) in enumerate(rows.items(), 1):
        group = groups.index(name if name in groups else name.rpartition(":")[0])
        mean = statistics.fmean(scores)
        deviation = statistics.stdev(scores) if len(scores) > 1 else None
        look = {"color": f"C{group}", "marker": MARKS[group % len(MARKS)], "linestyle": ""}
        axes.errorbar(parameters, mean, deviation, capsize=2, label=f"{k}  {name}", **look)
        axes.annotate(str(k), (parameters, mean), (4, 2), textcoords="offset points", fontsize=6)
    axes.set_xscale("log")
    wide = max(p for p, _ in rows.values()) > 10 * min(p for p, _ in rows.values())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.minorticks_off()
    axes.set_xlabel("parameters without Φ")
    _finish(axes, dataset, legend=False)
    figure.legend(loc="outside right center", fontsize=6)
    return figure


def over_stages(plt: Any, found: Mapping[str, Sequence[float]], dataset: str) -> Any:
    """PSNR of the estimates of each network over the number of its stage; 0 is the start."""
    figure, axes = plt.subplots(figsize=(ONE_COLUMN, 2.6), layout="constrained")
    for k, (label, psnr) in enumerate(found.items()):
        axes.plot(range(len(psnr)), psnr, marker=MARKS[k % len(MARKS)], label=label)
    axes.set_xlabel("stage (0: start)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _finish(axes, dataset)
    return figure


def _finish(axes: Any, title: str, legend: bool = True) -> None:
    axes.set_ylabel("PSNR (dB)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend()
