"""The experiment as a tree of frozen dataclasses, read from YAML.

A YAML file may name one ``base:`` (a file beside it), which is read first and may name another.
``per_ratio:`` holds settings that depend on ``sampling.ratio``. Files such as configs/budget.yaml
hold settings for any network. Later wins: base, file, per_ratio, such files, command line.
Former names of keys (``data.patch_size``) are read as the present ones (``data.crop_size``).
"""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lgmnet.conversion import ConfigError as ConfigError
from lgmnet.conversion import (
    build,
    convert,
    merge,
    override_tree,
    plain,
    read_with_bases,
    read_yaml,
    reject_unknown,
    require,
    require_choice,
    section_of,
    with_current_names,
)
from lgmnet.operators import OPERATORS, BlockSamplingConfig, SamplingConfig

# What a network can compute in; Φ is always in float32.
PRECISIONS = ("fp32", "tf32", "bf16")
# What ``sampling.operator`` is where nothing is said, and where nothing is written.
USUAL_OPERATOR = "block_sampling"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and the arguments of its constructor."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on."""

    train: tuple[str, ...] = ("builtin",)
    """Folders of images (searched in all subfolders), array files (.npy, .npz, .mat), one packed
    store (.luma, .packed), or builtin."""
    color: str = "luma"
    """What is measured of an image: ``luma``; ``color``, its three channels together; or ``bands``,
    all its channels as they are."""
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
    crop_size: int = 128
    """Side of the square training crops, in pixels."""
    augment: str = "sample"
    """Flips and quarter turns drawn per ``sample``, per ``batch`` (as published), or ``none``."""
    workers: int = 4
    """Loader processes of each training process (source ``files``)."""

    def __post_init__(self) -> None:
        require(bool(self.train), "data.train is empty; name a folder of images or 'builtin'")
        require_choice("data.color", self.color, ("luma", "color", "bands"))
        require_choice("data.source", self.source, ("files", "device"))
        require_choice("data.decode", self.decode, ("cpu", "gpu"))
        require(
            not (self.decode == "gpu" and self.source == "device"),
            "data.decode is 'gpu', but data.source 'device' decodes every image once, before the "
            "run; choose source=files or decode=cpu",
        )
        require_choice("data.augment", self.augment, ("sample", "batch", "none"))
        require(self.crop_size >= 1, f"data.crop_size is {self.crop_size}, expected >= 1")
        require(
            self.validation_images >= 1,
            f"data.validation_images is {self.validation_images}, expected at least 1; for no "
            "validation leave data.validation empty",
        )
        require(self.workers >= 0, f"data.workers is {self.workers}, expected >= 0")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop: how long, how fast, in which precision, and what is saved."""

    start: str = ""
    """Weights to begin from: name, folder or file."""
    start_phi: bool = True
    """Begin from their Φ too, where it has the same shape; else Φ is as sampling.phi_init says."""
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
    """adam, adamw, muon (orthogonal steps for kernels, adamw for Φ, biases and scalars), or lbfgs:
    one iteration with a line search per step, always on the same first batch of crops."""
    rate: float = 1e-4
    """Largest learning rate."""
    phi_rate: float = 1.0
    """Learning rate of Φ relative to the network's: Φ from PCA is nearer to its end than that."""
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
    """mse, l1, charbonnier or nmse (‖x̂ − x‖ / ‖x‖), between reconstruction and image."""
    measurement_weight: float = 0.0
    """Weight of the mean of (Φx̂ − Φx)², without noise."""
    orthogonality_weight: float = 0.0
    """Weight of the mean of (ΦΦᵀ − I)² (FSOINet: 0.01)."""
    l1_weight: float = 0.0
    """Weight of the mean of |x̂ − x| beside ``loss`` (FISTA-Net: 0.1)."""
    ratio_exponent: float = 0.0
    """In a range of ratios, the loss of a step counts (rows used / all rows) to this power. Squared
    errors fall about as that to -0.8, so 0.8 lets all ratios count alike; 0 changes nothing."""
    ema: float = 0.0
    """Decay of the weight average that is validated and saved; 0 keeps none."""
    precision: str = "fp32"
    """fp32; tf32 for the convolutions of a GPU that has it, elsewhere the same as fp32; bf16 for
    the network under autocast; or auto: bf16 where the device has bf16 arithmetic, else fp32. Φ
    stays fp32, and so does validation. A run writes into its config what auto was."""
    channels_last: bool = False
    recompute: bool = False
    """Recompute every iteration in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the network for the crops of training. Validation runs without."""
    cuda_graphs: bool = False
    """With ``compile``, on a GPU: replay the network as CUDA graphs (mode reduce-overhead)."""
    seed: int = 2023
    log_every: int = 50
    """Steps between lines of the log."""
    validate_every: int = 2000
    """Steps between validations, which also save the state; 0 for only at the end."""
    timeout: float = 30.0
    """Minutes that a process waits for another, also while the main one validates."""

    def __post_init__(self) -> None:
        require_choice("training.optimizer", self.optimizer, ("adam", "adamw", "muon", "lbfgs"))
        schedules = ("multistep", "cosine", "onecycle", "constant")
        require_choice("training.schedule", self.schedule, schedules)
        require_choice("training.loss", self.loss, ("mse", "l1", "charbonnier", "nmse"))
        require_choice("training.precision", self.precision, (*PRECISIONS, "auto"))
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
        require(
            self.compile or not self.cuda_graphs,
            "training.cuda_graphs replays what training.compile makes; set training.compile=true, "
            "or cuda_graphs=false",
        )
        for name in ("rate", "timeout"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"training.{name} is {value}, expected > 0")
        require(
            0 < self.phi_rate < math.inf,
            f"training.phi_rate is {self.phi_rate}, expected > 0 (sampling.phi=fixed trains no Φ)",
        )
        if self.optimizer == "lbfgs":
            for name, needed in (("phi_rate", 1), ("weight_decay", 0), ("clip", 0)):
                value = getattr(self, name)
                require(
                    value == needed,
                    f"training.{name} is {value}, but optimizer lbfgs knows of none; set "
                    f"training.{name}={needed}",
                )
        names = ("minutes", "weight_decay", "clip", "validate_every", "seed", "ratio_exponent")
        weights = ("measurement_weight", "orthogonality_weight", "l1_weight")
        for name in (*names, *weights):
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
class LoraConfig:
    """Training of LoRun in two phases: a backbone, then the adapters of the frozen backbone."""

    backbone: str = ""
    """Weights whose denoiser is adapted (name, folder or file); none: the first phase trains it."""
    backbone_sharing: str = "shared"
    """In the first phase: ``shared`` by all stages, or ``block1``, a single stage."""
    share: float = 1 / 3
    """Share of the length of the run that trains adapters, also where a backbone is given."""
    rate: float = 0.0
    """Largest learning rate of the adapters; 0 takes training.rate."""

    def __post_init__(self) -> None:
        require_choice("lora.backbone_sharing", self.backbone_sharing, ("shared", "block1"))
        possible = 0 < self.share < 1 or (self.share == 1 and bool(self.backbone))
        expected = "expected 0 < share < 1; or 1 with a lora.backbone"
        require(possible, f"lora.share is {self.share}, {expected}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How reconstructions are judged."""

    datasets: tuple[str, ...] = ("builtin",)
    """Test sets, by name or folder, that are scored at the end of the run if they are there."""
    protocol: str = "paper"
    """Named set of rules for PSNR and SSIM; see lgmnet.metrics.PROTOCOLS."""
    color: str = "luma"
    """``luma`` scores Y; ``rgb`` rebuilds R, G and B one by one; ``color`` the three together;
    ``bands`` all channels as they are."""
    padding: str = "zeros"
    """How an image is brought to whole blocks: completed by zeros (as published) or replicate, or
    ``crop``, which leaves off its right and lower end. What was left off is not scored."""

    def __post_init__(self) -> None:
        require_choice("evaluation.color", self.color, ("luma", "rgb", "color", "bands"))
        require_choice("evaluation.padding", self.padding, ("zeros", "replicate", "crop"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run."""

    model: ModelConfig
    sampling: SamplingConfig
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    lora: LoraConfig | None = None  # LoRun's; other networks have none

    @property
    def block_sampling(self) -> BlockSamplingConfig:
        """``sampling``, for commands that work on block sampling only.

        Raises:
            ConfigError: the operator is another one.
        """
        if not isinstance(self.sampling, BlockSamplingConfig):
            raise ConfigError("this command works on block sampling only; name such a network")
        return self.sampling

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as a YAML file would hold them."""
        tree = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        tree["model"] = {"name": self.model.name, **self.model.options}
        tree["sampling"] = _sampling_tree(self.sampling)
        return plain(tree)

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)


def _sampling_tree(sampling: SamplingConfig) -> dict[str, Any]:
    """The keys of ``sampling:``, with the noise as the last one."""
    name = next(n for n in OPERATORS.names() if OPERATORS.get(n) is type(sampling))
    values = dataclasses.asdict(sampling)
    noise_std = values.pop("noise_std")
    named = {} if name == USUAL_OPERATOR else {"operator": name}
    return {**named, **values, "noise_std": noise_std}


def load_config(path: Path, overrides: Sequence[str] = (), joined: Sequence[Path] = ()) -> Config:
    """Read a YAML file with its bases, and apply ``section.key=value`` overrides.

    Args:
        joined: YAML files with settings for any network, which win over those of its own file.

    Raises:
        ConfigError: a file, key or value is wrong.
    """
    tree = read_with_bases(path)
    per_ratio = section_of(tree, "per_ratio")
    tree.pop("per_ratio", None)
    changes: dict[str, Any] = {}
    for above in [*map(read_yaml, joined), override_tree(overrides)]:
        changes = merge(changes, above)
    chosen = _for_ratio(per_ratio, section_of(merge(tree, changes), "sampling").get("ratio"))
    return config_from_dict(merge(merge(tree, chosen), changes))


def config_from_dict(tree: Mapping[str, Any]) -> Config:
    """Build and check a config from nested dictionaries; unknown keys are errors."""
    sections = {f.name: f for f in dataclasses.fields(Config)}
    tree = _without_late_crops(with_current_names(tree))
    reject_unknown(tree, sections, "")
    model = section_of(tree, "model")
    require("name" in model, "model.name is missing; name a network, such as lgm_net")
    types = {**typing.get_type_hints(Config), "lora": LoraConfig, "sampling": _operator(tree)}
    options = {k: v for k, v in model.items() if k != "name"}
    values: dict[str, Any] = {"model": ModelConfig(name=str(model["name"]), options=options)}
    for name in sections:
        if name != "model" and (name in tree or name != "lora"):
            section = section_of(tree, name)
            if name == "sampling":
                section = {k: v for k, v in section.items() if k != "operator"}
            values[name] = build(types[name], section, name)
    return Config(**values)


def _operator(tree: Mapping[str, Any]) -> type[SamplingConfig]:
    """The settings of the operator that ``sampling.operator`` names."""
    name = str(section_of(tree, "sampling").get("operator", USUAL_OPERATOR))
    require_choice("sampling.operator", name, OPERATORS.names())
    return typing.cast(type[SamplingConfig], OPERATORS.get(name))


def _without_late_crops(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """``tree`` without the larger late crops that resolved files of older runs say they had not."""
    data = section_of(tree, "data")
    late = {"late_patch_size", "late_share"}
    if not late <= data.keys() or data["late_patch_size"] != 0:
        return tree
    return {**tree, "data": {k: v for k, v in data.items() if k not in late}}


def _for_ratio(per_ratio: Mapping[Any, Any], ratio: Any) -> dict[str, Any]:
    """The entry of ``per_ratio:`` for this ratio, or its ``default``."""
    name = "default"
    annotation = typing.get_type_hints(BlockSamplingConfig)["ratio"]
    for key in per_ratio:
        if key != "default" and ratio is not None:
            written = convert(key, float, "a key of per_ratio")
            if written == convert(ratio, annotation, "sampling.ratio"):
                name = key
    return section_of(per_ratio, name)
