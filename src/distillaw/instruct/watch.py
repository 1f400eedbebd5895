"""What happens around TRL's steps: the log, held-out scores after epochs, the best weights, checkpoints, progress."""

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from distillaw.errors import DivergedError
from distillaw.instruct.folder import TuneFolder
from distillaw.quantities import format_seconds
from distillaw.runs.pace import LOG_SECONDS

_LOGGED = ("loss", "learning_rate", "grad_norm", "rewards/accuracies", "rewards/margins")


class Watch(TrainerCallback):
    """One run's ears and hands."""

    def __init__(
        self, *, folder: TuneFolder, score: Callable[[], dict[str, float]], keep_weights: Callable[[int], None],
        patience: int, checkpoint_seconds: float, spent: float, say: Callable[[str], None],
        unit: str,
    ) -> None:  # fmt: skip
        """Watch a run.

        Args:
            folder: of the run.
            score: held-out figures of the model as it is; `loss` decides which epoch is best.
            keep_weights: writes the trained weights under an epoch's number.
            patience: epochs without a lower loss before stopping.
            checkpoint_seconds: time between checkpoints.
            spent: seconds trained before this start.
            say: takes a line of progress.
            unit: of the held-out loss, for people.
        """
        self._folder, self._score, self._keep_weights = folder, score, keep_weights
        self._patience, self._every, self._spent = patience, checkpoint_seconds, spent
        self._say, self._unit = say, unit
        self._began = self._saved = self._said = time.monotonic()
        self._first_step: int | None = None

    @property
    def seconds(self) -> float:
        """Trained so far, earlier starts included."""
        return self._spent + time.monotonic() - self._began

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The first step of this start sets the clock of the rate."""
        if self._first_step is None:
            self._first_step, self._began, self._saved = state.global_step, time.monotonic(), time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint and a line of progress now and then."""
        now = time.monotonic()
        control.should_save = control.should_save or now - self._saved >= self._every
        if now - self._said >= LOG_SECONDS:
            self._said = now
            done = state.global_step - (self._first_step or 0)
            left = (now - self._began) / done * (state.max_steps - state.global_step)
            rate = f"{60 * done / (now - self._began):.3g} steps/min, about {format_seconds(left)} left"
            self._say(f"step {state.global_step:,} of {state.max_steps:,}, {rate}")

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """A line of metrics.jsonl.

        Raises:
            DivergedError: the loss or the gradient is not finite.
        """
        if logs is None or "loss" not in logs:
            return
        row = {key: float(logs[key]) for key in _LOGGED if key in logs}
        if not all(math.isfinite(value) for value in row.values()):
            raise DivergedError(
                f"step {state.global_step}: loss {row['loss']:g}, gradient {row.get('grad_norm', 0.0):g}; the run "
                "diverged. Lower --lr, or look for damaged weights"
            )
        self._folder.metrics.append(
            {"step": state.global_step, "epoch": state.epoch, **row, "seconds": self.seconds}
        )

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Score; keep the weights if they are the best so far; stop when patience is at its end."""
        epoch = round(state.epoch or 0)
        figures = self._score()
        if not math.isfinite(figures["loss"]):
            raise DivergedError(f"epoch {epoch}: the held-out loss is {figures['loss']:g}; lower --lr")
        before = history(self._folder)
        if all(figures["loss"] < row["loss"] for row in before):
            self._keep_weights(epoch)
        self._folder.metrics.append({"step": state.global_step, "epoch": epoch, "heldout": figures,
                                     "seconds": self.seconds})  # fmt: skip
        self._say(
            f"epoch {epoch}: held-out loss {figures['loss']:.4f} ± {figures['loss_se']:.4f} {self._unit}"
        )
        control.should_training_stop = control.should_training_stop or is_over(self._folder, self._patience)
        control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The checkpoint is there: say so in its folder, and drop the older one."""
        self._saved = time.monotonic()
        self._folder.checkpointed(state.global_step, self.seconds, best_epoch=best_epoch(self._folder))


def history(folder: TuneFolder) -> list[dict[str, float]]:
    """Held-out figures after each epoch, with `epoch`; the start (epoch 0) left out."""
    rows = []
    for row in folder.metrics.rows():
        if isinstance(figures := row.get("heldout"), dict) and (epoch := int(str(row["epoch"]))):
            rows.append({"epoch": epoch, **figures})
    return rows


def best_epoch(folder: TuneFolder) -> int | None:
    """The epoch of the lowest held-out loss; None before the first has ended."""
    scored = history(folder)
    return int(min(scored, key=lambda row: row["loss"])["epoch"]) if scored else None


def is_over(folder: TuneFolder, patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing."""
    scored, best = history(folder), best_epoch(folder)
    return best is not None and scored[-1]["epoch"] - best >= patience
