"""What is run on the CUDA device that is not there, and what is looked at."""

import collections
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.cuda.amp.common
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lgmnet.build import Source, build_model
from lgmnet.config import Config, load_config
from lgmnet.data.crops import DeviceCrops, Plan
from lgmnet.evaluation.rebuild import Rules, reconstruct_plane
from lgmnet.operators.matrices import orthonormal
from lgmnet.project import PROJECT
from lgmnet.runtime import Consensus, Runtime
from lgmnet.speed.inference import optimize_for_inference
from lgmnet.speed.strips import Strips, rebuild
from lgmnet.training.batches import crop_rule
from lgmnet.training.learner import Learner
from lgmnet.weights.measurement import measure_image, reconstruct_image
from tests.test_models import small_model

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
READS = (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default)
# Allocations and views, which start no kernel.
IDLE = (
    aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default,
    aten.new_empty.default, aten.new_empty_strided.default, aten._unsafe_view.default,
)  # fmt: skip
WAITS = (aten.nonzero.default, aten.masked_select.default, aten.equal.default)


class Watch(TorchDispatchMode):
    """Counts operations, those that make the CPU wait for the GPU, and turned convolutions.

    Raises:
        RuntimeError: an operation has tensors of both devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        self.launches = self.convolutions = self.turned = 0
        self.waits: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        devices = {t.device.type for t in tensors if t.dim()}
        if func in READS:  # a fake tensor has no value; any will do
            if args[0].device.type == "cuda":
                self.note("reads a value")
            return 1.0 if args[0].is_floating_point() else 0
        if func in COPIES:
            source, target = (args[0], kwargs.get("device")) if func is COPIES[0] else args[1::-1]
            kind = getattr(target, "device", target)
            blocking = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            if kind is not None and kind.type != source.device.type and blocking:
                self.note(f"copies {source.device.type} to {kind.type}")
        elif func in WAITS and "cuda" in devices:
            self.note(str(func))
        elif len(devices) > 1:  # fake convolutions do not complain themselves
            raise RuntimeError(f"{func} on {' and '.join(sorted(devices))}")
        if func is aten.convolution.default:
            features, weight = args[:2]
            self.convolutions += 1
            self.turned += features.is_contiguous() and not _formats(features) & _formats(weight)
        self.launches += not (func.is_view or func in IDLE or func.namespace != "aten")
        return func(*args, **kwargs)

    def note(self, what: str) -> None:
        own = [f for f in traceback.extract_stack() if f"{PROJECT}/lgmnet/" in f.filename]
        place = own[-1].filename.removeprefix(f"{PROJECT}/lgmnet/") if own else "?"
        self.waits[f"{place} {own[-1].name if own else '?'} {what}"] += 1


def _formats(images: Tensor) -> set[torch.memory_format]:
    """The memory formats that images or kernels are in: both, where there is but one channel."""
    known = (torch.contiguous_format, torch.channels_last)
    return {each for each in known if images.is_contiguous(memory_format=each)}


@contextmanager
def fake_cuda() -> Iterator[Watch]:
    """Tensors have no values within, and may be on CUDA."""
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # type: ignore[assignment]
    torch.cuda.is_bf16_supported = lambda *_, **__: True  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *_: None  # type: ignore[assignment]
    nn.Module._apply = _apply  # type: ignore[method-assign, assignment]
    FakeTensor.numpy = _numpy  # type: ignore[assignment]
    Tensor.pin_memory = lambda self: self  # type: ignore[method-assign, assignment]
    for name in ("torch.optim.optimizer", "torch.utils._foreach_utils"):
        sys.modules[name]._foreach_supported_types.append(FakeTensor)
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        yield watch


def _apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which cannot exchange the data of fake parameters."""
    for module in self.children() if recurse else ():
        module._apply(change)
    for key, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                changed = nn.Parameter(change(parameter), parameter.requires_grad)
            self._parameters[key] = changed
    for key, buffer in self._buffers.items():
        self._buffers[key] = buffer if buffer is None else change(buffer)
    return self


def _numpy(self: Tensor) -> np.ndarray:
    if self.device.type != "cpu":
        raise TypeError(f"can't convert {self.device} tensor to numpy")
    return np.zeros(tuple(self.shape), np.dtype(str(self.dtype).removeprefix("torch.")))


class Images:
    """Two grey training images."""

    names, sizes = ("a", "b"), [(160, 200)] * 2
    channels, dtype = 1, np.dtype(np.uint8)

    def read(self, index: int) -> np.ndarray:
        return np.zeros(self.sizes[index], np.uint8)


def step(config: Config) -> Watch:
    """The second of two steps, as `engine.training.train` takes them."""
    settings, here = config.training, Runtime(CUDA)
    phi = orthonormal(config.sampling.measurements(), config.sampling.block_size**2)
    model = build_model(config, Source({"matrix": phi}))
    with fake_cuda() as watch:
        learner = Learner(model, config, here)
        crops = DeviceCrops(Images(), CUDA)  # type: ignore[arg-type]
        batches = crops.batches(crop_rule(config), Plan(0, settings.batch_size))
        for k in range(2):
            watch.clear()
            learner.derive(next(batches), k)
            without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            learner.move(k, settings.rate)
    assert not without, f"no gradient for {without[0]}: DistributedDataParallel would wait for it"
    return watch


def evaluation(name: str) -> Watch:
    """Plain, fast and in strips, with noise and consistency; a measurement and back."""
    model, plane, here = small_model(name).eval(), np.zeros((60, 90), np.uint8), Runtime(CUDA)
    with fake_cuda() as watch:
        model.to(CUDA)
        watch.clear()
        model.noise_std = 0.1
        reconstruct_plane(model, plane, Rules(consistency=True), here, "x")
        for precision in ("fp32", "bf16"):
            fast = optimize_for_inference(model, precision)
            reconstruct_plane(fast, plane, Rules(), here, "x")
        with torch.inference_mode():
            if model.network.stepwise or model.network.reach is not None:
                rebuild(model, model.measure(torch.rand(1, 1, 128, 64, device=CUDA)), Strips(1))
        model.operator.fingerprint = lambda: "the same"  # type: ignore[method-assign]
        reconstruct_image(model, measure_image(model, plane, "x"))
    return watch


def consensus() -> Watch:
    """What two processes ask each other after every step."""
    torch.distributed.all_reduce = lambda *_: None
    event = SimpleNamespace(synchronize=lambda: None)
    torch.cuda.current_stream = lambda: SimpleNamespace(record_event=lambda: event)  # type: ignore[assignment, return-value]
    with fake_cuda() as watch:
        shared = Consensus(Runtime(CUDA, 0, 2), 7.0)
        assert [shared(0, 8.0) for _ in range(3)][:2] == [(0, 7.0)] * 2  # not there yet
    return watch


def wrong_device() -> Watch:
    """Must be found: an operation on both devices."""
    with fake_cuda() as watch:
        torch.ones(2, device=CUDA) + torch.ones(2)
    return watch


def waiting() -> Watch:
    """Must be found: three waits, and a convolution in another format than its kernel."""
    with fake_cuda() as watch:
        values = torch.ones(2).to(CUDA)
        values[0].item()
        values.cpu()
        layer = nn.Conv2d(2, 2, 3, device=CUDA).to(memory_format=torch.channels_last)
        layer(torch.ones(1, 2, 5, 5, device=CUDA))
    return watch


class Training(NamedTuple):
    """A config and what is changed in it."""

    name: str
    changes: tuple[str, ...] = ()

    def __call__(self) -> Watch:
        changes = ["training.compile=false", "training.batch_size=2", *self.changes]
        path = PROJECT / "configs" / f"{self.name}.yaml"
        return step(load_config(path, [*changes, "sampling.phi_init=orthonormal"]))


TRAININGS = (
    Training("lgm_net_budget", ("data.crop_size=64", "training.precision=bf16")),
    Training("lgm_net_all_ratios", ("model.D=1", "data.crop_size=64", "training.precision=bf16")),
    Training("lorun_unet", ("model.stages=2", "data.crop_size=64", "model.algorithm=hqs")),
    Training("ista_net_plus", ("training.channels_last=true", "training.precision=bf16")),
)
EVALUATIONS = ("lgm_net", "ista_net_plus", "lorun", "prl")
CHECKS: dict[str, Callable[[], Watch]] = {
    **{f"train {each.name}": each for each in TRAININGS},
    **{f"evaluate {name}": lambda name=name: evaluation(name) for name in EVALUATIONS},
    "consensus": consensus,
    "planted wrong device": wrong_device,
    "planted waits": waiting,
}


def main(chosen: list[str]) -> None:
    """Run checks and print, for each, a line of JSON: its name, and counts or the error."""
    for name, check in CHECKS.items():
        if chosen and name not in chosen:
            continue
        try:
            watch = check()
            names = ("launches", "convolutions", "turned", "waits")
            found = {key: getattr(watch, key) for key in names}
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            last = ([f for f in frames if "/lgmnet/" in f.filename] or frames)[-1]
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            found = {"error": f"{reason} at {last.filename}:{last.lineno}"}
        print(json.dumps({"name": name, **found}), flush=True)
