"""torch.compile makes one graph of a network, for the crops of training alone. Nothing is compiled
here: a backend counts the graphs, and runs them as they are.
"""

import einops
import numpy as np
import pytest
import torch

from lgmnet import runtime
from lgmnet.evaluation.rebuild import validate
from lgmnet.models import MODELS, LGMNet, LoRun, SensingModel
from lgmnet.operators import BlockSampling, matrices
from lgmnet.runtime import Runtime
from lgmnet.training import learner
from lgmnet.unfolding import layout
from tests.conftest import tiny_config
from tests.test_models import small_model

CPU = Runtime(torch.device("cpu"))
# Classical algorithms have nothing to train, and stop by what they see. GAP-Net and its
# plug-and-play form project on blocks: a projection looks whether the rows of Φ are independent.
OTHERS = {"ista", "fista", "gap_tv", "bicubic", "gap_net", "pnp_gap"}
TRAINED = sorted(set(MODELS.names()) - OTHERS)


class Counter:
    """A backend of torch.compile: the graphs it was given, and how often they ran."""

    def __init__(self):
        self.graphs = self.runs = 0
        torch._dynamo.reset()

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*arguments):
            self.runs += 1
            return graph(*arguments)

        return run


def with_network(network):
    return SensingModel(BlockSampling(matrices.orthonormal(20, 1024)), network).train()


def graphs_of(model):
    """One training step, which fails where a graph would end before the network does."""
    counter = Counter()
    model.network.compile(backend=counter, fullgraph=True, dynamic=False)
    image = torch.rand(1, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        result = model(image).image
    result.float().mean().backward()
    assert counter.runs == counter.graphs
    return counter.graphs


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_network_is_one_graph(name):
    assert graphs_of(small_model(name).train()) == 1


def test_half_quadratic_splitting_is_one_graph():
    small = {"D": 1, "dim": 2, "dimf": 2, "scales": 1}
    assert graphs_of(with_network(LGMNet(data_step="hqs", **small))) == 1
    assert graphs_of(with_network(LoRun(stages=1, denoiser="unet", algorithm="hqs"))) == 1


class Images:
    """Grey validation images of different sizes."""

    names, sizes = ["a", "b", "c"], [(32, 32), (64, 40), (33, 70)]
    channels, dtype = 1, np.dtype(np.uint8)

    def read(self, index):
        return np.full(self.sizes[index], 60 * index, np.uint8)


def test_completed_channels_are_part_of_the_graph(monkeypatch):
    monkeypatch.setattr(layout, "on_tensor_cores", lambda features: True)
    assert graphs_of(with_network(LGMNet(D=1, dim=2, dimf=3, scales=1))) == 1


def test_the_question_for_tensor_cores_ends_no_graph():
    """On "cuda" it reads more than here, where there is none."""

    def read(features):
        return features + torch.is_autocast_enabled("cuda") + (features.dtype == torch.bfloat16)

    compiled = torch.compile(read, backend=Counter(), fullgraph=True)
    assert torch.equal(compiled(torch.zeros(2)), torch.zeros(2))


@pytest.fixture
def counter(monkeypatch):
    """What `learner.prepare` compiles, in a process where nobody has used einops before."""
    counter, real = Counter(), torch.compile
    monkeypatch.setattr(einops._backends, "_type2backend", {})

    def counting(function, mode, dynamic):
        counter.mode = mode
        return real(function, backend=counter, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", counting)
    return counter


def prepared():
    model = with_network(LGMNet(D=1, dim=2, dimf=2, scales=1))
    settings = tiny_config(training={"compile": True}).training
    assert learner.prepare(model, settings, CPU) is model
    return model


def test_validation_compiles_nothing(counter):
    model, crops = prepared(), torch.rand(2, 1, 32, 32)
    model(crops)
    score = validate(model, Images(), CPU, 3)
    model(crops)
    assert (counter.graphs, counter.runs) == (1, 2)
    runtime.undo_compilation(model.network)
    assert validate(model, Images(), CPU, 3) == score


def test_a_graph_is_made_for_each_size_of_a_batch(counter):
    """Sizes are never made variables of a graph, which would be slower for all of them."""
    model = prepared()
    for batch in (4, 4, 2, 1, 2, 4):
        model(torch.rand(batch, 1, 32, 32))
    assert counter.mode == "default"
    assert (counter.graphs, counter.runs) == (3, 6)
