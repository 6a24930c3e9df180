"""The progress of a run, and the learning rate that follows from it."""

import math
from dataclasses import dataclass

from lgmnet.config import TrainingConfig

# onecycle starts at this share of the largest rate (torch.optim.lr_scheduler.OneCycleLR).
ONECYCLE_START = 1 / 25


@dataclass
class Position:
    """Steps done, seconds spent, best validation PSNR, and step of the last validation."""

    step: int = 0
    elapsed: float = 0.0
    best: float = -math.inf
    validated: int = 0

    def validation_is_due(self, every: int) -> bool:
        """Whether the last step has to be validated and is not validated yet."""
        return every > 0 and self.step % every == 0 and self.step != self.validated


def progress(at: Position, settings: TrainingConfig) -> float:
    """Completed share of the run: of the time if it has a time budget, else of the steps."""
    if settings.minutes:
        return at.elapsed / (60 * settings.minutes)
    return at.step / settings.steps


def rate_factor(at: Position, settings: TrainingConfig) -> float:
    """Learning rate of the next step, relative to ``training.rate``."""
    done, warmup = min(progress(at, settings), 1.0), settings.warmup
    if settings.schedule == "multistep":
        epoch = at.step // settings.steps_per_epoch
        return 0.1 ** sum(epoch >= milestone for milestone in settings.milestones)
    if settings.schedule == "constant":
        return 1.0
    if done >= warmup:
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
    if settings.schedule == "cosine":
        # Never zero: the first step must change the weights.
        return max(done / warmup, 1e-3)
    rise = 0.5 * (1 - math.cos(math.pi * done / warmup))
    return ONECYCLE_START + (1 - ONECYCLE_START) * rise
