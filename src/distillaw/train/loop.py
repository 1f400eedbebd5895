"""The training loop: one model, one stream of batches, one rate per step.

Checkpoints are replaced every half minute and the data order is a function of the step, so a kill at any
moment costs seconds and the resumed trajectory is the uninterrupted one bit for bit. What to train, and
where the budgets branch off, is decided in train/trunk.py.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from distillaw.data.batches import BatchOrder
from distillaw.distill.losses import distillation_loss
from distillaw.errors import DivergedError
from distillaw.runs.files import disk_error, read_json_lines, write_text
from distillaw.runs.spec import TrunkSpec
from distillaw.train.checkpoint import TrainState, save_state
from distillaw.train.optim import set_learning_rate
from distillaw.train.schedule import Schedule

CHECKPOINT_SECONDS = 30.0
LOG_STEPS = 20

Report = Callable[[int, float], None]
"""Called after every step with (its tokens, its training loss); may raise to stop the run cleanly."""


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a `Report` to end training now; the loop saves a checkpoint before it lets go."""


def silent(tokens: int, loss: float) -> None:
    """A `Report` that says nothing."""


@dataclass(slots=True, kw_only=True)
class Trainer:
    """Everything one trunk needs while it trains: model state, text, teacher."""

    spec: TrunkSpec
    state: TrainState
    order: BatchOrder
    teacher: torch.nn.Module | None
    report: Report = silent

    def advance(self, until: int, schedule: Schedule, *, log: Path, checkpoint: Path, identity: str) -> None:
        """Train to step `until`, logging and checkpointing on the way; the state at `until` is not saved here."""
        saved = last = time.monotonic()
        with _open_log(log, below=self.state.step) as write:
            while self.state.step < until:
                step, rate = self.state.step, self.spec.peak_lr * schedule.factor(self.state.step)
                loss, norm = self.step(rate)
                now = time.monotonic()
                self.state.seconds += now - last
                if step % LOG_STEPS == 0 or self.state.step == until:
                    write({"step": step, "tokens": self.state.step * self.spec.batch_tokens, "loss": loss,
                           "grad_norm": norm, "lr": rate,
                           "tokens_per_second": self.spec.batch_tokens / max(now - last, 1e-9)})  # fmt: skip
                try:
                    self.report(self.spec.batch_tokens, loss)
                except StopTraining:
                    save_state(self.state, checkpoint, identity=identity)
                    raise
                if now - saved > CHECKPOINT_SECONDS:
                    save_state(self.state, checkpoint, identity=identity)
                    saved = now
                last = now

    def step(self, rate: float) -> tuple[float, float]:
        """One optimiser step at the given rate; returns (training loss, gradient norm).

        Raises:
            DivergedError: loss or gradient is not finite; the weights are those before the step.
        """
        spec, state = self.spec, self.state
        sequences = spec.batch_tokens // spec.recipe.context
        batch = torch.from_numpy(self.order.batch(state.step * sequences, sequences))
        micro = spec.recipe.micro_batch_tokens // spec.recipe.context or sequences
        loss = 0.0
        for part in batch.split(micro):
            weighted = self._loss(part) * (len(part) / sequences)
            weighted.backward()
            loss += weighted.item()
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), spec.recipe.clip_norm).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(
                f"{spec.trunk_id}: training diverged at step {state.step}: loss {loss:g}, gradient norm {norm:g}, "
                f"rate {rate:g} (peak_lr {spec.peak_lr:g}). Lower training.peak_lr, e.g. to {spec.peak_lr / 4:g}"
            )
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        return loss, norm

    def _loss(self, tokens: torch.Tensor) -> torch.Tensor:
        inputs, recipe = tokens[:, :-1], self.spec.recipe
        logits = self.state.model(input_ids=inputs, use_cache=False).logits
        target = None
        if self.teacher is not None:
            with torch.no_grad():
                target = self.teacher(input_ids=inputs, use_cache=False).logits
        return distillation_loss(
            logits, tokens[:, 1:], target, distill_weight=recipe.distill_weight, temperature=recipe.temperature,
            z_weight=recipe.z_weight,
        )  # fmt: skip


@contextlib.contextmanager
def _open_log(path: Path, *, below: int) -> Iterator[Callable[[dict[str, object]], None]]:
    """Append to metrics.jsonl; lines at or past step `below` (from before a kill) are dropped first."""
    rows = read_json_lines(path)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    if torn or (rows and int(str(rows[-1]["step"])) >= below):
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if int(str(row["step"])) < below))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a", encoding="utf-8", buffering=1) as stream:
            yield lambda row: stream.write(json.dumps(row) + "\n") and None
    except OSError as error:
        raise disk_error(path, error) from error
