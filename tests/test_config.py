"""YAML and overrides -> Config; every error message we promise."""

from pathlib import Path

import pytest
import yaml

from lgmnet.config import Config, ConfigError, TrainingConfig, config_from_dict, load_config

MINIMAL = {"model": {"name": "lgm_net"}, "sampling": {"ratio": 0.1}}


@pytest.fixture
def load(tmp_path):
    """Load a config given as text, with overrides and more files beside it."""

    def run(text: str, overrides=(), **beside: str) -> Config:
        for name, content in beside.items():
            (tmp_path / f"{name}.yaml").write_text(content)
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return run


def minimal(**sections: dict) -> str:
    return yaml.safe_dump({**MINIMAL, **sections})


# Where a value comes from.


def test_a_file_overrides_its_base_key_by_key(load):
    config = load(
        "base: common.yaml\ntraining: {rate: 0.5}\nmodel: {D: 3}",
        common="model: {name: lgm_net, D: 2, dim: 8}\nsampling: {ratio: 0.25}\n"
        "training: {rate: 0.1, epochs: 7}",
    )

    assert config.model.options == {"D": 3, "dim": 8}
    assert (config.training.rate, config.training.epochs) == (0.5, 7)
    assert config.sampling.ratio == 0.25


def test_a_list_replaces_that_of_the_base(load):
    config = load("base: common.yaml\ndata: {train: [b]}", common=minimal(data={"train": ["a"]}))

    assert config.data.train == ("b",)


def test_a_base_may_have_a_base_but_not_be_its_own(load):
    deeper = minimal(data={"train": ["a"], "crop_size": 64})
    common = "base: deeper.yaml\ndata: {train: [b]}"
    config = load("base: common.yaml", common=common, deeper=deeper)
    assert (config.data.train, config.data.crop_size) == (("b",), 64)
    with pytest.raises(ConfigError, match=r"common\.yaml is based on itself"):
        load("base: common.yaml", common="base: deeper.yaml", deeper="base: common.yaml")


def test_a_missing_base_is_named(load):
    with pytest.raises(ConfigError, match=r"no config file .*nowhere\.yaml"):
        load("base: nowhere.yaml")


def test_a_path_is_first_relative_to_the_folder_of_its_file(load, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "photos").mkdir()
    (tmp_path / "builtin").mkdir()  # the name stays that of the images that come with scikit-image
    for name in ("phi.npy", "held_out.txt"):
        (tmp_path / name).touch()
    text = minimal(
        sampling={"ratio": 0.1, "phi_init": "phi.npy"},
        data={"train": ["photos[:9]", "builtin", "BSDS500"], "validation": "held_out.txt"},
    )
    config = load(text)
    assert config.sampling.phi_init == str(tmp_path / "phi.npy")
    assert config.data.train == (str(tmp_path / "photos[:9]"), "builtin", "BSDS500")
    assert config.data.validation == str(tmp_path / "held_out.txt")
    config = load("base: common.yaml\ndata: {train: 'photos, BSDS500'}", common=text)
    assert config.data.train == (str(tmp_path / "photos"), "BSDS500")
    assert config.sampling.phi_init == str(tmp_path / "phi.npy")
    config = load(text, ["sampling.phi_init=phi.npy", "data.train=photos"])
    assert config.sampling.phi_init == "phi.npy"  # a command is relative to where it is typed
    assert config.data.train == ("photos",)


def test_later_wins_of_base_file_per_ratio_and_override(load):
    """Each of four keys is set by one source more than the key before it."""
    config = load(
        "base: common.yaml\n"
        "training: {epochs: 20, steps_per_epoch: 20, batch_size: 20}\n"
        "per_ratio: {0.1: {training: {steps_per_epoch: 30, batch_size: 30}}}",
        ["training.batch_size=40"],
        common=minimal(
            training={"seed": 10, "epochs": 10, "steps_per_epoch": 10, "batch_size": 10}
        ),
    )

    training = config.training
    assert (training.seed, training.epochs) == (10, 20)
    assert (training.steps_per_epoch, training.batch_size) == (30, 40)


PER_RATIO = {0.1: {"training": {"rate": 1}}, "default": {"training": {"rate": 9}}}


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ([], 1),
        (["sampling.ratio=0.10"], 1),
        (["sampling.ratio=1e-1"], 1),
        (["sampling.ratio=0.25"], 9),
        (["sampling.ratio=0.25", "training.rate=5"], 5),
    ],
)
def test_the_ratio_in_force_selects_the_per_ratio_entry(load, overrides, rate):
    assert load(minimal(per_ratio=PER_RATIO), overrides).training.rate == rate


def test_a_ratio_given_only_on_the_command_line_selects_the_entry(load):
    text = yaml.safe_dump({"model": {"name": "lgm_net"}, "per_ratio": PER_RATIO})

    assert load(text, ["sampling.ratio=0.1"]).training.rate == 1


def test_without_an_entry_and_a_default_the_file_stands(load):
    text = minimal(training={"rate": 3}, per_ratio={0.25: {"training": {"rate": 1}}})

    assert load(text).training.rate == 3


def test_per_ratio_entries_of_base_and_file_are_joined(load):
    config = load(
        "base: common.yaml\nper_ratio: {0.1: {training: {epochs: 3}}}",
        common=minimal(per_ratio=PER_RATIO),
    )

    assert (config.training.rate, config.training.epochs) == (1, 3)


def test_an_empty_section_or_entry_changes_nothing(load):
    text = "model: {name: lgm_net}\nsampling: {ratio: 0.1}\ntraining:\n"

    assert load(text + "per_ratio: {0.1: }").training == TrainingConfig()
    assert load(text + "per_ratio:").sampling.ratio == 0.1


# What a value becomes.


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001"])
def test_every_way_to_write_a_small_number_is_a_float(load, text):
    from_file = load(f"model: {{name: a}}\nsampling: {{ratio: 0.1}}\ntraining: {{rate: {text}}}")
    from_override = load(minimal(), [f"training.rate={text}"])

    for config in (from_file, from_override):
        assert config.training.rate == 1e-4
        assert isinstance(config.training.rate, float)


def test_a_whole_number_is_an_int_and_a_broken_one_is_refused(load):
    assert isinstance(load(minimal(), ["training.epochs=2e2"]).training.epochs, int)
    with pytest.raises(ConfigError, match=r"training\.epochs is 1\.5, expected int"):
        load(minimal(), ["training.epochs=1.5"])


@pytest.mark.parametrize("word", ["off", "no", "yes", "true"])
@pytest.mark.parametrize("key", ["training.rate", "training.epochs", "data.augment", "data.train"])
def test_a_word_that_yaml_reads_as_a_boolean_is_no_number_and_no_name(load, key, word):
    with pytest.raises(ConfigError, match=rf"{key} is (True|False), expected"):
        load(minimal(), [f"{key}={word}"])


def test_a_boolean_takes_true_and_false_and_nothing_else(load):
    assert load(minimal(), ["training.compile=true"]).training.compile is True
    assert load(minimal(), ["training.compile=off"]).training.compile is False
    with pytest.raises(ConfigError, match=r"training\.compile is 1, .*true or false"):
        load(minimal(), ["training.compile=1"])


@pytest.mark.parametrize("text", ["a,b", "a, b", "[a, b]", "'a,b'"])
def test_a_list_can_be_written_with_commas(load, text):
    assert load(minimal(), [f"data.train={text}"]).data.train == ("a", "b")


def test_items_of_a_list_are_converted_too(load):
    assert load(minimal(), ["training.milestones=3,5e1"]).training.milestones == (3, 50)
    with pytest.raises(ConfigError, match=r"training\.milestones is 'x', expected int"):
        load(minimal(), ["training.milestones=3,x"])


# Errors.


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("sampling.nose_std=1", r"'sampling\.nose_std'; did you mean 'noise_std'\?"),
        ("trainin.rate=1", r"'trainin'; did you mean 'training'\?"),
        ("training.schedule=cosin", r"training\.schedule is 'cosin', .*; did you mean 'cosine'\?"),
        ("sampling.rounding=ciel", r"expected one of ceil, floor, round, table33"),
    ],
)
def test_an_unknown_word_names_the_nearest(load, override, hint):
    with pytest.raises(ConfigError, match=hint):
        load(minimal(), [override])


def test_older_files_may_say_that_they_have_no_late_crops(load):
    late = ["data.late_patch_size=0", "data.late_share=0.2"]
    assert load(minimal(), late) == load(minimal())
    with pytest.raises(ConfigError, match=r"unknown config key 'data\.late_patch_size'"):
        load(minimal(), ["data.late_patch_size=256", "data.late_share=0.2"])


@pytest.mark.parametrize(
    ("above", "overrides"),
    [
        ("data: {patch_size: 48}", []),
        ("per_ratio: {0.1: {data: {patch_size: 48}}}", []),
        ("per_ratio:\n  default: {data: {patch_size: 48}}\n  0.1:", ["sampling.ratio=0.2"]),
        ("data: {crop_size: 32}", ["data.patch_size=48"]),
        ("data: {patch_size: 32}", ["data.crop_size=48"]),
        ("data: {patch_size: 48, crop_size: 48}", []),
    ],
)
def test_the_former_name_of_a_key_is_read_and_the_present_one_is_written(load, above, overrides):
    """Later wins by whichever name; the base has the other one."""
    config = load(f"base: common.yaml\n{above}", overrides, common=minimal(data={"crop_size": 16}))
    assert config.as_dict()["data"]["crop_size"] == 48
    assert "patch_size" not in config.as_yaml()


def test_the_present_name_wins_over_the_former_one_of_the_base(load):
    text = "base: common.yaml\ndata: {crop_size: 48}"
    assert load(text, common=minimal(data={"patch_size": 16})).data.crop_size == 48


def test_two_names_with_different_values_are_refused(load):
    both = {"patch_size": 64, "crop_size": 32}
    message = r"data\.patch_size is 64, but data\.crop_size is 32; .* keep data\.crop_size"
    with pytest.raises(ConfigError, match=message):
        load(minimal(data=both))
    with pytest.raises(ConfigError, match=message):
        load(minimal(), [f"data.{name}={value}" for name, value in both.items()])
    with pytest.raises(ConfigError, match=message):
        config_from_dict({**MINIMAL, "data": both})


@pytest.mark.parametrize("ratio", ["10", "0", "-0.1", "nan"])
def test_a_ratio_out_of_range_says_how_to_write_ten_percent(load, ratio):
    with pytest.raises(ConfigError, match=r"expected 0 < ratio <= 1 .*write 0\.1"):
        load(minimal(sampling={"ratio": float(ratio)}))


def test_the_whole_image_is_a_ratio(load):
    assert load(minimal(), ["sampling.ratio=1"]).sampling.ratio == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {name: lgm_net}", r"sampling\.ratio is missing"),
        ("model: {name: lgm_net}\nsampling:", r"sampling\.ratio is missing"),
        ("sampling: {ratio: 0.1}", r"model\.name is missing"),
        (minimal(sampling=0.1), r"sampling is 0\.1, expected keys and values"),
        (minimal(training=False), r"training is False, expected keys and values"),
        (minimal(sampling={"ratio": "ten"}, per_ratio=PER_RATIO), r"ratio is 'ten', expected"),
        (minimal(per_ratio={"ten": {}}), r"per_ratio.* 'ten'"),
        (minimal(per_ratio=[0.1]), r"per_ratio is \[0\.1\], expected keys and values"),
        ("- a", r"contains no keys and values"),
        ("a: [", r"is not valid YAML"),
    ],
    ids=[
        "no sampling",
        "empty sampling",
        "no model",
        "sampling is a number",
        "training is off",
        "ratio is a word",
        "per_ratio for a word",
        "per_ratio is a list",
        "a list",
        "no YAML",
    ],
)
def test_a_broken_file_is_explained(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize(
    "override", ["ratio=0.1", "sampling.ratio", "sampling=0.1", ".ratio=1", "sampling.=1", ""]
)
def test_an_override_without_section_key_and_value_says_how_to_write_it(load, override):
    with pytest.raises(ConfigError, match=r"write section\.key=value, such as sampling\.ratio=0"):
        load(minimal(), [override])


def test_an_override_that_is_no_yaml_is_quoted(load):
    with pytest.raises(ConfigError, match=r"cannot read the value of 'data\.train=\[a'"):
        load(minimal(), ["data.train=[a"])


def test_unequal_parts_of_a_batch_are_refused(load):
    with pytest.raises(ConfigError, match=r"batch_size 8 is not a multiple of .*accumulate 3"):
        load(minimal(), ["training.batch_size=8", "training.accumulate=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.phi_rate=0", r"phi_rate is 0\.0, expected > 0 \(sampling\.phi=fixed"),
        ("sampling.ratio=[0.5, 0.1]", r"expected the smaller ratio first"),
        ("sampling.ratio=[0.1]", r"ratio is \(0\.1,\), expected .* of a range \[0\.01, 0\.5\]"),
        ("sampling.ratio=[0.1, 2]", r"expected 0 < ratio <= 1"),
        ("sampling.ratio=", r"sampling\.ratio is '', expected float"),
    ],
)
def test_a_value_out_of_range_says_what_is_expected(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load(minimal(), [override])


@pytest.mark.parametrize("text", ["[0.01, 0.5]", "0.01,0.5", "[1e-2, 5e-1]"])
def test_a_range_of_ratios(load, text):
    config = load(minimal(per_ratio=PER_RATIO), [f"sampling.ratio={text}"])
    assert config.sampling.ratio == (0.01, 0.5)
    assert config.sampling.is_range
    assert config.training.rate == 9  # the default of per_ratio
    assert config.sampling.scored_ratios == (0.01, 0.04, 0.1, 0.25, 0.5)
    assert config.sampling.label == "r0.01-0.50"
    assert load(config.as_yaml()) == config


@pytest.mark.parametrize(
    ("ratio", "label", "scored"),
    [(0.1, "r0.10", (0.1,)), (0.125, "r0.125", (0.125,)), ([0.11, 0.2], "r0.11-0.20", (0.11, 0.2))],
)
def test_names_and_scored_ratios(load, ratio, label, scored):
    sampling = load(minimal(sampling={"ratio": ratio})).sampling
    assert (sampling.label, sampling.scored_ratios) == (label, scored)


def test_a_config_file_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"no config file nowhere/x\.yaml"):
        load_config(Path("nowhere/x.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {rate: 1}\ndata:\ntraining: {epochs: 2}", "line 3 gives 'training' a second"),
        ("training:\n  rate: 1\n  clip: 1\n  rate: 2", "line 4 gives 'rate' .* after line 2"),
        ("per_ratio:\n  0.1: {}\n  0.10: {}", "line 3 gives '0.1' a second"),
        ("training: {<<: {rate: 1}, <<: {rate: 2}}", "line 1 gives '<<' a second"),
    ],
)
def test_a_key_that_is_there_twice_is_named_with_its_line(load, text, message):
    with pytest.raises(ConfigError, match=rf"experiment\.yaml is not valid YAML: {message}"):
        load(text)


def test_a_key_twice_in_an_override_is_refused(load):
    with pytest.raises(ConfigError, match="cannot read .* gives 'a' a second time"):
        load(minimal(), ["model.D={a: 1, a: 2}"])


def test_a_merged_key_may_be_changed(load):
    text = minimal() + "data: &d {crop_size: 64}\ntraining: {<<: &t {rate: 1}, rate: 2}"
    assert load(text).training.rate == 2


def test_aliases_of_aliases_are_refused_at_once(load):
    """Ten to the power of nine values, in ten lines."""
    levels = ["a0: &a0 x"]
    for k in range(1, 10):
        levels.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]")
    with pytest.raises(ConfigError, match=r"line \d+ expands to more than 100,000 values"):
        load("\n".join([*levels, "model: {name: lgm_net, D: *a9}"]))
    with pytest.raises(ConfigError, match="line 1 contains itself"):
        load("a: &a [*a]")


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "a: 2001-13-45"], ids=["deep", "no date"])
def test_what_yaml_cannot_read_is_explained(load, text):
    with pytest.raises(ConfigError, match=r"experiment\.yaml is not valid YAML"):
        load(text)


# Round trips.


@pytest.fixture
def unusual():
    """A config with a value of every kind that is not its default."""
    return config_from_dict(
        {
            "model": {"name": "lgm_net", "options": 1, "widths": [4, 8], "skip": True},
            "sampling": {"ratio": 0.01, "phi_init": "a/Φ.mat", "noise_std": 1e-5},
            "data": {"train": ["x", "y"], "exclude": ["12003.jpg"]},
            "training": {"rate": "3e-17", "milestones": "10,20", "compile": True},
        }
    )


def test_a_config_survives_as_a_dict(unusual):
    assert config_from_dict(unusual.as_dict()) == unusual


def test_a_config_survives_as_yaml(load, unusual):
    assert load(unusual.as_yaml()) == unusual
