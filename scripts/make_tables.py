"""Write the tables of weights and experiments, the model cards and the SHA-256 sums.

All numbers come from files: the weights with their metadata, their metrics.json,
docs/experiments/*.json, and lgmnet/published.yaml. No number is typed by hand.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet import report
from lgmnet.commands.prepare_data import LISTS
from lgmnet.data.catalogue import dataset_names
from lgmnet.files import sha256, write_text
from lgmnet.operators import BlockSamplingConfig, BlurDown, CodedAperture, FourierMask
from lgmnet.operators.masks import sampling_ratio
from lgmnet.weights.files import SUMS
from lgmnet.weights.shipped import Shipped, describe, main_set

PROJECT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file is out of date"
    )
    arguments = parser.parse_args()
    try:
        stale = [p for p, text in contents(PROJECT).items() if not p.exists() or read(p) != text]
        if not arguments.check:
            for path in stale:
                write_text(path, contents(PROJECT)[path])
    except (ValueError, OSError) as error:
        print(f"make_tables.py: {error}", file=sys.stderr)
        return 1
    for path in stale:
        print(f"{path.relative_to(PROJECT)} {'is out of date' if arguments.check else 'written'}")
    if arguments.check and stale:
        print("make_tables.py: run python scripts/make_tables.py", file=sys.stderr)
        return 1
    return 0


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def contents(project: Path) -> dict[Path, str]:
    """Every file that this script writes, with its text.

    Weights are shipped if they were trained here (imported weights do not record their training)
    and have been scored.
    """
    files = sorted((project / "checkpoints").glob("*/model.safetensors"))
    scored = [describe(file) for file in files if list(file.parent.glob("**/metrics.json"))]
    shipped = [weights for weights in scored if weights.crops]
    results = f"{results_table(shipped)}\n\n{notes(shipped)}"
    tables = {"results": results, "weights": weights_table(shipped, "[`{0}`](checkpoints/{0})")}
    tables["summary"] = summary_table(shipped)
    tables["weights of docs"] = weights_table(shipped, "`{0}`")
    for path in sorted((project / "docs" / "experiments").glob("*.json")):
        tables[f"experiment {path.stem}"] = report.experiment_table(json.loads(read(path)))
    pages = {}
    for path in [project / "README.md", *sorted((project / "docs").glob("*.md"))]:
        text = read(path)
        for name, table in tables.items():
            if f"<!-- table: {name} -->" in text:
                text = report.replace_block(text, name, table)
        pages[path] = text
    for weights in shipped:
        pages[weights.weights.path.parent / "README.md"] = card(weights)
    pages[project / "checkpoints" / SUMS] = "".join(
        f"{sha256(w.weights.path)}  {w.name}/{w.weights.path.name}\n" for w in shipped
    )
    return pages


def summary_table(shipped: Iterable[Shipped]) -> str:
    """Set11 at the published ratios: shipped weights for block sensing, and the full LGM-Net."""
    ratios = (0.01, 0.04, 0.1, 0.25, 0.5)
    rows = {
        f"`{weights.name}`": {
            report.condition(result): result["datasets"]["Set11"]
            for result in weights.results
            if "Set11" in result["datasets"]
        }
        for weights in shipped
        if isinstance(weights.config.sampling, BlockSamplingConfig)
    }
    known = {ratio: report.published("lgm_net", "Set11", ratio, "paper") for ratio in ratios}
    rows["LGM-Net, published"] = {k: v._asdict() for k, v in known.items() if v}
    table = [
        [name, *(pair(found[r]["psnr"], found[r]["ssim"]) if r in found else "-" for r in ratios)]
        for name, found in rows.items()
    ]
    return report.markdown(["", *(f"{100 * ratio:g} %" for ratio in ratios)], table)


def results_table(shipped: Iterable[Shipped]) -> str:
    """One row per weights, ratio and test set; repeated values are left empty.

    Weights for several conditions show one test set: their model card has all of them.
    """
    header = ["weights", "ratio", "test set", "PSNR / SSIM", "published", "difference"]
    rows: list[list[str]] = []
    for weights in shipped:
        name = f"`{weights.name}`"
        for result in weights.results:
            ratio = report.condition_title(report.condition(result))
            several = len(weights.config.sampling.conditions) > 1
            shown = [main_set(result)] if several else result["datasets"]
            for scored in scores(result, shown):
                rows.append([name, ratio, *scored])
                name = ratio = ""
    return report.markdown(header, rows)


def scores(result: dict, names: Iterable[str]) -> list[list[str]]:
    """Test set, measured, published and difference of one metrics.json."""
    rows = []
    for name in names:
        data = result["datasets"][name]
        known = report.comparable(result, name)
        row = [name, pair(data["psnr"], data["ssim"]), "-", "-"]
        if known:
            row[2:] = [pair(known.psnr, known.ssim), f"{data['psnr'] - known.psnr:+.2f}"]
        rows.append(row)
    return rows


def notes(shipped: Iterable[Shipped]) -> str:
    """One line per weights and published result: the settings that differ."""
    lines: dict[str, None] = {}
    for weights in shipped:
        for result in weights.results:
            for name in result["datasets"]:
                if known := report.comparable(result, name):
                    own = report.differences(result, known)
                    lines[f"- `{weights.name}` compared with {known.method}: {own}"] = None
    return "\n".join(lines)


def pair(psnr: float | None, ssim: float | None) -> str:
    return f"{report.number(psnr, 2)} / {report.number(ssim, 4)}"


def weights_table(shipped: Iterable[Shipped], name: str) -> str:
    """One row per weights: network, size and training. ``{0}`` in ``name`` is their name."""
    header = [
        "weights", "network", "parameters", "entries of Φ", "training images", "started from",
        "crops", "minutes",
    ]  # fmt: skip
    rows = [
        [name.format(w.name), w.network, f"{w.parameters:,}",
         f"{w.phi_entries:,}", f"{w.images:,} ({w.training_data})",
         f"`{w.config.training.start}`" if w.config.training.start
         else "its backbone" if is_adapted(w) else "-",
         f"{w.crops:,}", f"{w.minutes:.0f}"]
        for w in shipped
    ]  # fmt: skip
    return report.markdown(header, rows)


# For a Φ from a file.
HOW_MADE = " ([docs/experiments.md](../../docs/experiments.md) says how this file is made)"

CARD = """# {name}

Made by `python scripts/make_tables.py` from the files of this folder; do not edit.

**What it is.** The network `{network}` ({options}):
{parameters} parameters, and {measures}

```python
import lgmnet

model = lgmnet.load("{name}"{at})
```

**Data.** {images} images of {training_data}{source}
**Budget.** {begun}{steps} steps of {batch} of {side} x {side} pixels, {crops} in all, in
{minutes} minutes; {optimizer}, largest rate {rate:g}, {schedule}, {precision}, seed {seed};
commit {commit}, torch {torch}. `log.jsonl` holds the training curve.

**Numbers.** Protocol `{protocol}`, by `python test.py {name}{choice} --data …`:

{table}

**Limits.** It was trained on {subject}, {noise}, and {limit}. A
reconstruction is an estimate: it may show details that the measurement does not contain. If the
difference above is negative, do not use it in place of the published network.

**Licence.** MIT, like the code.

SHA-256 of `model.safetensors`: `{sha}`
"""


BLOCKS = """a {phi} Φ for blocks of {block} x {block} with {phi_entries} entries.
Φ started from `{phi_init}`{made}.
It takes {ratio} measurements per hundred pixels of the luma."""
MASK = """the operator `{operator}` with the mask `{label}`, which samples {about}.
It measures {kind} images of {height} x {width} pixels."""

APERTURE = """the operator `coded_aperture` with a mask of {height} x {width} pixels:
{bands} bands, {step} columns from one to the next.
`python test.py {name} --mask FILE` takes another."""
BLUR = """the operator `blur_down` with {count} blur kernels.
It keeps one of {scale} x {scale} pixels of RGB images."""
# What the sets of synthetic images are made by.
SYNTHETIC = {
    "cubes_train": "python scripts/make_cubes.py data/cubes_train --count 48 --size 192 192",
}
PHOTOGRAPHS = """, without those of the validation list and
of `data.exclude` in `config.yaml`. The images belong to their authors and are not distributed.
"""


def measures(weights: Shipped) -> str:
    """What the operator of shipped weights is, for their card."""
    sampling, operator = weights.config.sampling, weights.weights.load().operator
    if isinstance(sampling, BlockSamplingConfig):
        return BLOCKS.format(
            phi=phi_kind(sampling),
            phi_init=sampling.phi_init,
            made=HOW_MADE if Path(sampling.phi_init).suffix else "",
            phi_entries=f"{weights.phi_entries:,}",
            block=sampling.block_size,
            ratio=" to ".join(f"{100 * limit:g}" for limit in dict.fromkeys(sampling.limits)),
        )
    if isinstance(operator, BlurDown):
        return BLUR.format(scale=operator.scale, count=len(operator.kernels))
    assert operator.size
    height, width = operator.size
    if isinstance(operator, CodedAperture):
        return APERTURE.format(
            name=weights.name,
            height=height,
            width=width,
            bands=operator.channels,
            step=operator.step,
        )
    assert isinstance(operator, FourierMask)
    return MASK.format(
        operator="fourier_mask",
        label=sampling.label,
        about=f"{100 * sampling_ratio(operator.mask):.1f} % of all frequencies",
        kind="complex" if operator.channels == 2 else "real",
        height=height,
        width=width,
    )


def phi_kind(sampling: BlockSamplingConfig) -> str:
    """``learned``, ``learned orthonormal`` or ``fixed``."""
    return "learned " * (sampling.phi == "orthonormal") + sampling.phi


def source(training_data: str) -> str:
    """How to get training images, for the card."""
    if made := SYNTHETIC.get(training_data):
        return f", made by `{made}`.\n"
    names = training_data.replace("train/", "").split(", ")
    public = [name for name in names if name in dataset_names(LISTS)]
    command = f"python scripts/prepare_data.py {' '.join(public)}"
    if not public:
        return PHOTOGRAPHS
    if public == names:
        return PHOTOGRAPHS + f"Get them with `{command}`.\n"
    others = ", ".join(name for name in names if name not in public)
    return PHOTOGRAPHS + (
        f"Get those of {', '.join(public)} with `{command}`.\n"
        f"Those of {others} are photographs of many sources; no command here downloads them.\n"
    )


def begun(weights: Shipped) -> str:
    """What came before the last phase of training, for the card."""
    if is_adapted(weights):
        return "The backbone was trained before; these are the steps of its adapters.\n"
    training = weights.config.training
    grown = ", grown to this size" * training.grow
    commit = "of the commit below"
    return f"Training started from `{training.start}` {commit}{grown}.\n" if training.start else ""


def is_adapted(weights: Shipped) -> bool:
    """Whether the last phase of training was that of LoRun's adapters."""
    return weights.config.model.options.get("sharing") == "lora"


def limit(weights: Shipped) -> str:
    """Which measurements the weights work with, for the card."""
    operator = weights.weights.load().operator
    if isinstance(operator, BlurDown):
        return "works with its own scale; other kernels were not tried"
    if isinstance(operator, CodedAperture):
        return "was scored with this mask only"
    phi = "mask" if isinstance(operator, FourierMask) else "Φ"
    return f"works with its own {phi} only"


def card(weights: Shipped) -> str:
    """The model card of shipped weights."""
    config, metadata = weights.config, weights.weights.metadata
    header = ["ratio", "test set", "images", "PSNR / SSIM", "published", "difference"]
    rows = [
        [
            report.condition_title(report.condition(result)),
            name,
            str(len(result["datasets"][name]["images"])),
            *rest,
        ]
        for result in weights.results
        for name, *rest in scores(result, result["datasets"])
    ]
    blocks = isinstance(config.sampling, BlockSamplingConfig)
    several = len(config.sampling.conditions) > 1
    first = report.condition(weights.results[0]) if several else ""
    example = f'condition="{first}"' if isinstance(first, str) else f"ratio={first:g}"
    kind = example.partition("=")[0].replace("condition", "at")
    noise = config.sampling.noise_std
    return CARD.format(
        name=weights.name,
        at=f", {example}" if several else "",
        choice=f" --{kind} …" if several else "",
        network=weights.network,
        options=", ".join(f"{k} = {v}" for k, v in config.model.options.items()) or "as published",
        parameters=f"{weights.parameters:,}",
        measures=measures(weights),
        subject="photographs" if blocks else "the images named above",
        limit=limit(weights),
        images=f"{weights.images:,}",
        training_data=weights.training_data,
        source=source(weights.training_data),
        begun=begun(weights),
        steps=f"{int(metadata['step']):,}",
        batch=f"{batch} crops" if (batch := config.training.batch_size) > 1 else "one crop",
        side=config.data.crop_size,
        crops=f"{weights.crops:,}",
        minutes=f"{weights.minutes:.0f}",
        optimizer=config.training.optimizer,
        rate=config.training.rate,
        schedule=config.training.schedule,
        precision=config.training.precision,
        seed=config.training.seed,
        commit=metadata["commit"],
        torch=metadata["torch"],
        protocol=weights.results[0]["protocol"],
        table=f"{report.markdown(header, rows)}\n\n{notes([weights])}".strip(),
        noise=f"with measurement noise of {noise:g}" if noise else "without measurement noise",
        sha=sha256(weights.weights.path),
    )


if __name__ == "__main__":
    sys.exit(main())
