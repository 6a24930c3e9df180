"""Configurations that nobody wrote: each builds, or a ConfigError names the key.

Hypothesis draws keys, types and values; what it draws is the same in every run.
"""

import dataclasses
import inspect
import math
import string

import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lgmnet import config as sections
from lgmnet.build import shadow_model
from lgmnet.config import Config, ConfigError, config_from_dict, load_config
from lgmnet.models import MODELS
from lgmnet.operators import OPERATORS, BlockSamplingConfig
from tests.conftest import PROJECT

SECTIONS = {
    "data": sections.DataConfig,
    "training": sections.TrainingConfig,
    "evaluation": sections.EvaluationConfig,
    "lora": sections.LoraConfig,
}
# Of each operator, what a config has to say.
SAMPLING = {
    "block_sampling": {"ratio": 0.1},
    "fourier_mask": {"operator": "fourier_mask", "mask": "cartesian", "size": [16, 16]},
}
WORDS = [
    "learned", "fixed", "ceil", "floor", "table33", "xavier", "pca", "orthonormal", "adam", "muon",
    "cosine", "multistep", "cartesian", "variable_density",
    "mask.mat", "bands", "mse", "l1", "bf16", "auto", "sample", "files", "device", "luma", "rgb",
    "1e-4", "0.25", "true", "off", "", "builtin", "shared", "lora",
]  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 0.1, 0.25, 0.5, 1e-3, 1e-4, 0.9]),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
)
SCALARS = st.one_of(NUMBERS, st.sampled_from(WORDS), st.booleans(), st.none(), st.text(max_size=5))
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=3), SCALARS, max_size=2),
)
# More modules and tensors than any of the networks of the published tables.
PARTS = 20_000


def names(kind):
    """Keys of a section, with one in ten that is none."""
    known = [field.name for field in dataclasses.fields(kind)]
    return st.one_of(*[st.sampled_from(known)] * 9, st.text(string.ascii_letters, max_size=8))


@st.composite
def trees(draw):
    """A config of a known network, with a few settings of any value."""
    network = draw(st.sampled_from(MODELS.names()))
    options = list(inspect.signature(MODELS.get(network)).parameters)
    keys = st.one_of(st.sampled_from(options), st.text(string.ascii_letters, max_size=6))
    model = draw(st.dictionaries(keys, VALUES, max_size=2))
    operator = draw(st.sampled_from(sorted(SAMPLING)))
    kinds = {**SECTIONS, "sampling": OPERATORS.get(operator)}
    tree = {"model": {**model, "name": network}, "sampling": SAMPLING[operator]}
    for section in draw(st.lists(st.sampled_from(sorted(kinds)), max_size=3, unique=True)):
        settings = draw(st.dictionaries(names(kinds[section]), VALUES, max_size=2))
        tree[section] = {**tree.get(section, {}), **settings}
    return tree


def written(tree):
    """The names of a config, of which an error has to name one."""
    found = set(tree) | {key for part in tree.values() if isinstance(part, dict) for key in part}
    return found | {"model", str(tree["model"]["name"])}


def operator_of(sampling):
    """The tensors of an operator as a weights file would hold them, without values."""
    if isinstance(sampling, BlockSamplingConfig):
        shape, dtype = (sampling.measurements(), sampling.block_size**2), torch.float32
        return {"operator.matrix": torch.empty(shape, dtype=dtype, device="meta")}
    return {"operator.masks": torch.empty(1, 16, 16, dtype=torch.bool, device="meta")}


def check(tree):
    """Whether a config builds; else its error names a key, and nothing else is raised."""
    try:
        config = config_from_dict(tree)
        assert config_from_dict(config.as_dict()) == config
        assert config_from_dict(yaml.safe_load(config.as_yaml())) == config
        if isinstance(config.sampling, BlockSamplingConfig) and config.sampling.block_size > 64:
            return False  # Φ of gigabytes
        shadow_model(config, operator_of(config.sampling), PARTS)
    except ConfigError as error:
        text = str(error)
        assert any(key and str(key) in text for key in written(tree)), text
        assert len(text) < 3000
        return False
    return True


def config_or_message(make, *arguments):
    """The config; or what its error says. Any other error fails the test."""
    try:
        return make(*arguments)
    except ConfigError as error:
        return str(error)


QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@given(tree=trees())
@settings(max_examples=60, database=None, **QUIET)
def test_a_config_builds_or_its_error_names_the_key(tree):
    check(tree)


@pytest.mark.long
@given(tree=trees())
@settings(max_examples=1000, database=None, **QUIET)
def test_a_thousand_configs_build_or_their_errors_name_the_key(tree):
    check(tree)


@given(value=VALUES, key=st.sampled_from(["rate", "epochs", "clip", "schedule", "milestones"]))
@settings(max_examples=60, database=None, **QUIET)
def test_a_wrong_value_is_said_with_its_key(value, key):
    """Where one setting alone is drawn, the error names just that one."""
    tree = {"model": {"name": "lgm_net"}, "sampling": {"ratio": 0.1}, "training": {key: value}}
    made = config_or_message(config_from_dict, tree)
    if isinstance(made, Config):
        found = getattr(made.training, key)
        assert not isinstance(found, float) or math.isfinite(found)
    else:
        assert f"training.{key}" in made


@given(text=st.text(max_size=60))
@settings(max_examples=60, database=None, **QUIET)
def test_any_text_is_a_config_or_an_error(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    assume("base" not in text)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    assert config_or_message(load_config, path, [])


@given(text=st.text(string.printable, max_size=30), value=VALUES)
@settings(max_examples=60, database=None, **QUIET)
def test_any_override_is_a_setting_or_an_error_that_repeats_it(text, value):
    for override in (text, f"training.rate={value}"):
        made = config_or_message(load_config, PROJECT / "configs" / "lgm_net.yaml", [override])
        if not isinstance(made, Config):
            section = override.partition(".")[0].strip()  # the first unknown word is named
            assert "training.rate" in made or section in made
