"""The operator of docs/add-a-problem.md is run as it is printed."""

import re
import sys
import types

import pytest
import torch
import yaml

from lgmnet.config import config_from_dict
from lgmnet.operators import OPERATORS
from lgmnet.runtime import Runtime
from lgmnet.training.loop import train
from lgmnet.weights.saved import find_weights
from tests.conftest import PROJECT

PAGE = (PROJECT / "docs" / "add-a-problem.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)[number]


@pytest.fixture
def page(monkeypatch):
    """What the first listing defines, registered for the length of a test."""
    monkeypatch.setattr(OPERATORS, "_constructors", dict(OPERATORS._constructors))
    module = types.ModuleType("lgmnet.operators.box_mean")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(block("python"), module.__dict__)
    return module


def test_the_operator_is_as_short_as_the_page_says():
    code = block("python")
    operator = code[code.index("class BoxMean") : code.index("@OPERATORS")].strip()
    assert len([line for line in operator.splitlines() if line]) <= 30


@pytest.mark.parametrize("scale", [2, 3])
def test_it_passes_the_identities_of_every_operator(page, scale):
    operator = page.BoxMean(scale).double()
    x, y = torch.randn(2, 1, 12, 18).double(), torch.randn(2, 1, 12 // scale, 18 // scale).double()
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())
    assert operator(x).shape[1:] == operator.measurement_shape(12, 18)
    solution = operator.solve(x, 0.3, operator.adjoint(y))
    normal = operator.adjoint(operator(solution)) + 0.3 * solution
    torch.testing.assert_close(normal, operator.adjoint(y) + 0.3 * x)
    torch.testing.assert_close(operator(operator.project(x, y)), y)
    assert operator.lipschitz() == pytest.approx(1 / scale**2, rel=1e-3)
    assert operator.fingerprint() != page.BoxMean(scale + 1).fingerprint()
    with pytest.raises(ValueError, match=f"width 19 is not a multiple of {scale}"):
        operator(torch.zeros(1, 1, 12, 19))


def test_its_yaml_file_trains_and_its_weights_load(page, tmp_path):
    tree = yaml.safe_load(block("yaml"))
    tree["training"] |= {"minutes": 0, "epochs": 1, "steps_per_epoch": 2}
    config = config_from_dict(tree)
    assert (
        train(config, tmp_path / f"box_mean_{config.sampling.label}", Runtime(torch.device("cpu")))
        == 0
    )
    weights = find_weights(tmp_path / "box_mean_x2")
    model = weights.load()
    image = torch.rand(1, 1, 32, 32)
    assert model.measure(image).shape == (1, 1, 16, 16)
    assert model.reconstruct(model.measure(image)).shape == image.shape
