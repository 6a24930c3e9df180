"""The log of a run: console, log.jsonl and TensorBoard."""

import json
import sys
import time
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from lgmnet.files import naming, write_text
from lgmnet.project import provenance
from lgmnet.runtime import Runtime
from lgmnet.speed.precision import precision_note
from lgmnet.training.images import TrainingData
from lgmnet.training.schedule import Position

# Seconds between two moves of the progress bar on a terminal, and in a file.
MOVES = (0.5, 60.0)
# Largest number of bad images named on the console; the log contains all.
SHOWN = 20


class RunLog:
    """Writes each record to ``log.jsonl`` and TensorBoard, and a line to the progress bar.

    Records are appended, so a resumed run continues its log. Only the main process writes.

    Args:
        step: the step where the run continues; records of later steps are removed.
    """

    def __init__(
        self, folder: Path, total: float, start: float, active: bool = True, step: int = 0
    ) -> None:
        self.active = active
        self.provenance = provenance()
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._path = folder / "log.jsonl"
        drop_after(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._total = total
        self._pause = MOVES[0] if sys.stderr.isatty() else MOVES[1]
        self._moved, self._line = time.monotonic(), ""
        form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"
        self._bar = tqdm(total=total, initial=start, desc=folder.name, bar_format=form)

    def record(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """One line of ``log.jsonl``; numbers go to TensorBoard under ``kind/``.

        JSON has no infinity, which is the PSNR of identical images. It is written as null.
        """
        if not self.active:
            return
        clock = time.strftime("%Y-%m-%dT%H:%M:%S")
        values = {
            k: v if not isinstance(v, float) or isfinite(v) else None for k, v in values.items()
        }
        line = json.dumps({"step": step, "kind": kind, "time": clock, **values})
        with naming(self._path):
            self._file.write(line + "\n")
            self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def start(self, step: int, data: TrainingData, here: Runtime, precision: str) -> None:
        """Record versions, device and images of the run; name the images that are left out."""
        self.record(
            step,
            "start",
            {
                **self.provenance,
                "device": str(here.device),
                "precision": precision,
                "processes": here.processes,
                "images": len(data.train.names),
                "left_out": data.rejected,
            },
        )
        held = len(data.validation.names) if data.validation else 0
        left_out = f"; {len(data.rejected)} left out:" if data.rejected else ""
        self.say(
            f"training on {len(data.train.names)} images, {held} for validation, in {precision}"
            f"{left_out}"
        )
        for reason in list(data.rejected.values())[:SHOWN]:
            self.say(f"  {reason}")
        if note := precision_note(precision, here.device):
            self.note(step, note)

    def resumed(self, step: int, changes: list[str]) -> None:
        """Record where a run continues, and which settings have changed."""
        self.record(step, "resume", {"changed": changes})
        self.say(f"resumed from step {step}" + "".join(f"; changed: {c}" for c in changes))

    def step(
        self,
        at: Position,
        rate: float,
        speed: float,
        means: dict[str, float],
        here: Runtime,
        done: float,
    ) -> None:
        """Record the means since the last line. ``done``: percentage of the run that is done."""
        self.record(
            at.step,
            "train",
            {
                **means,
                "rate": rate,
                "images_per_second": speed,
                "memory_mib": here.peak_memory(),
                "minutes": at.elapsed / 60,
            },
        )
        self._line = f"  loss {means['loss']:.3e}  {speed:.0f} images/s"
        self._progress(at.step, done)

    def end(self, step: int, unreadable: list[str], signal: int) -> None:
        """Record how the run ended, and which images could not be decoded."""
        if unreadable:
            named = ", ".join(unreadable[:SHOWN])
            self.say(f"{len(unreadable)} images could not be decoded: {named}")
        self.record(step, "end", {"unreadable": unreadable, "signal": signal})

    def tick(self, step: int, done: float) -> None:
        """Move the progress bar after a step, if it has not moved for some time (`MOVES`)."""
        if self.active and time.monotonic() >= self._moved + self._pause:
            self._progress(step, done)

    def _progress(self, step: int, done: float) -> None:
        if self.active:
            self._moved = time.monotonic()
            self._bar.set_postfix_str(f"step {step}{self._line}", refresh=False)
            self._bar.update(min(done, self._total) - self._bar.n)

    def say(self, text: str) -> None:
        if self.active:
            self._bar.write(text)

    def note(self, step: int, text: str) -> None:
        """Record an action of the run that nobody asked for, and print it."""
        self.record(step, "note", {"text": text})
        self.say(text)

    def image(self, step: int, name: str, image: Tensor | np.ndarray) -> None:
        """Write a grey image ``(H, W)`` in [0, 1] to TensorBoard."""
        if self.active:
            self._board.add_image(name, np.clip(np.asarray(image), 0, 1), step, dataformats="HW")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.active:
            self._bar.close()
            self._board.close()
            self._file.close()


def drop_after(path: Path, step: int) -> None:
    """Keep the lines of a log up to ``step``; remove an incomplete last line too."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        write_text(path, "".join(kept))
