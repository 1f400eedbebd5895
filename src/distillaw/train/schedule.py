"""Warm-up, trunk, cooldown branches (WSD): one trunk serves every token budget.

A run to D tokens follows the trunk to (1 - c) D and decays over the last c D tokens, so
k budgets cost (1 - c) D_max + c sum D_i instead of sum D_i (parity with
cosine is reported by arXiv 2404.06395 and 2405.18392). With c = 1 the trunk is empty and every budget decays
from its start: with the cosine shape that is the cosine schedule. All positions are in optimiser steps.

The trunk keeps its rate, or lets it fall as a power of the tokens read, so that each budget is cooled from a rate that
suits its own length: the best rate of a longer run is lower (docs/rates.md).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The rate as a multiple of the peak, for one branch."""

    warmup_steps: int
    branch_step: int
    """Step at which the cooldown begins; the trunk itself never decays."""
    total_steps: int
    decay: str = "linear"
    """Shape of the cooldown: a key of `DECAYS`."""
    final_ratio: float = 0.01
    """Rate at the last step over the peak."""
    power: float = 0.0
    """From `power_step` on the trunk's rate falls as step**-power."""
    power_step: int = 0

    def factor(self, step: int) -> float:
        """Multiple of the peak rate used by step `step` (0-based)."""
        trunk = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.power and step >= self.power_step:
            trunk *= ((step + 1) / max(1, self.power_step)) ** -self.power
        if step < self.branch_step:
            return trunk
        progress = (step + 1 - self.branch_step) / (self.total_steps - self.branch_step)
        return trunk * (self.final_ratio + (1 - self.final_ratio) * DECAYS[self.decay](progress))


DECAYS = {
    "linear": lambda progress: 1 - progress,
    "sqrt": lambda progress: 1 - math.sqrt(progress),  # 1-sqrt of arXiv 2405.18392, section 3
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}
"""Cooldown shapes: share of the decay still to come, from 1 to 0, as a function of the progress through it."""


def schedule_for(
    *, tokens: int, batch_tokens: int, warmup_tokens: int, cooldown: float, decay: str = "linear",
    power: float = 0.0, power_tokens: int = 0,
) -> Schedule:  # fmt: skip
    """The schedule of a run: steps are whole batches, the budget is rounded to the nearest."""
    total = max(1, round(tokens / batch_tokens))
    branch = min(total - 1, round(total * (1 - cooldown)))
    return Schedule(
        warmup_steps=max(1, round(warmup_tokens / batch_tokens)), branch_step=branch, total_steps=total, decay=decay,
        power=power, power_step=round(power_tokens / batch_tokens),
    )  # fmt: skip
