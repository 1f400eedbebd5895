"""Regime adaptation: a schedule made for a small batch, carried over to a large one; and clipping of the first steps.

Hoffer et al. 2017 (arXiv 1705.08741): every phase of e epochs becomes R e epochs, so that the number of *updates*
stays. It costs R times the samples. A partial last batch breaks the equality in epochs (128 gives 39,100 steps in 100
epochs of 50,000 samples, 4096 gives 41,600 in 3200), so steps are the unit that is exact.
"""

import math
from collections.abc import Callable, Sequence

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.regime.rules import batch_ratio

UNITS = ("epochs", "steps", "tokens")

Factor = Callable[[int], float]
"""A schedule: step (0-based) to a multiple of the peak rate, as `Schedule.factor` and torch's `LambdaLR` have it."""


def adapt_phases(
    phases: Sequence[float], *, unit: str, batch: float, reference: float, whole_epochs: bool = False
) -> tuple[float, ...]:
    """Positions or lengths of phases that give a large batch as many updates as the small one had.

    Args:
        phases: drop positions, or the end, in `unit`; not negative.
        unit: `steps` (unchanged), `tokens` (times R) or `epochs` (times R).
        batch: the large batch.
        reference: the batch that the phases were made for, in the same unit.
        whole_epochs: epochs times ceil(R), as the released code does.

    Raises:
        ConfigError: unknown unit, an absurd ratio, a phase that is negative or not finite.
    """
    if unit not in UNITS:
        raise ConfigError(f"unit {unit!r}{did_you_mean(unit, UNITS)}: one of {', '.join(UNITS)}")
    ratio = batch_ratio(batch, reference)
    for phase in phases:
        if not 0 <= phase < math.inf:
            raise ConfigError(f"a phase of {phase:g} {unit}: it must be finite and not negative")
    if unit == "steps":
        return tuple(phases)
    if unit == "epochs" and whole_epochs:
        ratio = math.ceil(ratio - 1e-9)
    return tuple(phase * ratio for phase in phases)


def steps_of(epochs: float, *, samples: int, batch: int, drop_last: bool = False) -> int:
    """Updates in so many epochs, the partial last batch counted unless it is dropped."""
    if samples < 1 or batch < 1 or not 0 <= epochs < math.inf:
        raise ConfigError(
            f"{epochs:g} epochs of {samples} samples in batches of {batch}: counts must be positive"
        )
    per_epoch = samples // batch if drop_last else math.ceil(samples / batch)
    return round(epochs * per_epoch)


def at_equal_samples(factor: Factor, *, batch: float, reference: float) -> Factor:
    """The schedule of a large batch that sees no more samples: step t uses the factor of step t R (no adaptation)."""
    ratio = batch_ratio(batch, reference)
    return lambda step: factor(math.floor(step * ratio + 1e-9))


def at_equal_steps(factor: Factor, *, batch: float, reference: float) -> Factor:
    """The schedule under regime adaptation: the same factor at the same update, R times the samples."""
    batch_ratio(batch, reference)
    return factor


def clip_at(step: int, *, clip_norm: float, clip_steps: int | None = None) -> float:
    """The gradient norm at which step `step` is clipped; infinity is not at all.

    The paper clips the first iterations only, its released code every step of every run (at 5.0): both are here.

    Args:
        step: 0-based.
        clip_norm: the bound, > 0.
        clip_steps: clip only so many first steps; None: always.
    """
    if not clip_norm > 0:
        raise ConfigError(f"clip_norm = {clip_norm:g}: it must be above 0")
    if clip_steps is not None and clip_steps < 0:
        raise ConfigError(
            f"clip_steps = {clip_steps}: a number of first steps, or None for always; not negative"
        )
    return clip_norm if clip_steps is None or step < clip_steps else math.inf


def momentum_build_up(momentum: float, *, steps: int) -> float:
    """Average momentum over `steps` steps from zero, as a share of what it grows to.

        1 - (m/(1 - m)) (1 - m^n)/n

    The released code of the paper rebuilds the optimiser every epoch: 0.977 at 391 steps, 0.48 at 13.
    """
    if not 0 <= momentum < 1 or steps < 1:
        raise ConfigError(
            f"momentum {momentum:g} over {steps} steps: momentum must lie in [0, 1), steps be at least 1"
        )
    return 1 - momentum / (1 - momentum) * (1 - momentum**steps) / steps
