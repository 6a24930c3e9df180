"""The documentation site: every page is in it, and its examples work."""

import re
import sys

import numpy as np
import pytest
import torch
import yaml

from lgmnet.models import MODELS, SensingModel
from lgmnet.operators import BlockSampling
from lgmnet.operators.matrices import load_matrix
from tests.conftest import PROJECT

DOCS = PROJECT / "docs"


def example(page):
    """The first Python example of a page."""
    return re.search(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.S)[1]


def test_every_page_is_in_the_navigation_once():
    text = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        parts = entry if isinstance(entry, list) else entry.values()
        return [page for part in parts for page in pages(part)]

    listed = pages(yaml.safe_load(text)["nav"])
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_site_builds_without_warnings_and_asks_no_server(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python")
    build = pytest.importorskip("mkdocs.commands.build").build
    load_config = pytest.importorskip("mkdocs.config").load_config
    build(load_config(str(PROJECT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r'<(?:script|img|link rel="stylesheet)[^>]*(?:src|href)="([^"]+)', start)
    assert loaded
    assert not [address for address in loaded if "//" in address]
    assert "lgmnet.operators.base.LinearOperator" in (tmp_path / "api/operators.html").read_text()


def test_the_network_of_the_page_learns(monkeypatch):
    """Every parameter gets a gradient, on an image that is not square."""
    monkeypatch.setattr(MODELS, "_constructors", dict(MODELS._constructors))
    module = {"__name__": "my_net"}
    exec(example("add-a-network.md"), module)
    network = module["MyNet"](stages=2, channels=4)
    phi = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 7)))[0].T
    model = SensingModel(BlockSampling(torch.from_numpy(phi).float(), 8), network)
    image = torch.rand(1, 1, 16, 24)
    rebuilt = model(image).image
    assert rebuilt.shape == image.shape
    rebuilt.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_the_matrix_of_the_page_has_the_norm_of_its_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(example("own-phi.md"), {})
    phi = load_matrix(tmp_path / "my_phi.npy")
    assert phi.shape == (103, 1024)
    assert torch.linalg.matrix_norm(phi, 2).item() == pytest.approx(42, abs=1)


def test_the_picture_of_lgm_net_is_what_the_script_draws(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    import draw_lgm_net

    monkeypatch.setattr(sys, "argv", ["draw_lgm_net.py", "--output", str(tmp_path / "x.svg")])
    assert draw_lgm_net.main() == 0
    assert (tmp_path / "x.svg").read_bytes() == (DOCS / "lgm_net.svg").read_bytes()
