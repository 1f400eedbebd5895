"""The training loop: students that read one stream advance in step and share each teacher forward.

A lane is one student on its way to a step. Lanes that lag (after a kill) catch up first, then all go together; each
trains exactly as if it were alone. Checkpoints are replaced every half minute and the data order is a function of
the step, so a kill at any moment costs seconds and the resumed trajectory is the uninterrupted one bit for bit. What
to train, and where the budgets branch off, is decided in train/trunk.py.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed.tensor import DTensor

from distillaw.data.batches import BatchOrder
from distillaw.errors import DivergedError
from distillaw.runs.files import disk_error, read_json_lines, write_text
from distillaw.runs.spec import TrunkSpec
from distillaw.train.checkpoint import TrainState, save_state
from distillaw.train.guard import SpikeGuard
from distillaw.train.optim import set_learning_rate
from distillaw.train.parallel import ALONE, Ranks
from distillaw.train.schedule import Schedule
from distillaw.train.speed import Speed
from distillaw.train.teaching import Signal, Source

CHECKPOINT_SECONDS = 30.0
LOG_STEPS = 20

Report = Callable[[int, float], None]
"""Called after every step with (its tokens, its training loss); may raise to stop the run cleanly."""


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a `Report` to end training now; the loop saves checkpoints before it lets go."""


def silent(tokens: int, loss: float) -> None:
    """A `Report` that says nothing."""


class StepFacts(NamedTuple):
    """What one optimiser step measured, over all ranks; nats per token."""

    loss: float
    distillation: float
    next_token: float
    grad_norm: float


@dataclass(slots=True, kw_only=True)
class Feed:
    """The stream that a group of students reads, with the teacher's signal."""

    order: BatchOrder
    source: Source
    batch_tokens: int
    micro_batch_tokens: int = 0
    ranks: Ranks = ALONE

    def parts(self, step: int) -> Iterator[tuple[torch.Tensor, Signal, bool]]:
        """This rank's micro-batches of a step: (tokens, signal, whether it is the last)."""
        context = self.order.split.context
        sequences = self.batch_tokens // context
        windows = self.order.window_ids(step * sequences, sequences)[self.ranks.share(sequences)]
        micro = self.micro_batch_tokens // context or len(windows)
        for first in range(0, len(windows), micro):
            chosen = windows[first : first + micro]
            tokens = torch.from_numpy(self.order.split.windows(chosen)).to(self.ranks.device)
            yield tokens, self.source.signal(tokens, chosen), first + micro >= len(windows)


@dataclass(slots=True, kw_only=True)
class Trainer:
    """One student: gradients in, optimiser steps out."""

    spec: TrunkSpec
    student: torch.nn.Module
    """A `Student`, wrapped for its ranks."""
    state: TrainState
    ranks: Ranks = ALONE
    _sums: list[torch.Tensor] = field(default_factory=list)

    def accumulate(self, tokens: torch.Tensor, signal: Signal, *, last: bool) -> None:
        """Add the gradient of one micro-batch."""
        with self.ranks.accumulating(self.student, last=last):
            parts = self.student(tokens, signal, self.spec.batch_tokens)
            # wrappers average gradients over ranks; each loss is already a share of the whole batch's mean
            (parts.total * self.ranks.world).backward()
        zero = torch.zeros((), dtype=torch.float64, device=parts.total.device)
        self._sums.append(torch.stack([
            value.detach().double() if value is not None else zero
            for value in (parts.total, parts.distillation, parts.next_token)
        ]))  # fmt: skip

    def update(self, rate: float) -> StepFacts:
        """Take the optimiser step, or skip it if the guard says so.

        Raises:
            DivergedError: skipped once too often; the weights are those before the step.
        """
        spec, state = self.spec, self.state
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), spec.recipe.clip_norm)
        norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        facts = StepFacts(*self.ranks.sum(*torch.stack(self._sums).sum(0).tolist()), norm)
        self._sums.clear()
        guard = SpikeGuard(spec.recipe, state.notes)
        if guard.admits(facts.loss, norm):
            set_learning_rate(state.optimizer, rate)
            state.optimizer.step()
        elif guard.gives_up:
            raise DivergedError(
                f"{spec.trunk_id}: training diverged at step {state.step}: loss {facts.loss:g}, gradient norm "
                f"{norm:g}, rate {rate:g} (peak_lr {spec.peak_lr:g}). Lower training.peak_lr, e.g. to "
                f"{spec.peak_lr / 4:g}"
            )
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        return facts


@dataclass(slots=True, kw_only=True)
class Lane:
    """A student on its way to step `until`."""

    trainer: Trainer
    schedule: Schedule
    until: int
    log: Path
    checkpoint: Path
    identity: str
    speed: Speed
    mirror: Callable[[dict[str, object]], None] | None = None
    """Given every row of the log as well."""
    error: DivergedError | None = None

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.trainer.state.step

    @property
    def is_open(self) -> bool:
        """Whether it still has steps to take."""
        return self.error is None and self.step < self.until

    def save(self) -> None:
        """Replace its checkpoint."""
        save_state(self.trainer.state, self.checkpoint, identity=self.identity, ranks=self.trainer.ranks)

    def finish_step(self, seconds: float, sharing: int, write: Callable[[dict[str, object]], None]) -> float:
        """Update, log now and then; returns the step's loss.

        Args:
            seconds: wall time since the step began, the teacher's share included.
            sharing: students that shared the teacher's forward pass.
            write: appends to the log.
        """
        trainer, state, began = self.trainer, self.trainer.state, time.perf_counter()
        rate = trainer.spec.peak_lr * self.schedule.factor(state.step)
        facts = trainer.update(rate)
        seconds += time.perf_counter() - began
        state.seconds += seconds
        tokens = trainer.spec.batch_tokens
        self.speed.add(tokens, seconds, sharing)
        state.notes["teacher_tokens"] = state.notes.get("teacher_tokens", 0.0) + tokens / sharing
        if (state.step - 1) % LOG_STEPS == 0 or state.step == self.until:
            parts = {} if trainer.spec.teacher_run is None else {"distillation": facts.distillation}
            write({
                "step": state.step - 1, "tokens": state.step * tokens, "loss": facts.loss, **parts,
                "next_token": facts.next_token, "grad_norm": facts.grad_norm, "lr": rate,
                "skipped": int(state.notes.get("skipped", 0)), **self.speed.take(),
            })  # fmt: skip
        return facts.loss


def advance(lanes: Sequence[Lane], feed: Feed, *, report: Report = silent) -> None:
    """Train every lane to its step; a lane that diverges stops with its `error` set, the others go on.

    The states at the end are not saved here.

    Raises:
        StopTraining: the report asked for it; all lanes are saved.
    """
    saved = time.monotonic()
    with contextlib.ExitStack() as stack:
        write = {id(lane): stack.enter_context(_open_log(lane, feed.ranks)) for lane in lanes if lane.is_open}
        while due := _due(lanes):
            losses = _step(due, feed, write)
            stop, save = feed.ranks.sum(
                _asks_to_stop(report, feed.batch_tokens * len(due), losses),
                float(feed.ranks.is_first and time.monotonic() - saved > CHECKPOINT_SECONDS),
            )
            if stop or save:
                for lane in lanes:
                    if lane.error is None:
                        lane.save()
                saved = time.monotonic()
            if stop:
                raise StopTraining("asked to stop; the checkpoints are saved")


def _due(lanes: Sequence[Lane]) -> list[Lane]:
    """The open lanes that are furthest behind."""
    open_lanes = [lane for lane in lanes if lane.is_open]
    step = min((lane.step for lane in open_lanes), default=0)
    return [lane for lane in open_lanes if lane.step == step]


def _step(due: list[Lane], feed: Feed, write: dict[int, Callable]) -> list[float]:
    """One optimiser step of every due lane on the same batch."""
    spent = dict.fromkeys(map(id, due), 0.0)
    now = time.perf_counter()
    for tokens, signal, last in feed.parts(due[0].step):
        shared = (time.perf_counter() - now) / len(due)  # reading and the teacher's forward pass
        for lane in due:
            now = time.perf_counter()
            lane.trainer.accumulate(tokens, signal, last=last)
            spent[id(lane)] += shared + time.perf_counter() - now
        now = time.perf_counter()
    losses = []
    for lane in due:
        try:
            losses.append(lane.finish_step(spent[id(lane)], len(due), write[id(lane)]))
        except DivergedError as error:
            lane.error = error
    return losses


def _asks_to_stop(report: Report, tokens: int, losses: list[float]) -> float:
    try:
        report(tokens, losses[-1] if losses else float("nan"))
    except StopTraining:
        return 1.0
    return 0.0


@contextlib.contextmanager
def _open_log(lane: Lane, ranks: Ranks) -> Iterator[Callable[[dict[str, object]], None]]:
    """Append to metrics.jsonl; lines at or past the lane's step (from before a kill) are dropped first."""
    if not ranks.is_first:
        yield lambda row: None
        return
    path = lane.log
    rows = read_json_lines(path)
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    if torn or (rows and int(str(rows[-1]["step"])) >= lane.step):
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if int(str(row["step"])) < lane.step))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a", encoding="utf-8", buffering=1) as stream:

            def write(row: dict[str, object]) -> None:
                stream.write(json.dumps(row) + "\n")
                if lane.mirror is not None:
                    lane.mirror(row)

            yield write
    except OSError as error:
        raise disk_error(path, error) from error
