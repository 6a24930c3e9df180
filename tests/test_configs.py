"""Every YAML under configs/ loads, builds and trains one step."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lgmnet import complexity
from lgmnet.build import Source, build_model, start_model
from lgmnet.config import load_config
from lgmnet.losses import total_loss
from lgmnet.runtime import Runtime
from lgmnet.training.checks import check_run
from tests.conftest import smooth_image

FOLDER = Path(__file__).parents[1] / "configs"
NO_NETWORK = ("base.yaml", "budget.yaml", "cassi.yaml", "ct.yaml", "mri.yaml", "sr.yaml")
EXPERIMENTS = FOLDER / "experiments"  # see test_experiment.py
FILES = sorted(
    path
    for path in FOLDER.rglob("*.yaml")
    if path.name not in NO_NETWORK and path.parent != EXPERIMENTS
)


# What makes each network small enough for a test.
NARROW = {
    "back_projection": [],
    "bicubic": [],
    "admm_csnet": ["model.stages=2"],
    "admm_net": ["model.stages=2"],
    "amp_net_tip": ["model.stages=2"],
    "amp_net": ["model.stages=2"],
    "ampa_net": ["model.stages=2"],
    "fista": ["model.iterations=2"],
    "fista_net": ["model.stages=3"],
    "gap_net": ["model.stages=2", "model.width=8"],
    "pnp_gap": ["model.iterations=2", "model.width=8"],
    "gap_tv": ["model.iterations=2"],
    "gin_amp_net_tip": ["model.stages=2"],
    "gin_fista_net": ["model.stages=3"],
    "gin_ista_net_plus": ["model.stages=2"],
    "ista": ["model.iterations=2"],
    "lgm_net": ["model.dim=2", "model.dimf=2"],
    "ista_net": ["model.stages=2"],
    "ista_net_plus": ["model.stages=2"],
    "lorun": ["model.stages=2", "model.width=8"],
    "prl": ["model.dim=2", "model.dimf=2"],
    "usrnet": ["model.stages=2", "model.widths=[4,8]"],
}


def without_files(path):
    """Overrides in place of the masks of authors, which do not come with the project.

    A beam is small: a test needs no large one.
    """
    if path.name.startswith("ct_"):
        return ["sampling.side=32", "sampling.views=6"]
    masks = {"mri": "pseudo_radial", "cassi": "random"}
    drawn = masks.get(path.name.partition("_")[0])
    return [f"sampling.mask={drawn}", "sampling.size=[64,64]"] if drawn else []


@pytest.fixture(scope="module")
def images():
    """Images to crop from, to fit starts and to take the PCA of."""
    pixels = [smooth_image(90, 120, k) for k in range(4)]
    return SimpleNamespace(
        names=list("abcd"),
        sizes=[p.shape for p in pixels],
        channels=1,
        dtype=pixels[0].dtype,
        read=lambda k: pixels[k],
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_a_config_builds_and_trains_one_step(path, images, monkeypatch):
    monkeypatch.setattr("lgmnet.build.START_BLOCKS", 500)
    config = load_config(path)
    config = load_config(path, [*NARROW[config.model.name], *without_files(path)])
    model = start_model(config, images)
    multiple = model.operator.multiple
    side = multiple * max(1, 36 // multiple)  # kernels have 25 x 25 pixels
    batch = torch.rand(1, model.operator.channels, *(model.operator.size or (side, side)))
    settings = config.training
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss, _ = total_loss(
        model(batch), batch, model.operator, settings.loss,
        settings.measurement_weight, settings.orthogonality_weight, settings.l1_weight,
    )  # fmt: skip
    assert torch.isfinite(loss)
    if not complexity.parameters(model):
        return  # an algorithm without anything to train
    loss.backward()
    torch.optim.Adam(model.parameters(), lr=settings.rate).step()
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_a_config_builds_at_full_size(path):
    config = load_config(path, without_files(path))
    sizes = config.sampling.sizes()
    phi = torch.zeros(sizes.get("measurements", 1), sizes.get("block_size", 1) ** 2)
    held = {
        "matrix": phi,
        "masks": torch.ones(1, 64, 64),
        "mask": torch.ones(64, 64),
        "kernels": torch.full((len(config.sampling.conditions), 25, 25), 1 / 625),
    }
    with torch.device("meta"):
        model = build_model(config, Source(held))
    if path.parent.name == "ablations":
        check_said_size(path, complexity.parameters(model.network))


def check_said_size(path, count):
    """An ablation that changes the size by more than 5 % says so: two causes are mixed there."""
    change = count / 17_466_323 - 1
    said = f"# Parameters: {count:,} ({100 * change:+.1f} %)."
    text = path.read_text(encoding="utf-8")
    assert (said in text) if abs(change) > 0.05 else ("Parameters" not in text)


# What a network cannot keep of its paper when Φ starts as the PCA and is learned, as in README.
UNDER_BUDGET = {
    "amp_net": ["model.start=adjoint"],
    "ampa_net": ["model.start=adjoint"],
    "fista_net": ["model.w_tilde=phi"],
    "gin_fista_net": ["model.w_tilde=phi"],
}
TRAINED = sorted(
    path.stem
    for path in FILES
    if path.stem in NARROW.keys() - {"ista", "fista", "back_projection", "bicubic"}
)


@pytest.mark.parametrize("name", TRAINED)
def test_every_network_has_a_budget_run(name, images, monkeypatch):
    """configs/budget.yaml gives all of them the same terms."""
    monkeypatch.setattr("lgmnet.build.START_BLOCKS", 500)
    overrides = [*NARROW[name], *UNDER_BUDGET.get(name, [])]
    config = load_config(FOLDER / f"{name}.yaml", overrides, [FOLDER / "budget.yaml"])
    check_run(config, Runtime(torch.device("cpu")))
    assert (config.training.minutes, config.sampling.phi, config.evaluation.protocol) == (
        25, "learned", "paper",
    )  # fmt: skip
    model = start_model(config, images)
    batch = torch.rand(1, 1, 64, 64)
    loss, _ = total_loss(model(batch), batch, model.operator, config.training.loss)
    loss.backward()
    assert torch.isfinite(loss)
    assert model.operator.matrix.grad is not None


def test_ablations_are_short():
    for path in (FOLDER / "ablations").glob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert 3 <= len(lines) <= 6, path
        assert lines[0].startswith("# "), path


def test_each_ablation_differs_from_the_published_network():
    published = load_config(FOLDER / "lgm_net.yaml")
    seen = [published]
    for path in sorted((FOLDER / "ablations").glob("*.yaml")):
        config = load_config(path)
        assert config not in seen, f"{path} repeats another config"
        seen.append(config)


@pytest.mark.parametrize(
    ("ratio", "rate", "epochs", "milestones"),
    [
        (0.01, 1e-4, 200, (150, 180, 190)), (0.04, 1e-4, 200, (150, 180, 190)),
        (0.1, 1e-4, 200, (150, 180, 190)), (0.25, 8e-5, 250, (200, 230, 240)),
        (0.5, 8e-5, 250, (200, 230, 240)), (0.3, 8e-5, 250, (200, 230, 240)),
    ],
)  # fmt: skip
def test_the_published_recipe_depends_on_the_ratio(ratio, rate, epochs, milestones):
    training = load_config(FOLDER / "lgm_net.yaml", [f"sampling.ratio={ratio}"]).training
    assert (training.rate, training.epochs, training.milestones) == (rate, epochs, milestones)
    assert training.steps == epochs * 2000
    assert training.batch_size == 64


def test_held_out_lists_name_no_image_twice():
    for path in (FOLDER / "validation").glob("*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if not line.startswith("#")]
        assert len(names) == len(set(names)) > 0
