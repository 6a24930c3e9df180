"""Gradients of one batch: in parts, in the chosen precision and within the available memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lgmnet import runtime
from lgmnet.config import ConfigError, TrainingConfig
from lgmnet.data.values import to_unit
from lgmnet.losses import total_loss
from lgmnet.models import SensingModel
from lgmnet.operators import LinearOperator
from lgmnet.runtime import Runtime
from lgmnet.speed.memory import out_of_memory, release_memory
from lgmnet.speed.precision import autocast, convolutions
from lgmnet.training.reduced import ReducedWeights

# Number of first steps that several processes rehearse. From the second step on, the optimizer has
# its memory.
REHEARSALS = 2

# The loss, its terms and the gradient norm of one step, by name; scalars on the device.
Terms = dict[str, Tensor]


@dataclass
class Gradients:
    """Gradients of batches, computed in as many parts as the memory requires.

    If memory runs out, the parts of a batch are halved. The batch stays complete, so the step is
    the same. Several processes must agree on the parts before one of them waits for the others. So
    they first run their first steps without exchanging gradients. If memory runs out later, the run
    ends.
    """

    wrapped: nn.Module
    model: SensingModel
    settings: TrainingConfig
    here: Runtime
    note: Callable[[int, str], None]
    reduced: ReducedWeights | None = None
    rehearsals: int = REHEARSALS

    def __call__(self, batch: Tensor, operator: LinearOperator, step: int) -> Terms:
        """Compute the gradients of crops ``(b, c, size, size)``; the loss and its terms.

        Args:
            operator: operator of the step. It shares its tensors with the model's operator.

        Raises:
            ConfigError: a single crop does not fit into memory; or the batch does not fit, and
                parts are not possible.
        """
        if self.here.processes == 1:
            return self._until_it_fits(batch, operator, step)
        if self.rehearsals:
            self.rehearsals -= 1
            self._until_it_fits(batch, operator, step)
            self.model.zero_grad(set_to_none=True)
        runtime.seed_step(self.settings.seed, step, self.here)
        return backward(self.wrapped, self.model, batch, operator, self.settings, self.here)

    def _until_it_fits(self, batch: Tensor, operator: LinearOperator, step: int) -> Terms:
        while True:
            terms = self._attempt(batch, operator, step)
            failed = self.here.largest(int(terms is None))
            if terms is not None and not failed:
                return terms
            self.model.zero_grad(set_to_none=True)
            release_memory()
            self._halve(len(batch), step)

    def _attempt(self, batch: Tensor, operator: LinearOperator, step: int) -> Terms | None:
        """Gradients of this process only; None if memory ran out."""
        runtime.seed_step(self.settings.seed, step, self.here)
        try:
            return backward(
                self.model, self.model, batch, operator, self.settings, self.here, self.reduced
            )
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                return None
            if not (self.settings.compile and runtime.compilation_failed(error)):
                raise
            reason = str(error).strip().splitlines()[0]
        self.note(step, f"training.compile failed, the run continues without it: {reason}")
        self.settings = replace(self.settings, compile=False, cuda_graphs=False)
        runtime.undo_compilation(self.model.network)
        self.model.zero_grad(set_to_none=True)
        return self._attempt(batch, operator, step)

    def _halve(self, share: int, step: int) -> None:
        """Compute the ``share`` of this process in at least twice as many equal parts."""
        parts = self.settings.accumulate
        if parts >= share:
            raise ConfigError(
                "a single crop does not fit into memory; lower data.crop_size, or set "
                "training.recompute=true and training.precision=bf16"
            )
        if self.settings.cuda_graphs:
            raise ConfigError(
                f"out of memory at step {step + 1}, and with training.cuda_graphs a batch cannot "
                "be computed in parts; lower training.batch_size, set training.recompute=true, or "
                "training.cuda_graphs=false"
            )
        more = next(k for k in range(2 * parts, share + 1) if share % k == 0)
        self.note(
            step,
            f"out of memory at step {step + 1}: the batch of {self.settings.batch_size} is kept, "
            f"now in {more} parts of {share // more} crops each per process, not {parts}"
            + self.settings.compile
            * "; the network is compiled again",
        )
        self.settings = replace(self.settings, accumulate=more)


def backward(
    wrapped: nn.Module,
    model: SensingModel,
    batch: Tensor,
    operator: LinearOperator,
    settings: TrainingConfig,
    here: Runtime,
    reduced: ReducedWeights | None = None,
) -> Terms:
    """Compute the gradients of one batch ``(b, c, size, size)``, in parts; the loss and its terms.

    Args:
        wrapped: the model, or its wrapper that exchanges gradients with other processes.
        operator: operator of the step.
        reduced: computes instead of ``wrapped`` and ``model``.
    """
    if reduced is not None:
        reduced.load()
        wrapped = reduced.model
    means: Terms = {}
    parts = batch.chunk(settings.accumulate)
    weight = measured_share(operator, model.operator) ** settings.ratio_exponent / len(parts)
    with convolutions(settings.precision, fixed_size=True):
        first = 0
        for k, part in enumerate(parts):
            target = to_unit(part)
            measured = operator.part(first, len(part))
            first += len(part)
            # Processes exchange gradients once per batch, with its last part.
            module = wrapped if reduced or k + 1 == len(parts) else model
            with autocast(here.device, settings.precision):
                reconstruction = module(target, measured)
            loss, terms = total_loss(
                reconstruction,
                target,
                measured,
                settings.loss,
                settings.measurement_weight,
                settings.orthogonality_weight,
                settings.l1_weight,
            )
            (weight * loss).backward()
            if reduced is not None:
                reduced.collect()
            for name, term in {"loss": loss, **terms}.items():
                means[name] = means.get(name, 0) + term.detach() / len(parts)
    return means


def measured_share(operator: LinearOperator, whole: LinearOperator) -> float:
    """Share of the rows of Φ that the current training step uses."""
    return operator.sizes().get("measurements", 1) / whole.sizes().get("measurements", 1)
