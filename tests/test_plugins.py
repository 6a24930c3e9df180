"""Networks and operators of other packages, found by their entry points."""

import sys

import pytest
import torch

from lgmnet.build import build_model
from lgmnet.config import config_from_dict
from lgmnet.models import MODELS
from lgmnet.operators import OPERATORS
from lgmnet.weights.saved import load, save_weights

CODE = """
from dataclasses import dataclass

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork
from lgmnet.operators import OPERATORS, BlockSamplingConfig
from lgmnet.unfolding.data_steps import GradientStep


@MODELS.register("their_net")
class TheirNet(UnfoldingNetwork):
    def __init__(self, start: float = 1.0):
        super().__init__()
        self.start, self.step = start, GradientStep()

    def forward(self, measurement, operator):
        image = self.start * operator.adjoint(measurement)
        return Reconstruction(self.step(image, measurement, operator))

    def stages(self):
        return [self.step]


@OPERATORS.register("their_sampling")
@dataclass(frozen=True, kw_only=True)
class TheirSampling(BlockSamplingConfig):
    pass
"""
ENTRIES = """[lgmnet.plugins]
their_net = their_package
their_sampling = their_package
their_broken_net = their_broken_package
"""
TREE = {"model": {"name": "their_net", "start": 2}, "sampling": {"ratio": 0.1, "block_size": 8}}


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """Their package is installed and not yet imported."""
    for registry in (MODELS, OPERATORS):
        monkeypatch.setattr(registry, "_constructors", dict(registry._constructors))
    (tmp_path / "their_package.py").write_text(CODE)
    (tmp_path / "their_broken_package.py").write_text("import there_is_no_such_module")
    about = tmp_path / "their_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_package", None)


def test_a_network_of_another_package_is_built_saved_and_loaded(tmp_path):
    model = build_model(config_from_dict(TREE))
    save_weights(tmp_path / "x.safetensors", model, config_from_dict(TREE), {})
    image = torch.rand(1, 1, 16, 16)
    rebuilt = load(tmp_path / "x.safetensors").reconstruct(model.measure(image))
    torch.testing.assert_close(rebuilt, model.reconstruct(model.measure(image)))


def test_an_operator_of_another_package_is_found():
    sampling = {**TREE["sampling"], "operator": "their_sampling"}
    config = config_from_dict({**TREE, "sampling": sampling})
    assert type(config.sampling).__name__ == "TheirSampling"
    assert config.as_dict()["sampling"]["operator"] == "their_sampling"


def test_a_package_is_imported_only_for_its_own_names():
    build_model(config_from_dict({**TREE, "model": {"name": "ista_net_plus"}}))
    with pytest.raises(ValueError, match="unknown model 'their_package'"):
        build_model(config_from_dict({**TREE, "model": {"name": "their_package"}}))
    assert "their_package" not in sys.modules


def test_a_package_that_cannot_be_imported_is_named():
    with pytest.raises(ValueError, match="from the package their_broken_package, which cannot be"):
        build_model(config_from_dict({**TREE, "model": {"name": "their_broken_net"}}))
