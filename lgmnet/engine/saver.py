"""What a run writes while it trains: validation scores, weights, and the state to resume from."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from lgmnet.config import Config, ratio_label
from lgmnet.engine import checkpoint
from lgmnet.engine.building import TrainingData
from lgmnet.engine.ema import WeightAverage
from lgmnet.engine.evaluation import validate
from lgmnet.engine.log import RunLog, phi_tiles
from lgmnet.engine.ratios import at_ratio
from lgmnet.engine.runtime import Runtime
from lgmnet.engine.schedule import Position
from lgmnet.metrics import Score, summarise
from lgmnet.models import SensingModel


@dataclass
class Saver:
    """Validates and writes files for the main process; the others do nothing."""

    folder: Path
    config: Config
    model: SensingModel
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    data: TrainingData
    here: Runtime
    log: RunLog
    saved_step: int = -1

    @property
    def judged(self) -> SensingModel:
        """The weights that are validated: the average, where there is one."""
        return self.model if self.average is None else self.average.model  # type: ignore[return-value]

    def validate_and_save(self, at: Position) -> None:
        self.saved_step = at.step
        if self.here.is_main:
            score = self._validate(at)
            if score is not None and score.psnr > at.best:
                at.best = score.psnr
                self._save_weights("best", self.judged, at, score)
            self.save_state(at)

    def finish(self, at: Position) -> None:
        """Last validation, and the final weights beside the best."""
        if self.here.is_main:
            if self.saved_step != at.step:
                self.validate_and_save(at)
            self._save_weights("last", self.model, at, None)
            if self.average is not None:
                self._save_weights("ema", self.judged, at, None)
            self.log.say(f"finished after step {at.step}; the run is in {self.folder}")

    def save_state(self, at: Position) -> None:
        if self.here.is_main:
            checkpoint.save_state(
                self.folder / "last.pt",
                {
                    "config": json.dumps(self.config.as_dict()),
                    "model": self.model.state_dict(),
                    "average": self.average.state_dict() if self.average else None,
                    "optimizer": self.optimizer.state_dict(),
                    "step": at.step,
                    "elapsed": at.elapsed,
                    "best": at.best,
                },
            )

    def _validate(self, at: Position) -> Score | None:
        """The mean over the images, and over the ratios of a network that serves a range."""
        images = self.data.validation
        if images is None:
            return None

        def show(k: int, image: object) -> None:
            if k < 4:
                self.log.image(at.step, f"validation/{images.names[k]}", image)  # type: ignore[arg-type]

        sampling, limit = self.config.sampling, self.config.data.validation_images
        scores = {
            ratio: validate(at_ratio(self.judged, sampling, ratio), images, self.here, limit, show)
            for ratio in sampling.scored_ratios
        }
        score = summarise(list(scores.values()))
        each = {f"psnr_{ratio_label(r)}": s.psnr for r, s in scores.items() if sampling.is_range}
        self.log.image(at.step, "phi", phi_tiles(self.model.operator))  # type: ignore[arg-type]
        self.log.record(
            at.step,
            "validation",
            {"psnr": score.psnr, "ssim": score.ssim, "minutes": at.elapsed / 60, **each},
        )
        self.log.say(f"step {at.step}: validation {score.psnr:.3f} dB, SSIM {score.ssim:.4f}")
        return score

    def _save_weights(
        self, name: str, model: SensingModel, at: Position, score: Score | None
    ) -> None:
        metrics = {"validation_psnr": score.psnr, "validation_ssim": score.ssim} if score else {}
        checkpoint.save_weights(
            self.folder / f"{name}.safetensors",
            model,
            self.config,
            {
                "training_data": ", ".join(self.config.data.train),
                "training_images": str(len(self.data.train.names)),
                "step": str(at.step),
                "minutes": f"{at.elapsed / 60:.2f}",
                "metrics": json.dumps(metrics),
                **self.log.provenance,
            },
        )


def restore(
    state: dict,
    model: SensingModel,
    average: WeightAverage | None,
    optimizer: torch.optim.Optimizer,
) -> Position:
    """Put a saved state back; returns where the run stood."""
    checkpoint.load_state(model, state["model"], "the saved state")
    if average is not None:
        if state["average"] is None:
            raise checkpoint.CheckpointError(
                "the saved state has no weight average; set training.ema=0 or start again"
            )
        average.load_state_dict(state["average"])
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except ValueError:
        raise checkpoint.CheckpointError(
            "the saved state groups the parameters otherwise; resume with the training.optimizer "
            "and training.phi_rate of the run folder's config.yaml"
        ) from None
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay  # as the config says now, like the learning rate
    return Position(state["step"], state["elapsed"], state["best"])
