"""One training step: gradients, optimizer, and the average of the weights."""

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


# Steps in the history of L-BFGS, as in the code of Deep ADMM-Net.
LBFGS_HISTORY = 5


class Learner:
    """A model on its device, with everything that a training step needs except the batch.

    ``note`` is called with the number of a step and a message, if a step changes its settings.
    ``computing`` is the module that computes the steps.
    """

    def __init__(self, model: SensingModel, config: Config, here: Runtime) -> None:
        settings = config.training
        self.model, self.config, self._here = model.to(here.device).train(), config, here
        self.note: Callable[[int, str], None] = lambda step, text: here.say(text)
        wrapped = prepare(model, settings, here)
        # Both have the memory format of the prepared model.
        self.average = WeightAverage(model, settings.ema) if settings.ema else None
        self.optimizer = make_optimizer(model, settings)
        self._parameters = list(model.parameters())  # collecting them again takes a millisecond
        # A compiled network casts its weights in its own kernels; several processes exchange
        # gradients in float32.
        alone = here.processes == 1 and not settings.compile
        reduced = ReducedWeights(model) if alone and settings.precision == "bf16" else None
        self._gradients = Gradients(
            wrapped, model, settings, here, lambda step, text: self.note(step, text), reduced
        )
        self.computing: nn.Module = reduced.model if reduced else wrapped

    def derive(self, batch: Tensor, step: int) -> Terms:
        """Compute the gradients of a batch ``(b, c, size, size)`` of crops; the loss and its terms.

        Args:
            step: number of previous steps.
        """
        settings = self.config.training
        self.optimizer.zero_grad(set_to_none=True)
        searches = isinstance(self.optimizer, torch.optim.LBFGS)
        # A function of seed and step, so a resumed run and every process draw the same operator. A
        # line search compares losses, so all its steps have the same noise and operator.
        number = 0 if searches else step
        random = generator(settings.seed, number, OPERATOR_STREAM)
        drawn = self.config.sampling.draw(self.model.operator, random, settings.batch_size)
        operator = drawn.part(self._here.rank * len(batch), len(batch))
        terms = self._gradients(batch, operator, number)
        if searches:
            self._closure = self._line_search(terms, partial(self._gradients, batch, operator, 0))
        return terms

    def move(self, step: int, rate: float) -> Tensor:
        """Clip the gradients and make a step; returns the norm before clipping."""
        settings = self.config.training
        norm = nn.utils.clip_grad_norm_(self._parameters, settings.clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * settings.phi_rate if group.get("phi") else rate
        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(self._closure)
        else:
            self.optimizer.step()
        self.model.operator.retract()
        if self.average is not None:
            self.average.update(self.model, step + 1)
            self.average.model.operator.retract()
        return norm

    def _line_search(self, first: Terms, derive: Callable[[], Terms]) -> Callable[[], float]:
        """The function that a line search calls: the loss and its gradients at the current weights.

        Args:
            first: the result of the first call; its gradients are already computed.
            derive: computes the results of the other calls.
        """
        known = [first]

        def evaluate() -> float:
            if not known:
                self.optimizer.zero_grad(set_to_none=True)
            terms = known.pop() if known else derive()
            return float(self._here.mean(terms["loss"].clone()))

        return evaluate

    def state_dict(self) -> dict[str, Any]:
        """The state for `saver.restore`, without the progress of the run."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
        }


def make_optimizer(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Create the optimizer. Φ has its own group if its rate differs, and so have Muon's kernels."""
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
        # All batches have one size. After a split for lack of memory, all have the smaller size.
        model.network.compile(mode=mode, dynamic=False)
        # einops keeps a list of types. A new type inside a graph would make the graph invalid.
        rearrange(nn.Parameter(torch.zeros(1)), "one -> one")
    if here.processes == 1:
        return model
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)
    return DistributedDataParallel(
        model,
        device_ids=[here.device] if here.device.type == "cuda" else None,
        broadcast_buffers=False,  # training does not change buffers, so once is enough
        gradient_as_bucket_view=True,
        # No static_graph: it counts the backward passes of parts that are not exchanged, and then
        # sums wrong gradients (PyTorch 2.13).
    )
