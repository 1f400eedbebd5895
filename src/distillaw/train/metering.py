"""What a step is measured by: gradient norms at two batch sizes, a guard against spikes, tokens and FLOP per second.

Norms are taken on the steps that are logged, where accumulation or data parallelism gives them. One device that
accumulates compares a micro-batch with the batch; ranks that hold whole models compare one rank's share with the batch.
One device that takes the batch at once, and models sharded over ranks, show a single size: nothing is measured. What
the norms say is in large_batch/noise.py.

A step whose loss or gradient is not finite, or whose gradient is absurdly large, is skipped, weights untouched, and
counted; after `patience` skipped steps in a row the run has diverged. What counts as absurd is a multiple of the
running mean of the gradient norm (before clipping), if asked for. So is what counts as a spike: a loss or a norm so
many standard deviations above the mean of the last steps, as in OLMo-core's SkipStepOptimizer. A spike is left out
without an end to patience: it stays in the window, so that a level that lasts is soon no spike any more.

FLOP are those of our accounting (docs/accounting.md): 3 forward passes per trained token for the student, one for the
teacher, divided among the students that share it. MFU is their rate over the rate of large matrix products measured on
the same device and threads at the start, so that it means the same everywhere.
"""

import functools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel

from distillaw.large_batch.instruments import AccumulationMeter, DataParallelMeter
from distillaw.large_batch.noise import moved, ratio, two_batch
from distillaw.models.parallel import Ranks
from distillaw.runs.spec import Recipe

NOISE_MEMORY = 0.9
"""Weight of the past in the moving averages, a logged step's each."""


class GradientNorms(NamedTuple):
    """Of one step, before clipping; batches in tokens."""

    small_sq: float
    """|g_b|^2, the mean over micro-batches or ranks."""
    big_sq: float
    small: float
    big: float


class StepMeter:
    """Measures the steps that `begin` asks it to."""

    def __init__(self, student: torch.nn.Module, ranks: Ranks) -> None:
        """Make one right after the student is wrapped for its ranks."""
        self._parameters = list(student.parameters())
        self._alone, self._tokens = ranks.world == 1, 0
        self._across = DataParallelMeter(student) if isinstance(student, DistributedDataParallel) else None
        self._within: AccumulationMeter | None = None
        self._parts = 1

    def begin(self, *, wanted: bool, micro_batches: int, batch_tokens: int) -> None:
        """A step begins.

        Args:
            micro_batches: equally large parts that this rank takes its share in; 1 where they are not equal.
            batch_tokens: of the step, over all ranks.
        """
        self._within, self._parts, self._tokens = None, 1, batch_tokens
        if self._across is not None:
            self._across.listen(wanted)
            self._parts = self._across.ranks if wanted else 1
        elif wanted and self._alone and micro_batches > 1:
            self._within = AccumulationMeter(self._parameters, micro_batches=micro_batches)
            self._parts = micro_batches

    def after_backward(self) -> None:
        """A micro-batch's gradient has been added."""
        if self._within is not None:
            self._within.after_backward()

    def norms(self) -> GradientNorms | None:
        """Of the step, once, before clipping, on every rank; None where one size is all there is."""
        meter = self._within if self._across is None else self._across
        if meter is None or self._parts == 1:
            return None
        return GradientNorms(*meter.norms(), self._tokens / self._parts, self._tokens)


def noise_row(norms: GradientNorms | None, notes: dict[str, float]) -> dict[str, object]:
    """What a step's norms add to its row of the log; the moving averages are kept in the run's notes.

    Returns:
        The norms, the smaller batch, and the noise scale of the moving averages, tokens (None while either average is
        not above zero). Empty without norms, or where they are not finite.
    """
    if norms is None or not (0 <= norms.small_sq < float("inf") and 0 <= norms.big_sq < float("inf")):
        return {}
    pair = two_batch(norms.small_sq, norms.big_sq, small=norms.small, big=norms.big)
    means = moved((notes.get("noise_grad_sq", 0.0), notes.get("noise_trace", 0.0)), pair, memory=NOISE_MEMORY)
    notes["noise_grad_sq"], notes["noise_trace"] = means
    return {
        "grad_sq_small": norms.small_sq,
        "grad_sq_big": norms.big_sq,
        "small_tokens": norms.small,
        "noise_scale": ratio(means),
    }


NORM_MEMORY = 0.98
"""Decay per step of the running mean of the gradient norm."""
FEW_STEPS = 20
"""Steps before the running mean means anything."""


SPIKE_WINDOW = 128
"""Steps whose losses and norms say what is usual, and half of them before anything is unusual (OLMo-core's)."""


class SpikeGuard:
    """Decides step by step; its state is numbers that checkpoints keep."""

    def __init__(self, recipe: Recipe, notes: dict[str, float], recent: list[list[float]]) -> None:
        """Go on from a run's notes and the (loss, norm) of its last steps, which it changes."""
        self._factor, self._patience, self._notes = recipe.spike_factor, recipe.patience, notes
        self._sigmas, self._recent = recipe.skip_spikes, recent

    def admits(self, loss: float, norm: float) -> bool:
        """Whether the step may be taken; remembers its norm, or that it was skipped."""
        notes = self._notes
        if self._sigmas and math.isfinite(loss) and math.isfinite(norm) and self._is_far(loss, norm):
            notes["skipped"] = notes.get("skipped", 0) + 1
            return False
        seen, mean = notes.get("seen", 0), notes.get("mean_norm", 0.0)
        spike = self._factor > 0 and seen >= FEW_STEPS and norm > self._factor * mean
        if not (math.isfinite(loss) and math.isfinite(norm)) or spike:
            notes["skipped"] = notes.get("skipped", 0) + 1
            notes["skipped_in_a_row"] = notes.get("skipped_in_a_row", 0) + 1
            return False
        weight = max(1 - NORM_MEMORY, 1 / (seen + 1))
        notes.update(seen=seen + 1, mean_norm=mean + weight * (norm - mean), skipped_in_a_row=0)
        return True

    def _is_far(self, *now: float) -> bool:
        """Whether a loss or a norm lies far above those of the window, which it enters either way."""
        columns = list(zip(*self._recent, strict=True)) if len(self._recent) >= SPIKE_WINDOW // 2 else []
        spread = [(statistics.fmean(column), statistics.stdev(column)) for column in columns]
        self._recent.append(list(now))
        del self._recent[:-SPIKE_WINDOW]
        return any(x - mean > self._sigmas * sd for x, (mean, sd) in zip(now, spread, strict=False))

    @property
    def gives_up(self) -> bool:
        """Whether more steps in a row were skipped than the recipe allows."""
        return self._notes.get("skipped_in_a_row", 0) > self._patience


SIDE = 1024
"""Side of the square matrices whose product is timed."""


@dataclass(slots=True, kw_only=True)
class RunSpeed:
    """Accumulates between two log lines."""

    student_flops: float
    """Per trained token."""
    teacher_flops: float
    """Per token it reads."""
    device: torch.device
    precision: str
    world: int = 1
    _tokens: int = 0
    _seconds: float = 0.0
    _student: float = 0.0
    _teacher: float = 0.0

    def add(self, tokens: int, seconds: float, of_teacher: float) -> None:
        """Count one step, with the student's share of its teacher's forward."""
        self._tokens += tokens
        self._seconds += seconds
        self._student += tokens * self.student_flops
        self._teacher += tokens * self.teacher_flops * of_teacher

    def take(self) -> dict[str, object]:
        """The rates since the last call, and start anew."""
        seconds = max(self._seconds, 1e-9)
        rate = {"student": self._student / seconds, "teacher": self._teacher / seconds}
        row: dict[str, object] = {
            "tokens_per_second": self._tokens / seconds,
            "student_flops_per_second": rate["student"],
            "teacher_flops_per_second": rate["teacher"],
            "mfu": sum(rate.values()) / self.world / matmul_rate(self.device, self.precision),
        }
        self._tokens, self._seconds, self._student, self._teacher = 0, 0.0, 0.0, 0.0
        return row


@functools.lru_cache
def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP per second of a large matrix product here: the best of a few."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = SIDE if device.type == "cpu" else 8 * SIDE
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    times = []
    for _ in range(4):
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - began)
    return 2 * side**3 / min(times)


class Clock:
    """Divides the wall time of a step among the students (runs) it was spent for."""

    def __init__(self, runs: Sequence[object]) -> None:
        self._spent, self._now = dict.fromkeys(map(id, runs), 0.0), time.perf_counter()

    def charge(self, runs: Sequence[object]) -> None:
        """These runs share what has passed since the last charge."""
        now = time.perf_counter()
        for run in runs:
            self._spent[id(run)] += (now - self._now) / len(runs)
        self._now = now

    def of(self, run: object) -> float:
        """Seconds charged to a run."""
        return self._spent[id(run)]
