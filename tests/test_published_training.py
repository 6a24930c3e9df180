"""A training step of each ported network, against the authors' public code in double precision.

``golden/training.json`` was made once with that code: it holds the names and shapes of its tensors,
its loss, and of the gradient of each tensor the norm and the projection on a fixed direction.
Weights and images are `numbers`, so nobody's files are stored. Their code was run as it is, but for
double precision, no CUDA, small sizes and, in FISTA-Net, no tomography: of its two forms it is the
one with a learned gradient, with Φ for W̃ and for the system, and Qy as the start. There the
synthesis is given the thresholded coefficients, as in the paper; one version of the public
code gives it others.
"""

import json
import math
import zlib

import numpy as np
import pytest
import torch
from torch.func import functional_call

from lgmnet.config import load_config
from lgmnet.losses import total_loss
from lgmnet.models import (
    SensingModel,
    amp_net_tip,
    create_network,
    fista_net,
    ista_net,
    lgm_net,
    prl,
)
from lgmnet.operators import BlockSampling
from tests.conftest import PROJECT

GOLDEN = json.loads((PROJECT / "tests/golden/training.json").read_text(encoding="utf-8"))
IMPORTERS = {
    "ista_net": ista_net.from_published,
    "ista_net_plus": ista_net.from_published,
    "fista_net": fista_net.from_published,
    "amp_net_tip": amp_net_tip.from_published,
    "prl": prl.from_published,
    "lgm_net": lgm_net.from_published,
}


def numbers(name, shape):
    """Numbers in [-1, 1) that follow from the name alone: the same bits on every machine."""
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return torch.from_numpy((raw >> 11) * 2.0**-52 - 1).reshape(shape)


def weights(name, shape, mean=0.0):
    """Kernels and matrices with outputs of the size of their inputs; 0.1 around ``mean`` else."""
    if len(shape) < 2:
        return mean + 0.1 * numbers(name, shape)
    return math.sqrt(3 / math.prod(shape[1:])) * numbers(name, shape)


def image(shape):
    """Pixels in [0, 1)."""
    return (numbers("image", shape) + 1) / 2


def summary(name, gradient):
    """Norm, and projection on a fixed direction of norm about one."""
    direction = numbers(f"direction of {name}", gradient.shape) * math.sqrt(3 / gradient.numel())
    return [float(gradient.norm()), float((gradient * direction).sum())]


@pytest.mark.parametrize("name", IMPORTERS)
def test_loss_and_gradients_are_those_of_the_public_code(name):
    """The leaves are in the authors' layout, so the importer passes the gradients back to it."""
    golden = GOLDEN[name]
    leaves = {
        key: weights(key, tensor["shape"], tensor["mean"]).requires_grad_()
        for key, tensor in golden["tensors"].items()
    }
    given = [weights(key, shape) for key, shape in golden["given"].items()]  # Φ and Q
    copies = {key: leaves[source] for key, source in golden["copies"].items()}
    options, matrix, own = IMPORTERS[name](leaves | copies, *given)
    block_size = math.isqrt(matrix.shape[1])
    network = create_network(name, options, {"measurements": len(matrix), "block_size": block_size})
    model = SensingModel(BlockSampling(matrix.detach(), block_size), network).double()
    state = {"operator.matrix": matrix, **{f"network.{key}": own[key] for key in own}}
    target = image(golden["image"])
    settings = load_config(PROJECT / f"configs/{name}.yaml", ["sampling.ratio=0.1"]).training
    loss, _ = total_loss(
        functional_call(model, state, (target,), strict=True), target, model.operator,
        settings.loss, settings.measurement_weight, settings.orthogonality_weight,
        settings.l1_weight,
    )  # fmt: skip
    loss.backward()

    assert float(loss.detach()) == pytest.approx(golden["loss"], rel=1e-9)
    for key, leaf in leaves.items():
        size, projection = golden["tensors"][key]["gradient"]
        assert summary(key, leaf.grad) == pytest.approx([size, projection], abs=1e-9 * size), key
