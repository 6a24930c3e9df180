"""Every YAML under configs/ loads, builds and trains one step."""

from pathlib import Path

import pytest
import torch

from lgmnet.config import load_config
from lgmnet.engine.building import build_model
from lgmnet.losses import total_loss
from lgmnet.operators import matrices

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "base.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_a_config_builds_and_trains_one_step(path):
    config = load_config(path, ["model.dim=2", "model.dimf=2"])
    matrix = matrices.orthonormal(103, 1024)  # what pca would need images for
    model = build_model(config, matrix)
    images = torch.rand(1, 1, 32, 32)
    settings = config.training
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss, _ = total_loss(
        model(images), images, model.operator, settings.loss,
        settings.measurement_weight, settings.orthogonality_weight,
    )  # fmt: skip
    loss.backward()
    torch.optim.Adam(model.parameters(), lr=settings.rate).step()
    assert torch.isfinite(loss)
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_a_config_builds_at_full_size(path):
    config = load_config(path)
    with torch.device("meta"):
        build_model(config, torch.zeros(103, 1024))


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
