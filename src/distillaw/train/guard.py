"""What to do with a step whose loss or gradient is not finite, or whose gradient is absurdly large.

The step is skipped, weights untouched, and counted; after `patience` skipped steps in a row the run has diverged.
What counts as absurd is a multiple of the running mean of the gradient norm (before clipping), if asked for.
"""

import math

from distillaw.runs.spec import Recipe

MEMORY = 0.98
"""Decay per step of the running mean of the gradient norm."""
FEW_STEPS = 20
"""Steps before the running mean means anything."""


class SpikeGuard:
    """Decides step by step; its state is a dict of numbers that checkpoints keep."""

    def __init__(self, recipe: Recipe, notes: dict[str, float]) -> None:
        self._factor, self._patience, self._notes = recipe.spike_factor, recipe.patience, notes

    @property
    def skipped(self) -> int:
        """Steps skipped so far in the run."""
        return int(self._notes.get("skipped", 0))

    def admits(self, loss: float, norm: float) -> bool:
        """Whether the step may be taken; remembers its norm, or that it was skipped."""
        notes = self._notes
        seen, mean = notes.get("seen", 0), notes.get("mean_norm", 0.0)
        spike = self._factor > 0 and seen >= FEW_STEPS and norm > self._factor * mean
        if not (math.isfinite(loss) and math.isfinite(norm)) or spike:
            notes["skipped"] = notes.get("skipped", 0) + 1
            notes["skipped_in_a_row"] = notes.get("skipped_in_a_row", 0) + 1
            return False
        weight = max(1 - MEMORY, 1 / (seen + 1))
        notes.update(seen=seen + 1, mean_norm=mean + weight * (norm - mean), skipped_in_a_row=0)
        return True

    @property
    def gives_up(self) -> bool:
        """Whether more steps in a row were skipped than the recipe allows."""
        return self._notes.get("skipped_in_a_row", 0) > self._patience
