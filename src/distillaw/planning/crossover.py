"""Where pretraining catches up with one distillation, in tokens and in compute, under every law that may decide.

Student and teacher stay what they are; the budget grows. Each law gives one crossing per member and per quantile of its
discrepancy, laws count alike, and the band is over all of them: where they disagree it is wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from distillaw.laws.base import Array
from distillaw.planning.bills import effective_tokens, tokens_on
from distillaw.planning.evidence import Crossover, Evidence, Strategy, band_of, crossings
from distillaw.planning.options import teacher_losses
from distillaw.planning.situation import Situation, forward_flop
from distillaw.planning.text_scale import TextScale
from distillaw.planning.voices import Voice

_SPAN = (0.1, 1000.0)
"""Budgets searched, in units of the present one."""
_POINTS, QUANTILES, _MEMBERS = 81, 21, 40
"""Budgets on the grid, 20 a decade and so far closer than any band is wide; quantiles of the discrepancy; members of an
ensemble: each crossing is a draw, of which a band has at least 840."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A law that decides."""

    voice: Voice
    sd: float
    """Standard deviation of a gain, nats/token of the user's text."""
    scale: TextScale


def law_crossovers(
    situation: Situation,
    voices: Sequence[Voice],
    witnesses: Sequence[Evidence],
    row: Strategy,
    *,
    level: float,
) -> tuple[Crossover | None, Crossover | None]:
    """Bands in tokens (equal tokens) and in FLOP (equal bills); None where no law decides or the bill is unknown.

    Args:
        situation: who pays for what.
        voices: all laws.
        witnesses: the evidence that decides; those that are laws are asked.
        row: the distillation.
        level: of the bands.
    """
    asked = {v.source: v for v in voices}
    laws = [
        _Asked(voice=asked[e.source], sd=float(e.details["doubt"]), scale=TextScale.of(e))  # type: ignore[arg-type]
        for e in witnesses
        if e.source in asked
    ]
    if not laws or row.teacher is None:
        return None, None
    source = " and ".join(law.voice.source for law in laws)
    tokens = row.student_tokens * np.geomspace(*_SPAN, _POINTS)
    by_tokens = _band(situation, laws, row, tokens, (tokens, tokens), source, level)
    total = row.compute["total"]
    if total is None:
        return by_tokens, None
    compute = total * np.geomspace(*_SPAN, _POINTS)
    student = forward_flop(situation, row.student_params)
    own, distilled = (tokens_on(situation, compute, student, teacher) for teacher in (None, row.teacher))
    pays = (own > 0) & (distilled > 0)
    return by_tokens, _band(situation, laws, row, compute[pays], (own[pays], distilled[pays]), source, level)


def _band(
    situation: Situation,
    laws: Sequence[_Asked],
    row: Strategy,
    grid: Array,
    tokens: tuple[Array, Array],
    source: str,
    level: float,
) -> Crossover | None:
    if len(grid) < 2:
        return None
    crossed = [_crossings(situation, law, row, grid, tokens) for law in laws]
    fewest = min(len(c) for c in crossed)
    alike = [np.quantile(c, (np.arange(fewest) + 0.5) / fewest, method="inverted_cdf") for c in crossed]
    return band_of(np.concatenate(alike), (float(grid[0]), float(grid[-1])), source, level)


def _crossings(
    situation: Situation, law: _Asked, row: Strategy, grid: Array, tokens: tuple[Array, Array]
) -> Array:
    """First point of the grid where the gain is gone, by member and by quantile of the discrepancy."""
    whole = law.voice.ensemble
    assert whole is not None and row.teacher is not None
    ensemble = whole.take(np.linspace(0, whole.size - 1, min(whole.size, _MEMBERS)).astype(int))
    n = np.full((1, 1), np.log(row.student_params))
    d = [np.log(effective_tokens(situation, one))[None] for one in tokens]
    t = teacher_losses(ensemble, situation, law.scale.teacher_on_law_text(row.teacher))[:, None]
    supervised = np.exp(ensemble.log_supervised(n, d[0]))
    distilled = np.exp(ensemble.log_distilled(n, d[1], t))
    shifts = law.sd * np.array([NormalDist().inv_cdf((k + 0.5) / QUANTILES) for k in range(QUANTILES)])
    gains = law.scale.ratio * (supervised - distilled)[:, None, :] + shifts[:, None]
    return crossings(grid, gains.reshape(-1, len(grid)))
