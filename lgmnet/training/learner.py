"""What moves a model: its gradients, the optimiser, and the average of its weights."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lgmnet import runtime
from lgmnet.config import Config, TrainingConfig
from lgmnet.data.crops import generator
from lgmnet.models import SensingModel
from lgmnet.runtime import Runtime
from lgmnet.training.ema import WeightAverage
from lgmnet.training.gradients import Gradients, Terms
from lgmnet.training.muon import Muon
from lgmnet.training.reduced import ReducedWeights

# Crops, flips and blocks are drawn from other streams.
OPERATOR_STREAM = 5


# Steps that L-BFGS remembers, as that of Deep ADMM-Net's authors.
LBFGS_HISTORY = 5


class Learner:
    """A model on its device, and all that a training step needs beside a batch.

    ``note`` hears of what a step does by itself, with its number; ``computing`` is the module that
    computes the steps.
    """

    def __init__(self, model: SensingModel, config: Config, here: Runtime) -> None:
        settings = config.training
        self.model, self.config, self._here = model.to(here.device).train(), config, here
        self.note: Callable[[int, str], None] = lambda step, text: here.say(text)
        wrapped = prepare(model, settings, here)
        # Both have the memory format of the prepared model.
        self.average = WeightAverage(model, settings.ema) if settings.ema else None
        self.optimizer = make_optimizer(model, settings)
        self._parameters = list(model.parameters())  # collecting them anew takes a millisecond
        # A compiled network casts its weights in its own kernels; several processes exchange
        # gradients in float32.
        alone = here.processes == 1 and not settings.compile
        reduced = ReducedWeights(model) if alone and settings.precision == "bf16" else None
        self._gradients = Gradients(
            wrapped, model, settings, here, lambda step, text: self.note(step, text), reduced
        )
        self.computing: nn.Module = reduced.model if reduced else wrapped

    def derive(self, batch: Tensor, step: int) -> Terms:
        """The gradients of a batch ``(b, 1, size, size)`` of uint8 crops; the loss and its terms.

        Args:
            step: number of steps done before.
        """
        settings = self.config.training
        self.optimizer.zero_grad(set_to_none=True)
        searches = isinstance(self.optimizer, torch.optim.LBFGS)
        # A function of seed and step: a resumed run and every process draw the same. A line search
        # compares losses, so there every step has the same noise and the same operator.
        number = 0 if searches else step
        random = generator(settings.seed, number, OPERATOR_STREAM)
        operator = self.config.sampling.draw(self.model.operator, random)
        terms = self._gradients(batch, operator, number)
        if searches:
            self._closure = self._line_search(terms, partial(self._gradients, batch, operator, 0))
        return terms

    def move(self, step: int, rate: float) -> Tensor:
        """Clip the gradients and step along them; their norm before clipping."""
        settings = self.config.training
        norm = nn.utils.clip_grad_norm_(self._parameters, settings.clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * settings.phi_rate if group.get("phi") else rate
        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(self._closure)
        else:
            self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, step + 1)
        return norm

    def _line_search(self, first: Terms, derive: Callable[[], Terms]) -> Callable[[], float]:
        """What a line search calls: the loss at the weights as they are, and its gradients.

        Args:
            first: the answer to the first call, whose gradients are there already.
            derive: what computes the others.
        """
        known = [first]

        def evaluate() -> float:
            if not known:
                self.optimizer.zero_grad(set_to_none=True)
            terms = known.pop() if known else derive()
            return float(self._here.mean(terms["loss"].clone()))

        return evaluate

    def state_dict(self) -> dict[str, Any]:
        """What `saver.restore` needs beside the place in the run."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
        }


def make_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Groups of their own have Φ, if its rate differs, and kernels, if Muon moves them."""
    if settings.optimizer == "lbfgs":
        return torch.optim.LBFGS(
            model.parameters(),
            lr=settings.rate,
            max_iter=1,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=LBFGS_HISTORY,
            line_search_fn="strong_wolfe",
        )
    phi, kernels, others = [], [], []
    for name, parameter in model.named_parameters():
        if settings.phi_rate != 1 and name.startswith("operator."):
            phi.append(parameter)
        elif settings.optimizer == "muon" and parameter.ndim > 1 and name.startswith("network."):
            kernels.append(parameter)
        else:
            others.append(parameter)
    marked = ({"params": others}, {"params": phi, "phi": True}, {"params": kernels, "muon": True})
    groups = [group for group in marked if group["params"]]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}[settings.optimizer]
    return kind(groups, lr=settings.rate, weight_decay=settings.weight_decay, fused=True)


def prepare(model: SensingModel, settings: TrainingConfig, here: Runtime) -> nn.Module:
    """Apply memory format, recomputation, compilation and DDP from outside, in this order."""
    if settings.channels_last:
        runtime.use_channels_last(model.network)
    if settings.recompute:
        runtime.recompute_stages(model.network)
    if settings.compile:
        mode = "reduce-overhead" if settings.cuda_graphs else "default"
        # Every batch has one size; halved by want of memory, the next has another one, for good.
        model.network.compile(mode=mode, dynamic=False)
        # einops keeps a list of types. One that it first sees in a graph would void that graph.
        rearrange(nn.Parameter(torch.zeros(1)), "one -> one")
    if here.processes == 1:
        return model
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)
    return DistributedDataParallel(
        model,
        device_ids=[here.device] if here.device.type == "cuda" else None,
        broadcast_buffers=False,  # training changes none: once is enough
        gradient_as_bucket_view=True,
        # No static_graph: it counts the backward passes of parts that are not exchanged, and then
        # sums wrong gradients (PyTorch 2.13).
    )
