"""Measure networks in turn and compare their cost: the content of benchmark.json."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lgmnet import complexity, runtime
from lgmnet.build import Source, build_model
from lgmnet.config import Config, TrainingConfig
from lgmnet.data.crops import DeviceCrops, Plan, TrainingCrops, loaded_batches
from lgmnet.data.values import to_unit
from lgmnet.models import SensingModel
from lgmnet.operators import BlockSampling, LinearOperator
from lgmnet.project import provenance
from lgmnet.runtime import Runtime
from lgmnet.speed.precision import autocast, resolve_precision
from lgmnet.training.batches import crop_rule, open_batches
from lgmnet.training.images import open_data
from lgmnet.training.learner import Learner

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The conditions of the measurement."""

    size: int = 256
    """Side of the images; it is rounded up to whole blocks for each network."""
    batch: int = 1
    """Images at a time."""
    rounds: int = 9
    warmup: int = 1
    """Warm-up rounds, which do not count."""
    train: int = 0
    """Crops in a training step; 0: no training steps."""
    data: tuple[str, ...] = ("builtin",)
    """Images for the training steps."""
    data_rate: bool = False


@dataclasses.dataclass
class Subject:
    """A network to measure: image to image. Networks of other projects have no config."""

    name: str
    model: nn.Module
    config: Config | None = None

    @property
    def settings(self) -> TrainingConfig:
        return self.config.training if self.config else TrainingConfig()

    def side(self, size: int) -> int:
        """``size`` rounded up to whole blocks of this network."""
        multiple = self.model.multiple if isinstance(self.model, SensingModel) else 1
        return multiple * math.ceil(size / multiple)


def benchmark(subjects: list[Subject], rule: Conditions, here: Runtime) -> dict[str, Any]:
    """The content of benchmark.json."""
    read = complexity.clock(here.device)
    rows: dict[str, dict[str, Any]] = {s.name: cost(s, s.side(rule.size)) for s in subjects}
    for s in subjects:
        s.model.to(here.device).eval()
    runs = {s.name: inference(s, rule.size, rule.batch, here) for s in subjects}
    timed = complexity.interleave(runs, rule.rounds, read, rule.warmup)
    for name, seconds in timed.items():
        rows[name] |= latency(seconds, timed[subjects[0].name])
        rows[name]["images_per_second"] = rule.batch / rows[name]["seconds_p50"]
        rows[name]["peak_memory_mib"] = complexity.memory(runs[name], here.device).peak / MIB
    if rule.train:
        trained = [s for s in subjects if s.config and complexity.parameters(s.model)]
        for name, row in train_steps(trained, rule, here).items():
            rows[name]["training"] = row
    results = {
        "machine": machine(here),
        "size": rule.size,
        "batch": rule.batch,
        "rounds": rule.rounds,
        "warmup": rule.warmup,
        "networks": rows,
    }
    if rule.data_rate:
        results["crops_per_second"] = data_rates(subjects, rule, here)
    return results


def machine(here: Runtime) -> dict[str, Any]:
    cuda = here.device.type == "cuda"
    threads = torch.get_num_threads()
    return {
        **provenance(),
        "device": torch.cuda.get_device_name(here.device) if cuda else runtime.processor(),
        "threads": threads,
        "clock": "process" if threads == 1 and not cuda else "wall, synchronised",
    }


def cost(subject: Subject, side: int) -> dict[str, Any]:
    total = complexity.parameters(subject.model)
    try:
        found = complexity.cost(subject.model, side, side)
    except RuntimeError as error:
        raise ValueError(
            f"{subject.name} does not take an image of shape (1, 1, {side}, {side}): {error}"
        ) from None
    network = subject.model.network if isinstance(subject.model, SensingModel) else None
    return {
        "size": side,
        "parameters": total,
        "parameters_without_phi": complexity.parameters(network) if network else None,
        "flops": found.flops,
        "macs": found.macs,
    }


def inference(subject: Subject, size: int, batch: int, here: Runtime) -> Callable[[], Any]:
    side = subject.side(size)
    image = torch.rand(batch, 1, side, side, device=here.device)

    @torch.inference_mode()
    def run() -> object:
        return subject.model(image)

    return run


def latency(seconds: list[float], reference: list[float]) -> dict[str, Any]:
    return {
        "seconds_p50": complexity.percentile(seconds, 50),
        "seconds_p95": complexity.percentile(seconds, 95),
        "ratio": complexity.speedup(reference, seconds)._asdict(),
    }


class TrainingStep:
    """Whole training steps of one network, and the seconds of their parts."""

    def __init__(self, subject: Subject, images: Sequence[str], batch: int, here: Runtime) -> None:
        assert subject.config is not None
        operator = subject.model.operator
        assert isinstance(operator, LinearOperator)
        config = with_images(subject.config, images)
        training = dataclasses.replace(
            config.training,
            batch_size=batch,
            accumulate=1,
            precision=resolve_precision(config.training.precision, here.device),
        )
        self.config = dataclasses.replace(config, training=training)
        model = build_model(self.config, Source(operator.state_dict()))
        if isinstance(operator, BlockSampling):
            model.operator.gathers = operator.gathers  # type: ignore[assignment]
        self.learner = Learner(model, self.config, here)
        data = open_data(self.config)
        self.batches = open_batches(self.config, data.train, here, 0)[1]
        self.here, self.read = here, complexity.clock(here.device)
        self.parts = dict.fromkeys(("data", "forward", "backward", "optimizer"), 0.0)
        self.began = 0.0
        self.learner.computing.register_forward_pre_hook(self._begin_forward)
        self.learner.computing.register_forward_hook(self._end_forward)

    def __call__(self) -> None:
        start = self.read()
        batch = next(self.batches)
        loaded = self.read()
        forward = self.parts["forward"]
        self.learner.derive(batch, 0)
        derived = self.read()
        self.learner.move(0, self.config.training.rate)
        self.parts["data"] += loaded - start
        self.parts["backward"] += derived - loaded - (self.parts["forward"] - forward)
        self.parts["optimizer"] += self.read() - derived

    def forward(self) -> object:
        """One forward pass, whose result holds what the backward pass needs."""
        target = to_unit(next(self.batches))
        with autocast(self.here.device, self.config.training.precision):
            return self.learner.computing(target)

    def _begin_forward(self, *_: object) -> None:
        self.began = self.read()

    def _end_forward(self, *_: object) -> None:
        self.parts["forward"] += self.read() - self.began


def with_images(config: Config, images: Sequence[str]) -> Config:
    data = dataclasses.replace(
        config.data, train=tuple(images), validation="", exclude=(), workers=0
    )
    return dataclasses.replace(config, data=data)


def train_steps(
    subjects: list[Subject], rule: Conditions, here: Runtime
) -> dict[str, dict[str, Any]]:
    """Time of a step, the shares of its parts, and the memory of its tensors."""
    steps = {s.name: TrainingStep(s, rule.data, rule.train, here) for s in subjects}
    read = complexity.clock(here.device)
    timed = complexity.interleave(steps, rule.rounds, read, rule.warmup)
    rows = {}
    for name, step in steps.items():
        total = sum(step.parts.values())
        rows[name] = latency(timed[name], timed[subjects[0].name])
        rows[name] |= {
            "crops_per_second": rule.train / rows[name]["seconds_p50"],
            "share": {part: seconds / total for part, seconds in step.parts.items()},
            "batch": rule.train,
            "crop_size": step.config.data.crop_size,
            "kept_mib": complexity.memory(step.forward, here.device).kept / MIB,
            "peak_memory_mib": complexity.memory(step, here.device).peak / MIB,
        }
    return rows


def data_rates(subjects: list[Subject], rule: Conditions, here: Runtime) -> dict[str, float]:
    """Crops per second of one process: from files (or a packed store), and from the device."""
    config = next((s.config for s in subjects if s.config), None)
    if config is None:
        raise ValueError("the data rate needs a config; name a network of this project too")
    config = with_images(config, rule.data)
    images, crops, batch = open_data(config).train, crop_rule(config), 64
    plan = Plan(0, batch)
    sources = {
        "read": loaded_batches(TrainingCrops(images, crops), plan, 0, here.device),
        "device": DeviceCrops(images, here.device).batches(crops, plan),
    }
    runs = {name: (lambda source=source: next(source)) for name, source in sources.items()}
    timed = complexity.interleave(runs, rule.rounds, complexity.clock(here.device))
    return {name: batch / complexity.percentile(s, 50) for name, s in timed.items()}
