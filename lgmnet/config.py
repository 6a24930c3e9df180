"""The experiment as a tree of frozen dataclasses, read from YAML.

A YAML file may name one ``base:`` in the same folder. The base is read first and may have a base
too. ``per_ratio:`` contains settings that depend on ``sampling.ratio``. Files such as
configs/budget.yaml contain settings for any network (``--with``). The order is: base, file,
per_ratio, ``--with`` files, command line. A later value overrides an earlier one. Former names of
keys (``data.patch_size``) are replaced by the current names (``data.crop_size``).
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

# Precisions of a network. Φ is always in float32.
PRECISIONS = ("fp32", "tf32", "bf16")
# Default of ``sampling.operator``. Written configs leave it out.
USUAL_OPERATOR = "block_sampling"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network and the arguments of its constructor."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training and validation images."""

    train: tuple[str, ...] = ("builtin",)
    """Folders of images (searched in all subfolders), array files (.npy, .npz, .mat), one packed
    store (.luma, .packed), or builtin."""
    color: str = "luma"
    """The measured part of an image: ``luma``; ``color`` (its three channels together); or
    ``bands`` (all its channels together, unchanged)."""
    source: str = "files"
    """``files`` decodes each crop's image; ``device`` keeps all images on the training device."""
    decode: str = "cpu"
    """Device that decodes JPEG files with source ``files``: cpu, or gpu (needs torchvision)."""
    validation: str = ""
    """Validation images: a folder, or a .txt list of file names that are taken out of ``train``.
    Never a test set."""
    validation_images: int = 40
    """Largest number of validation images."""
    exclude: tuple[str, ...] = ()
    """File names to leave out of training, such as images that are also in a test set."""
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
    """Length, optimizer, precision and saving of a run."""

    start: str = ""
    """Weights to start from: name, folder or file."""
    start_phi: bool = True
    """Start from their Φ too, if it has the same shape. Otherwise sampling.phi_init gives Φ."""
    grow: bool = False
    """The start weights are of a smaller network: it grows to the one of ``model`` with the same
    output (Net2Net). For LGM-Net: D, dim, dimf and mid_factor may be larger."""
    epochs: int = 200
    """Length of the run, unless ``minutes`` is given."""
    steps_per_epoch: int = 2000
    """Steps per epoch, for any number of images."""
    minutes: float = 0.0
    """Time budget in minutes. If positive, the schedule ends with the time, and ``epochs`` is
    ignored."""
    batch_size: int = 64
    """Crops per step, over all processes."""
    accumulate: int = 1
    """Number of parts in which a batch is computed. More parts need less memory; the step is the
    same."""
    optimizer: str = "adam"
    """adam, adamw, muon (orthogonal steps for kernels, adamw for Φ, biases and scalars), or lbfgs:
    one iteration with a line search per step, always on the same first batch of crops."""
    rate: float = 1e-4
    """Largest learning rate."""
    phi_rate: float = 1.0
    """Learning rate of Φ divided by that of the network. A small value suits a Φ from PCA, which
    changes little."""
    weight_decay: float = 0.0
    schedule: str = "multistep"
    """multistep, cosine, onecycle or constant."""
    milestones: tuple[int, ...] = ()
    """Epochs after which multistep multiplies the rate by 0.1."""
    warmup: float = 0.0
    """Share of the run for the rise of the rate, in cosine (from zero) and onecycle."""
    clip: float = 0.0
    """Largest gradient norm; 0: no clipping."""
    loss: str = "mse"
    """mse, l1, charbonnier or nmse (‖x̂ − x‖ / ‖x‖), between reconstruction and image."""
    measurement_weight: float = 0.0
    """Weight of the mean of (Φx̂ − Φx)², without noise."""
    orthogonality_weight: float = 0.0
    """Weight of the mean of (ΦΦᵀ − I)² (FSOINet: 0.01)."""
    l1_weight: float = 0.0
    """Weight of the mean of |x̂ − x|, added to ``loss`` (FISTA-Net: 0.1)."""
    ratio_exponent: float = 0.0
    """For a range of ratios, the loss of a step is multiplied by (rows used / all rows) to this
    power. Squared errors are about proportional to that share to the power -0.8, so 0.8 gives all
    ratios equal weight; 0 changes nothing."""
    ema: float = 0.0
    """Decay of the weight average that is validated and saved; 0: no average."""
    precision: str = "fp32"
    """fp32; tf32 (convolutions on a GPU with TF32; equal to fp32 on other devices); bf16 (the
    network under autocast); or auto (bf16 if the device has bf16 arithmetic, else fp32). Φ and
    validation stay in fp32. The run writes the resolved value of auto to its config."""
    channels_last: bool = False
    recompute: bool = False
    """Recompute every stage in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the network for training crops. Validation is not compiled."""
    cuda_graphs: bool = False
    """With ``compile``, on a GPU: replay the network as CUDA graphs (mode reduce-overhead)."""
    seed: int = 2023
    log_every: int = 50
    """Steps between lines of the log."""
    validate_every: int = 2000
    """Steps between validations, which also save the state; 0: only at the end."""
    timeout: float = 30.0
    """Minutes that a process waits for another, also while the main process validates."""

    def __post_init__(self) -> None:
        require(
            bool(self.start) or not self.grow,
            "training.grow needs weights of a smaller network; set training.start, or grow=false",
        )
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
            "training.cuda_graphs would overwrite the gradients of earlier parts; if memory "
            "requires parts (training.accumulate above 1), set cuda_graphs=false",
        )
        require(
            self.compile or not self.cuda_graphs,
            "training.cuda_graphs needs a compiled network; set training.compile=true, or "
            "cuda_graphs=false",
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
                    f"training.{name} is {value}, but optimizer lbfgs does not support it; set "
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
    """Weights of the backbone (name, folder or file). If empty, the first phase trains a
    backbone."""
    backbone_sharing: str = "shared"
    """Denoiser of the first phase: ``shared`` by all stages, or ``block1`` (a single stage)."""
    share: float = 1 / 3
    """Share of the run that trains adapters, also with a given backbone."""
    rate: float = 0.0
    """Largest learning rate of the adapters; 0: training.rate."""

    def __post_init__(self) -> None:
        require_choice("lora.backbone_sharing", self.backbone_sharing, ("shared", "block1"))
        possible = 0 < self.share < 1 or (self.share == 1 and bool(self.backbone))
        expected = "expected 0 < share < 1; or 1 with a lora.backbone"
        require(possible, f"lora.share is {self.share}, {expected}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How reconstructions are scored."""

    datasets: tuple[str, ...] = ("builtin",)
    """Test sets (names or folders) to score at the end of the run. Missing sets are skipped."""
    protocol: str = "paper"
    """Named set of rules for PSNR and SSIM; see lgmnet.metrics.PROTOCOLS."""
    color: str = "luma"
    """``luma`` reconstructs Y; ``rgb`` reconstructs R, G and B separately; ``color`` reconstructs
    them together; ``bands`` reconstructs all channels together, unchanged."""
    padding: str = "zeros"
    """How an image is padded to whole blocks: ``zeros`` (as published) or ``replicate``. Or
    ``crop``, which removes the right and lower end of the image; that part is not scored."""

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
    lora: LoraConfig | None = None  # only for LoRun

    @property
    def block_sampling(self) -> BlockSamplingConfig:
        """``sampling``, for commands that support block sampling only.

        Raises:
            ConfigError: the config has another operator.
        """
        if not isinstance(self.sampling, BlockSamplingConfig):
            raise ConfigError("this command works on block sampling only; name such a network")
        return self.sampling

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, as in a YAML file."""
        tree = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        tree["model"] = {"name": self.model.name, **self.model.options}
        tree["sampling"] = _sampling_tree(self.sampling)
        return plain(tree)

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)


def _sampling_tree(sampling: SamplingConfig) -> dict[str, Any]:
    """The keys of ``sampling:``: those of the operator, of the detector, and the noise."""
    name = next(n for n in OPERATORS.names() if OPERATORS.get(n) is type(sampling))
    values = dataclasses.asdict(sampling)
    named = {} if name == USUAL_OPERATOR else {"operator": name}
    shared = [f.name for f in dataclasses.fields(SamplingConfig)]  # the noise is the first one
    own = {key: value for key, value in values.items() if key not in shared}
    return {**named, **own, **{key: values[key] for key in reversed(shared)}}


def load_config(path: Path, overrides: Sequence[str] = (), joined: Sequence[Path] = ()) -> Config:
    """Read a YAML file with its bases, and apply ``section.key=value`` overrides.

    Args:
        joined: YAML files with settings for any network. They override the values of ``path``.

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
    OPERATORS.find(name)
    require_choice("sampling.operator", name, OPERATORS.names())
    return typing.cast(type[SamplingConfig], OPERATORS.get(name))


def _without_late_crops(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """``tree`` without the removed keys for larger late crops, if they are switched off."""
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
