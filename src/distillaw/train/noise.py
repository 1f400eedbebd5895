"""Gradient norms at two batch sizes on the steps that are logged, where accumulation or data parallelism gives them.

One device that accumulates compares a micro-batch with the batch; ranks that hold whole models compare one rank's share
with the batch. One device that takes the batch at once, and models sharded over ranks, show a single size: nothing is
measured. What the norms say is in large_batch/noise.py.
"""

from typing import NamedTuple

import torch
from torch.nn.parallel import DistributedDataParallel

from distillaw.large_batch.instruments import AccumulationMeter, DataParallelMeter
from distillaw.large_batch.noise import moved, ratio, two_batch
from distillaw.train.parallel import Ranks

MEMORY = 0.9
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

    def __init__(self, student: torch.nn.Module, ranks: Ranks, *, batch_tokens: int) -> None:
        """Make one right after the student is wrapped for its ranks."""
        self._parameters = list(student.parameters())
        self._alone, self._tokens = ranks.world == 1, batch_tokens
        self._across = DataParallelMeter(student) if isinstance(student, DistributedDataParallel) else None
        self._within: AccumulationMeter | None = None
        self._parts = 1

    def begin(self, *, wanted: bool, micro_batches: int) -> None:
        """A step begins.

        Args:
            wanted: whether it is to be measured.
            micro_batches: equally large parts that this rank takes its share in; 1 where they are not equal.
        """
        self._within, self._parts = None, 1
        if self._across is not None:
            self._across.listen(wanted)
            self._parts = self._across.ranks if wanted else 1
        elif wanted and self._alone and micro_batches > 1:
            self._within, self._parts = (
                AccumulationMeter(self._parameters, micro_batches=micro_batches),
                micro_batches,
            )

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
    means = moved((notes.get("noise_grad_sq", 0.0), notes.get("noise_trace", 0.0)), pair, memory=MEMORY)
    notes["noise_grad_sq"], notes["noise_trace"] = means
    return {
        "grad_sq_small": norms.small_sq, "grad_sq_big": norms.big_sq, "small_tokens": norms.small,
        "noise_scale": ratio(means),
    }  # fmt: skip
