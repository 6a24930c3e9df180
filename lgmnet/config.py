"""The experiment as a tree of frozen dataclasses, read from YAML.

A YAML file may name one ``base:`` (a file beside it), which is read first and may name none.
``per_ratio:`` holds settings that depend on ``sampling.ratio``. Later wins: base, file,
per_ratio, command line.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from lgmnet.registry import nearest


class ConfigError(ValueError):
    """A setting is wrong; the message says which, what was expected, and what to do."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_choice(key: str, value: str, known: Sequence[str]) -> None:
    require(
        value in known,
        f"{key} is '{value}'{nearest(value, known)} (expected one of {', '.join(known)})",
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and the arguments of its constructor."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How an image is measured: ``y = Φx + n``."""

    ratio: float
    """Measurements per pixel, m / B². Every run states it; there is no default."""
    block_size: int = 32
    """Side B of a block, in pixels."""
    rounding: str = "ceil"
    """From ratio · B² to m: ceil, floor, round, or table33 (published 33 x 33 matrices)."""
    phi: str = "learned"
    """``learned`` with the network, or ``fixed``."""
    phi_init: str = "xavier"
    """xavier, gaussian, small_gaussian, orthonormal, pca (of training blocks), or the path of a
    file."""
    noise_std: float = 0.0
    """Standard deviation of n, in the unit of y (images are in [0, 1])."""

    def __post_init__(self) -> None:
        require(
            0 < self.ratio <= 1,
            f"sampling.ratio is {self.ratio}, expected 0 < ratio <= 1 "
            "(for 10 % of the pixels write 0.1)",
        )
        require(self.block_size >= 1, f"sampling.block_size is {self.block_size}, expected >= 1")
        require_choice("sampling.rounding", self.rounding, ("ceil", "floor", "round", "table33"))
        require_choice("sampling.phi", self.phi, ("learned", "fixed"))
        require(self.noise_std >= 0, f"sampling.noise_std is {self.noise_std}, expected >= 0")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on."""

    train: tuple[str, ...] = ("builtin",)
    """Folders of images (searched in all subfolders), one packed .luma file, or builtin."""
    source: str = "files"
    """``files`` decodes each crop's image; ``device`` keeps all images on the training device."""
    decode: str = "cpu"
    """Who decodes JPEG files of source ``files``: cpu, or gpu (needs torchvision)."""
    validation: str = ""
    """A folder, or a .txt list of file names held out of ``train``. Never a test set."""
    validation_images: int = 40
    """At most so many images are used for validation."""
    exclude: tuple[str, ...] = ()
    """File names left out of training, such as those that are in a test set too."""
    patch_size: int = 128
    """Side of the square training crops, in pixels."""
    augment: str = "sample"
    """Flips and quarter turns drawn per ``sample``, per ``batch`` (as published), or ``none``."""
    workers: int = 4
    """Loader processes of each training process (source ``files``)."""

    def __post_init__(self) -> None:
        require(bool(self.train), "data.train is empty; name a folder of images or 'builtin'")
        require_choice("data.source", self.source, ("files", "device"))
        require_choice("data.decode", self.decode, ("cpu", "gpu"))
        require(
            not (self.decode == "gpu" and self.source == "device"),
            "data.decode is 'gpu', but data.source 'device' decodes every image once, before the "
            "run; choose source=files or decode=cpu",
        )
        require_choice("data.augment", self.augment, ("sample", "batch", "none"))
        require(self.patch_size >= 1, f"data.patch_size is {self.patch_size}, expected >= 1")
        require(
            self.validation_images >= 1,
            f"data.validation_images is {self.validation_images}, expected at least 1; for no "
            "validation leave data.validation empty",
        )
        require(self.workers >= 0, f"data.workers is {self.workers}, expected >= 0")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop: how long, how fast, in which precision, and what is saved."""

    epochs: int = 200
    """Length of the run, unless ``minutes`` is given."""
    steps_per_epoch: int = 2000
    """One epoch is so many steps, whatever the number of images."""
    minutes: float = 0.0
    """Time budget: when positive, the schedule ends with it and ``epochs`` is ignored."""
    batch_size: int = 64
    """Crops per step, over all processes."""
    accumulate: int = 1
    """A batch is computed in so many parts; the step is the same, the memory less."""
    optimizer: str = "adam"
    """adam or adamw."""
    rate: float = 1e-4
    """Largest learning rate."""
    weight_decay: float = 0.0
    schedule: str = "multistep"
    """multistep, cosine, onecycle or constant."""
    milestones: tuple[int, ...] = ()
    """Epochs after which multistep multiplies the rate by 0.1."""
    warmup: float = 0.0
    """Share of the run in which cosine rises from zero, or onecycle reaches its peak."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    loss: str = "mse"
    """mse, l1 or charbonnier, between reconstruction and image."""
    measurement_weight: float = 0.0
    """Weight of the mean of (Φx̂ − Φx)², without noise."""
    orthogonality_weight: float = 0.0
    """Weight of the mean of (ΦΦᵀ − I)² (FSOINet: 0.01)."""
    l1_weight: float = 0.0
    """Weight of the mean of |x̂ − x| beside ``loss`` (FISTA-Net: 0.1)."""
    ema: float = 0.0
    """Decay of the weight average that is validated and saved; 0 keeps none."""
    precision: str = "fp32"
    """fp32, or bf16 for the network under autocast (Φ stays fp32)."""
    channels_last: bool = False
    recompute: bool = False
    """Recompute every iteration in the backward pass: less memory, more time."""
    compile: bool = False
    cuda_graphs: bool = False
    """With ``compile``: replay the network as CUDA graphs (mode reduce-overhead)."""
    seed: int = 2023
    log_every: int = 50
    """Steps between lines of the log."""
    validate_every: int = 2000
    """Steps between validations, which also save the state; 0 for only at the end."""

    def __post_init__(self) -> None:
        require_choice("training.optimizer", self.optimizer, ("adam", "adamw"))
        schedules = ("multistep", "cosine", "onecycle", "constant")
        require_choice("training.schedule", self.schedule, schedules)
        require_choice("training.loss", self.loss, ("mse", "l1", "charbonnier"))
        require_choice("training.precision", self.precision, ("fp32", "bf16"))
        for name in ("epochs", "steps_per_epoch", "batch_size", "accumulate", "log_every"):
            value = getattr(self, name)
            require(value >= 1, f"training.{name} is {value}, expected at least 1")
        require(
            self.batch_size % self.accumulate == 0,
            f"training.batch_size {self.batch_size} is not a multiple of training.accumulate "
            f"{self.accumulate}; the parts of a batch must be equal",
        )
        require(
            not (self.cuda_graphs and self.accumulate > 1),
            "training.cuda_graphs overwrite the gradients of the parts before; where memory asks "
            "for parts (training.accumulate above 1), set cuda_graphs=false",
        )
        require(0 < self.rate < math.inf, f"training.rate is {self.rate}, expected > 0")
        names = ("minutes", "weight_decay", "clip", "validate_every", "seed")
        for name in (*names, "measurement_weight", "orthogonality_weight"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"training.{name} is {value}, expected at least 0")
        require(self.seed < 2**22, f"training.seed is {self.seed}, expected less than {2**22}")
        require(
            not (self.minutes and self.milestones and self.schedule == "multistep"),
            "training.milestones are epochs, which a time budget (training.minutes) does not "
            "have; choose schedule cosine or onecycle, or minutes=0",
        )
        require(
            all(milestone > 0 for milestone in self.milestones),
            f"training.milestones is {list(self.milestones)}, expected epochs above 0",
        )
        for name in ("warmup", "ema"):
            value = getattr(self, name)
            require(0 <= value < 1, f"training.{name} is {value}, expected 0 <= {name} < 1")

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How reconstructions are judged."""

    datasets: tuple[str, ...] = ("builtin",)
    """Test sets, by name or folder, that are scored at the end of the run if they are there."""
    protocol: str = "paper"
    """Named set of rules for PSNR and SSIM; see lgmnet.metrics.PROTOCOLS."""
    color: str = "luma"
    """``luma`` scores Y; ``rgb`` rebuilds and scores each channel."""
    padding: str = "zeros"
    """How an image is completed to whole blocks: zeros (as published) or replicate."""

    def __post_init__(self) -> None:
        require_choice("evaluation.color", self.color, ("luma", "rgb"))
        require_choice("evaluation.padding", self.padding, ("zeros", "replicate"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig
    sampling: SamplingConfig
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as a YAML file would hold them."""
        tree: dict[str, Any] = dataclasses.asdict(self)
        tree["model"] = {"name": self.model.name, **self.model.options}
        return _plain(tree)

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with its base, and apply ``section.key=value`` overrides.

    Raises:
        ConfigError: a file, key or value is wrong.
    """
    tree = _read_yaml(path)
    base_name = tree.pop("base", None)
    if base_name is not None:
        base = _read_yaml(path.parent / str(base_name))
        require(
            "base" not in base,
            f"{path} is based on {base_name}, which names a base itself; one base at most",
        )
        tree = _merge(base, tree)
    per_ratio = _section(tree, "per_ratio")
    tree.pop("per_ratio", None)
    changes = _override_tree(overrides)
    chosen = _for_ratio(per_ratio, _section(_merge(tree, changes), "sampling").get("ratio"))
    return config_from_dict(_merge(_merge(tree, chosen), changes))


def config_from_dict(tree: Mapping[str, Any]) -> Config:
    """Build and check a config from nested dictionaries; unknown keys are errors."""
    sections = {f.name: f for f in dataclasses.fields(Config)}
    _reject_unknown(tree, sections, "")
    model = _section(tree, "model")
    require("name" in model, "model.name is missing; name a network, such as lgm_net")
    types = typing.get_type_hints(Config)
    values: dict[str, Any] = {
        "model": ModelConfig(
            name=str(model["name"]), options={k: v for k, v in model.items() if k != "name"}
        )
    }
    for name in sections:
        if name != "model":
            values[name] = _build(types[name], _section(tree, name), name)
    return Config(**values)


def convert(value: Any, annotation: Any, key: str) -> Any:
    """``value`` as the type that ``annotation`` names: YAML reads 1e-4 as a string."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return None if value is None else convert(value, inner[0], key)
    if origin is tuple:
        items = [v.strip() for v in value.split(",")] if isinstance(value, str) else value
        require(isinstance(items, list | tuple), f"{key} is {value!r}, expected a list")
        return tuple(convert(item, typing.get_args(annotation)[0], key) for item in items)
    return _convert_scalar(value, annotation, key)


def _convert_scalar(value: Any, annotation: Any, key: str) -> Any:
    message = f"{key} is {value!r}, expected {getattr(annotation, '__name__', annotation)}"
    if annotation is bool:
        text = str(value).lower()
        require(text in ("true", "false"), message + " (true or false)")
        return text == "true"
    # YAML reads off, no and yes as booleans: never what a number or a name was meant to be.
    require(not isinstance(value, bool) and isinstance(value, str | int | float), message)
    if annotation is str:
        return str(value)
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(message) from None
    if annotation is int:
        require(number.is_integer(), message)
        return int(number)
    return number


def _build(section: type, values: Mapping[str, Any], prefix: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(section)}
    _reject_unknown(values, fields, prefix + ".")
    types = typing.get_type_hints(section)
    for name, f in fields.items():
        required = f.default is f.default_factory is dataclasses.MISSING
        require(name in values or not required, f"{prefix}.{name} is missing; every run states it")
    return section(**{k: convert(v, types[k], f"{prefix}.{k}") for k, v in values.items()})


def _section(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = {} if tree.get(name) is None else tree[name]
    require(isinstance(section, dict), f"{name} is {section!r}, expected keys and values")
    return section


def _reject_unknown(tree: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
    for key in tree:
        require(
            key in known,
            f"unknown config key '{prefix}{key}'{nearest(str(key), known)} "
            f"(known here: {', '.join(known)})",
        )


def _read_yaml(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"there is no config file {path}; see configs/")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from None
    require(isinstance(tree, dict), f"{path} holds no keys and values")
    return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override_tree(overrides: Sequence[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, name = key.partition(".")
        require(
            bool(equals and dot and section and name),
            f"'{text}' is no override; write section.key=value, such as sampling.ratio=0.25",
        )
        try:
            tree.setdefault(section, {})[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"cannot read the value of '{text}': {error}") from None
    return tree


def _for_ratio(per_ratio: Mapping[Any, Any], ratio: Any) -> dict[str, Any]:
    """The entry of ``per_ratio:`` for this ratio, or its ``default``."""
    name = "default"
    for key in per_ratio:
        if key != "default" and ratio is not None:
            written = convert(key, float, "a key of per_ratio")
            if written == convert(ratio, float, "sampling.ratio"):
                name = key
    return _section(per_ratio, name)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
