"""Which network works with which operator: README's column "problems" says what is found here."""

import re

import pytest
import torch

from lgmnet.config import load_config
from lgmnet.models import MODELS, create_network
from lgmnet.operators import (
    BlockSampling,
    BlurDown,
    CodedAperture,
    FourierMask,
    ParallelBeam,
    kernels,
    masks,
    matrices,
)
from lgmnet.operators.parallel_beam import equal_angles
from lgmnet.unfolding.fitted import Fitted
from tests.conftest import PROJECT
from tests.test_models import SMALL

SIDE, BLOCK = 32, 16
KERNEL = kernels.gaussians()[1:2, 8:17, 8:17]
OPERATORS = {
    "blocks": BlockSampling(matrices.orthonormal(20, BLOCK**2), BLOCK),
    "MRI": FourierMask(masks.pseudo_radial((SIDE, SIDE), 8)),
    "CT": ParallelBeam(SIDE, equal_angles(9)),
    "super-resolution": BlurDown(KERNEL, scale=2),
    "complex MRI": FourierMask(masks.pseudo_radial((SIDE, SIDE), 8), channels=2),
    "super-resolution in colour": BlurDown(KERNEL, scale=2, channels=3),
    "spectral": CodedAperture(torch.ones(SIDE, SIDE), bands=4, step=2),
}
WORDS = {
    frozenset(OPERATORS): "all",
    frozenset(("blocks", "MRI", "CT", "super-resolution")): "one channel",
    frozenset(("blocks",)): "blocks",
    frozenset(("MRI",)): "MRI",
    frozenset(("super-resolution", "super-resolution in colour")): "super-resolution",
}
# The settings that replace those for blocks. The errors of the networks name them.
WITHOUT_BLOCKS = {"prior_domain": "image", "start": "back_projection"}


def built(name, operator):
    """The network for this operator, by the first settings that fit; the last error otherwise."""
    settings = [{}, WITHOUT_BLOCKS, {"start": "back_projection"}]
    for number, changes in enumerate(settings, start=1):
        try:
            network = create_network(name, SMALL[name] | changes, operator.sizes())
            network.check_operator(operator)
        except ValueError:
            if number == len(settings):
                raise
        else:
            return network


def works(name, operator):
    """Whether the network can be built; if it can, it must reconstruct."""
    try:
        network = built(name, operator).eval()
    except ValueError:
        return False
    for part in network.modules():
        if isinstance(part, Fitted):
            part.fit(operator.matrix.detach(), torch.rand(100, BLOCK**2))
    image = torch.rand(1, operator.channels, SIDE, SIDE)
    found = network(operator(image), operator).image
    assert found.shape == image.shape
    assert found.isfinite().all()
    return True


def problems(name):
    return WORDS[frozenset(key for key, operator in OPERATORS.items() if works(name, operator))]


def rows():
    """Configs and problems of each row of README's table of networks."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| network | config | problems |") :].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        _, _, configs, word, *_ = (cell.strip() for cell in line.split("|"))
        if names := re.findall(r"`(\w+)\.yaml`", configs):
            yield pytest.param(names, word, id=names[0])


@pytest.mark.parametrize(("configs", "word"), list(rows()))
def test_readme_says_what_networks_work_with(configs, word):
    names = {load_config(PROJECT / "configs" / f"{config}.yaml").model.name for config in configs}
    assert {problems(name) for name in names} == {word}


def test_every_network_works_with_a_known_set_of_problems():
    """So a new network needs a row in README, or a word here."""
    assert all(problems(name) in WORDS.values() for name in MODELS.names())
