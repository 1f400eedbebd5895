"""The training loop: students that read one stream advance in step; those of one teacher share each of its forwards.

A student run is one student on its way to a step. Runs that lag (after a kill) catch up first, then all go together;
each trains exactly as if it were the only one. Checkpoints are written every half minute (or as
DISTILLAW_CHECKPOINT_SECONDS says), in a thread if the recipe asks for it, and the data order is a function of the step:
a kill at any moment costs seconds and the resumed trajectory is the uninterrupted one bit for bit. At Ctrl-C and
SIGTERM the step is finished, checkpoints are saved, then the process ends; so it does when torchrun is killed, which
cannot tell its ranks: they would train on, unseen, and hold the folder. What to train, and where the budgets branch
off, is decided in train/trunk.py.
"""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from distillaw.data.shards import WindowOrder
from distillaw.distill.losses import LossParts
from distillaw.errors import ConfigError, DivergedError
from distillaw.large_batch.diffusion import log_steps
from distillaw.large_batch.rules import clip_at
from distillaw.models.parallel import ALONE, Ranks, is_lost_peer
from distillaw.runs.execution import launched
from distillaw.runs.spec import BatchPlan, TrunkSpec
from distillaw.train.checkpoint import Background, TrainState, save_state
from distillaw.train.log import Write, open_log
from distillaw.train.metering import Clock, GradientNorms, RunSpeed, SpikeGuard, StepMeter, noise_row
from distillaw.train.optim import RateSchedule, own_settings, set_batch, set_learning_rate
from distillaw.train.stacked import HAVE_GRAPHS, STACKING_PAYS, CapturedStacks, can_capture, can_stack, stacked_losses
from distillaw.train.student import Signal, SignalSource

METRICS, DISTANCES, STATE = "metrics.jsonl", "distances.jsonl", "state"
LOG_STEPS = 20
"""Steps between rows of the log: the norms measured on them cost two parts in a thousand of a run."""
CHECKPOINT_SECONDS = "DISTILLAW_CHECKPOINT_SECONDS"
"""Environment variable: seconds of training between checkpoints, 30 unless set. No part of what a run is."""
SAVING_SHARE = 0.05
"""Most of the time that goes into checkpoints: large models save less often than asked."""
STACK = "DISTILLAW_STACK"
"""Environment variable: `always` or `never` compute students of one shape as one model; `auto` where it pays."""

Report = Callable[[int, float], None]
"""Called after every step with (its tokens, its training loss); may raise to stop the run cleanly."""


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a `Report` to end training now; the loop saves checkpoints before it lets go."""


def silent(tokens: int, loss: float) -> None:
    """A `Report` that says nothing."""


Batch = tuple[torch.Tensor, np.ndarray, bool]
"""A rank's micro-batch of a step: tokens, which windows they are, whether it is the step's last."""


class StepFacts(NamedTuple):
    """What one optimiser step measured, over all ranks; nats per token."""

    loss: float
    distillation: float
    next_token: float
    grad_norm: float
    norms: GradientNorms | None


@dataclass(slots=True, kw_only=True)
class BatchFeed:
    """The stream that a group of students reads."""

    order: WindowOrder
    plan: BatchPlan
    micro_batch_tokens: int = 0
    ranks: Ranks = ALONE

    def micro_batches(self, step: int) -> int:
        """Equally large parts that a rank takes its share of a step's batch in; 1 where they are not equal."""
        share = self.plan.at(step) // self.ranks.world
        micro = self.micro_batch_tokens or share
        return 1 if share % micro else share // micro

    def batches(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of a step."""
        context = self.order.split.context
        first = self.plan.read(step) * (self.plan.tokens // context)
        sequences = self.plan.at(step) // context
        windows = self.order.window_ids(first, sequences)[self.ranks.share(sequences)]
        micro = self.micro_batch_tokens // context or len(windows)
        for first in range(0, len(windows), micro):
            chosen = windows[first : first + micro]
            tokens = torch.from_numpy(self.order.split.windows(chosen)).to(self.ranks.device)
            yield tokens, chosen, first + micro >= len(windows)


@dataclass(slots=True, kw_only=True)
class Trainer:
    """One student: gradients in, optimiser steps out."""

    spec: TrunkSpec
    student: torch.nn.Module
    """A `Student`, wrapped for its ranks."""
    state: TrainState
    ranks: Ranks = ALONE
    meter: StepMeter | None = None
    _sums: list[torch.Tensor] = field(default_factory=list)

    @property
    def batch_tokens(self) -> int:
        """Of the step at hand."""
        return self.spec.batches.at(self.state.step)

    def begin(self, micro_batches: int) -> None:
        """A step begins; the gradients of logged ones are measured."""
        if self.meter is not None:
            wanted = self.state.step % LOG_STEPS == 0
            self.meter.begin(wanted=wanted, micro_batches=micro_batches, batch_tokens=self.batch_tokens)

    def accumulate(self, tokens: torch.Tensor, signal: Signal, *, last: bool) -> None:
        """Add the gradient of one micro-batch."""
        with self.ranks.accumulating(self.student, last=last):
            parts = self.student(tokens, signal, self.batch_tokens)
            # wrappers average gradients over ranks; each loss is already a share of the whole batch's mean
            (parts.total * self.ranks.world).backward()
        self.note(parts)

    def note(self, parts: LossParts) -> None:
        """Remember what a micro-batch measured, for the facts of the step."""
        zero = torch.zeros((), dtype=torch.float64, device=parts.total.device)
        self._sums.append(
            torch.stack(
                [
                    value.detach().double() if value is not None else zero
                    for value in (parts.total, parts.distillation, parts.next_token)
                ]
            )
        )
        if self.meter is not None:
            self.meter.after_backward()

    def update(self, rate: float) -> StepFacts:
        """Take the optimiser step, or skip it if the guard says so.

        Raises:
            DivergedError: skipped once too often; the weights are those before the step.
        """
        spec, state = self.spec, self.state
        bound = clip_at(state.step, clip_norm=spec.recipe.clip_norm, clip_steps=spec.recipe.clip_steps or None)
        norms = self.meter.norms() if self.meter is not None else None
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), bound)
        norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        loss, distillation, next_token = self.ranks.sum(*torch.stack(self._sums).sum(0).tolist())
        facts = StepFacts(loss, distillation, next_token, norm, norms)
        self._sums.clear()
        guard = SpikeGuard(spec.recipe, state.notes, state.recent)
        if guard.admits(facts.loss, norm):
            set_learning_rate(state.optimizer, rate)
            if spec.recipe.batch_doublings:
                set_batch(state.optimizer, own_settings(spec, self.batch_tokens))
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
class StudentRun:
    """A student on its way to step `until`."""

    trainer: Trainer
    schedule: RateSchedule
    until: int
    home: Path
    """Where metrics.jsonl, distances.jsonl and the checkpoints in state/ lie."""
    identity: str
    speed: RunSpeed
    source: SignalSource
    """Its teacher's signal."""
    mirror: Callable[[dict[str, object]], None] | None = None
    """Given every row of the log as well."""
    error: DivergedError | None = None
    _watched: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self._watched = frozenset(log_steps(max(1, self.until)))

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.trainer.state.step

    def share_at(self, step: int) -> float:
        """What is left of its teacher's weight at a step; of a student without one it is nothing."""
        spec = self.trainer.spec
        if spec.teacher_run is None:
            return 0.0
        return spec.recipe.share_of_teacher(spec.batches.read(step) * spec.batch_tokens)

    @property
    def is_open(self) -> bool:
        """Whether it still has steps to take."""
        return self.error is None and self.step < self.until

    def save(self, background: Background | None = None) -> None:
        """Write its checkpoint, now or in the background, in place of the oldest that is kept."""
        keep = self.trainer.spec.recipe.keep_checkpoints
        how = {"identity": self.identity, "ranks": self.trainer.ranks, "keep": keep, "background": background}
        save_state(self.trainer.state, self.home / STATE, **how)

    @contextlib.contextmanager
    def opened(self, ranks: Ranks) -> Iterator["Logs"]:
        """Its logs, to be written from its step on."""
        with (
            open_log(self.home / METRICS, self.step, ranks) as metrics,
            open_log(self.home / DISTANCES, self.step, ranks) as distances,
        ):
            yield Logs(metrics, distances)

    def finish_step(self, seconds: float, of_teacher: float, logs: "Logs") -> float:
        """Update, log now and then; returns the step's loss.

        Args:
            seconds: wall time since the step began, the teacher's share included.
            of_teacher: its share of the teacher's forward pass, which all of that teacher have in common.
        """
        trainer, state, began = self.trainer, self.trainer.state, time.perf_counter()
        share = self.share_at(state.step)
        tokens = trainer.batch_tokens
        rate = own_settings(trainer.spec, tokens).peak_lr * self.schedule.factor(state.step)
        facts = trainer.update(rate)
        seconds += time.perf_counter() - began
        state.seconds += seconds
        self.speed.add(tokens, seconds, of_teacher)
        state.notes["teacher_tokens"] = state.notes.get("teacher_tokens", 0.0) + tokens * of_teacher
        if state.tracker is not None and state.step in self._watched:
            logs.distances({"step": state.step - 1, "lr": rate, **state.tracker.measure()})
        if (state.step - 1) % LOG_STEPS == 0 or state.step == self.until:
            parts = {} if trainer.spec.teacher_run is None else {"distillation": facts.distillation}
            plan = trainer.spec.batches
            row = {
                "step": state.step - 1,
                "tokens": plan.read(state.step) * plan.tokens,
                "loss": facts.loss,
                **parts,
                "next_token": facts.next_token,
                "grad_norm": facts.grad_norm,
                "lr": rate,
                **({"batch_tokens": tokens} if plan.doublings else {}),
                **({"teacher_share": share} if trainer.spec.recipe.distill_until else {}),
                "skipped": int(state.notes.get("skipped", 0)),
                **noise_row(facts.norms, state.notes),
                **self.speed.take(),
            }
            logs.metrics(row)
            if self.mirror is not None and trainer.ranks.is_first:
                self.mirror(row)
        return facts.loss


class Logs(NamedTuple):
    """Where the rows of a run go."""

    metrics: Write
    distances: Write


def advance(
    runs: Sequence[StudentRun], feed: BatchFeed, *, report: Report = silent, stacked: bool | None = None
) -> None:
    """Train every run to its step; a run that diverges stops with its `error` set, the others go on.

    The states at the end are not saved here.

    Args:
        runs: students that read `feed`, each with its own teacher.
        stacked: compute students of one shape as one model (train/stacked.py); None does as DISTILLAW_STACK says. On
            CUDA it is replayed from a captured graph (train/stacked.py).

    Raises:
        RunError: a checkpoint could not be written.
        StopTraining: the report asked for it; all runs are saved.
    """
    stacked = _stacks(feed.ranks) if stacked is None else stacked
    graphs = CapturedStacks() if stacked and feed.ranks.device.type in HAVE_GRAPHS else None
    saved, least = time.monotonic(), _checkpoint_seconds()
    every = least
    wants_thread = any(run.trainer.spec.recipe.async_checkpoints for run in runs)
    with contextlib.ExitStack() as stack:
        background = stack.enter_context(Background(feed.ranks)) if wants_thread else None
        logs = {id(run): stack.enter_context(run.opened(feed.ranks)) for run in runs if run.is_open}
        while due := _due(runs):
            read = feed.plan.at(due[0].step) * len(due)
            losses = _step(due, feed, logs, stacked=stacked, graphs=graphs)
            is_due = feed.ranks.is_first and time.monotonic() - saved > every
            stop, save, failed = feed.ranks.sum(
                _asks_to_stop(report, read, losses),
                float(is_due and (background is None or background.is_free)),
                float(background is not None and background.has_failed),
            )
            began = time.monotonic()
            if background is not None and (stop or save or failed):
                background.finish()
            if stop or save:
                for run in runs:
                    if run.error is None:
                        run.save(None if stop else background)
                saved = time.monotonic()
                every = max(least, (saved - began) / SAVING_SHARE)
            if stop:
                raise StopTraining("asked to stop; the checkpoints are saved")


def _stacks(ranks: Ranks) -> bool:
    wish = os.environ.get(STACK, "auto")
    if wish not in ("auto", "always", "never"):
        raise ConfigError(f"{STACK} = {wish!r}: give auto, always or never")
    return wish == "always" or (wish == "auto" and ranks.device.type in STACKING_PAYS)


def _checkpoint_seconds() -> float:
    text = os.environ.get(CHECKPOINT_SECONDS, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"{CHECKPOINT_SECONDS} = {text!r}: give a number of seconds, 0 or more")
    return seconds


def _due(runs: Sequence[StudentRun]) -> list[StudentRun]:
    """The open runs that are furthest behind."""
    open_runs = [run for run in runs if run.is_open]
    step = min((run.step for run in open_runs), default=0)
    return [run for run in open_runs if run.step == step]


def _step(
    due: list[StudentRun],
    feed: BatchFeed,
    logs: dict[int, Logs],
    *,
    stacked: bool,
    graphs: CapturedStacks | None = None,
) -> list[float]:
    """One optimiser step of every due run on the same batch; each teacher reads it once."""
    by_teacher = _gathered(due, lambda run: id(run.source))
    shapes = _gathered(due, _stack_key) if stacked else [[run] for run in due]
    share = {id(run): run.share_at(run.step) for run in due}
    clock = Clock(due)
    for run in due:
        run.trainer.begin(feed.micro_batches(due[0].step))
    for (tokens, windows, last), following in _with_next(feed, due):
        clock.charge(due)
        signals: dict[int, Signal] = {}
        for runs in by_teacher:
            is_heard = any(share[id(run)] for run in runs)
            # what a source reads ahead must be taken: nothing of a next step that none of its students hears
            ahead = None if last and not any(run.share_at(run.step + 1) for run in runs) else following
            signal = runs[0].source.signal(tokens, windows, ahead) if is_heard else Signal()
            for run in runs:
                left = share[id(run)]
                signals[id(run)] = signal._replace(share=left) if left else Signal()
            clock.charge(runs)
        for runs in shapes:
            given = [signals[id(run)] for run in runs]
            is_whole = last and len(tokens) * feed.order.split.context == due[0].trainer.batch_tokens
            _accumulate(runs, tokens, given, last=last, graphs=graphs if is_whole else None)
            clock.charge(runs)
    of_teacher = dict.fromkeys(share, 0.0)
    for runs in by_teacher:
        heard = [id(run) for run in runs if share[id(run)]]
        of_teacher |= dict.fromkeys(heard, 1 / max(1, len(heard)))
    losses = []
    for run in due:
        try:
            losses.append(run.finish_step(clock.of(run), of_teacher[id(run)], logs[id(run)]))
        except DivergedError as error:
            run.error = error
    return losses


def _with_next(feed: BatchFeed, due: list[StudentRun]) -> Iterator[tuple[Batch, torch.Tensor | None]]:
    """The micro-batches of a step, each with the tokens of the next one for a teacher that can begin on them."""
    step = due[0].step
    if not any(run.source.looks_ahead and run.share_at(step) for run in due):
        yield from ((batch, None) for batch in feed.batches(step))
        return
    upcoming = feed.batches(step + 1) if any(run.until > step + 1 for run in due) else iter(())
    following = itertools.chain((batch[0] for batch in feed.batches(step)), (batch[0] for batch in upcoming))
    next(following)
    yield from ((batch, next(following, None)) for batch in feed.batches(step))


def _gathered(runs: Sequence[StudentRun], key: Callable[[StudentRun], object]) -> list[list[StudentRun]]:
    """The runs in groups of one key, in their order."""
    groups: dict[object, list[StudentRun]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _stack_key(run: StudentRun) -> object:
    """Runs of one key can be one stacked model; others are alone."""
    spec = run.trainer.spec
    return (spec.shape, spec.start, spec.recipe.precision) if can_stack(run.trainer.student) else id(run)


def _accumulate(
    runs: list[StudentRun], tokens: torch.Tensor, signals: list[Signal], *, last: bool, graphs: CapturedStacks | None
) -> None:
    """Add the gradients of one micro-batch to runs that are computed together; graphs only of whole batches."""
    trainers = [run.trainer for run in runs]
    students = [student for student in (trainer.student for trainer in trainers) if can_stack(student)]
    captured = graphs is not None and bool(students) and all(map(can_capture, signals))
    if len(runs) == 1 and not captured:
        trainers[0].accumulate(tokens, signals[0], last=last)
        return
    num_tokens = trainers[0].batch_tokens
    if captured:
        every = graphs.accumulate(students, tokens, signals, num_tokens)
    else:
        every = stacked_losses(students, tokens, signals, num_tokens)
        torch.autograd.backward([parts.total for parts in every])
    for trainer, parts in zip(trainers, every, strict=True):
        trainer.note(parts)


def _asks_to_stop(report: Report, tokens: int, losses: list[float]) -> float:
    try:
        report(tokens, losses[-1] if losses else float("nan"))
    except StopTraining:
        return 1.0
    return 0.0


class StopRequest:
    """A `Report` that passes progress on and stops training when the process is asked to end, or nobody listens."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._previous: dict[int, object] = {}
        self.received: int | None = None
        """The signal that asked, if one did."""
        self.unheard: BrokenPipeError | None = None
        """Who watched is gone."""

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and is_lost_peer(error):
            return  # the launcher asks to end at once, which must not cut off the line that says why
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # the second Ctrl-C means now; a launcher may pass on one that its ranks have had from the terminal already
        if self.received == number == signal.SIGINT and not launched():
            raise KeyboardInterrupt
        self.received = number

    def __call__(self, tokens: int, loss: float) -> None:
        """Progress after a step."""
        try:
            self._report(tokens, loss)
        except BrokenPipeError as error:
            self.unheard = error
        orphaned = self._launcher is not None and os.getppid() != self._launcher
        if self.received is not None or orphaned or self.unheard:
            raise StopTraining
