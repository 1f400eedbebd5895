"""Where pretraining catches up with one distillation, in tokens and in compute, under every law that may decide.

Student and teacher stay what they are; the budget grows. Each law gives one crossing per member and per quantile of its
discrepancy, laws count alike, and the band is over all of them: where they disagree it is wide.

Beside baselines of the user's own the scale of the text, and how far below its range a law is asked, change with the
budget. There the law is asked anew at every budget, its points give the crossings, and the search ends where nothing
of the kind was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from distillaw.laws.base import Array
from distillaw.planning import draws
from distillaw.planning.bills import student_tokens_worth, tokens_on
from distillaw.planning.evidence import FAR_OUTSIDE, Crossover, Evidence, Strategy, band_of, crossings
from distillaw.planning.law_evidence import law_evidence
from distillaw.planning.options import Option, teacher_losses
from distillaw.planning.situation import Situation, forward_flop
from distillaw.planning.text_scale import TextScale
from distillaw.planning.voices import Voice

_SPAN = (0.1, 1000.0)
"""Budgets searched, in units of the present one."""
_POINTS, QUANTILES, _MEMBERS = 81, 21, 40
"""Budgets on the grid, 20 a decade and so far closer than any band is wide; quantiles of the discrepancy; members of an
ensemble: each crossing is a draw, of which a band has at least 840."""
_FEW_POINTS = 21
"""The same where a law is asked anew at each budget, at a few milliseconds each: five a decade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """A law that decides."""

    voice: Voice
    sd: float
    """Standard deviation of a gain, nats/token of the user's text."""
    scale: TextScale


def law_crossovers(
    situation: Situation, voices: Sequence[Voice], witnesses: Sequence[Evidence], row: Strategy, *, level: float
) -> tuple[Crossover | None, Crossover | None]:
    """Bands of one distillation in tokens (equal tokens) and in FLOP (equal bills), by the witnesses that are laws.

    None where no law decides or the bill is unknown.
    """
    asked = {v.source: v for v in voices}
    those = [e for e in witnesses if e.source in asked]
    laws = [_Judge(voice=asked[e.source], sd=e.number("doubt"), scale=TextScale.of(e)) for e in those]
    if not laws or row.teacher is None:
        return None, None
    budgets = np.geomspace(*_SPAN, _FEW_POINTS if any(law.scale.by_baseline for law in laws) else _POINTS)
    tokens = row.student_tokens * budgets
    by_tokens = _band(situation, laws, row, tokens, (tokens, tokens), level)
    total = row.compute["total"]
    if total is None:
        return by_tokens, None
    compute = total * budgets
    student = forward_flop(situation, row.student_params)
    own, distilled = (tokens_on(situation, compute, student, teacher) for teacher in (None, row.teacher))
    pays = (own > 0) & (distilled > 0)
    return by_tokens, _band(situation, laws, row, compute[pays], (own[pays], distilled[pays]), level)


def _band(
    situation: Situation, laws: Sequence[_Judge], row: Strategy, grid: Array, tokens: tuple[Array, Array], level: float
) -> Crossover | None:
    gains = [_gains(situation, law, row, tokens, level) for law in laws]
    known = np.flatnonzero(np.all([np.isfinite(g).all(0) for g in gains], axis=0))
    if len(known) < 2:
        return None
    around = max(np.split(known, np.flatnonzero(np.diff(known) > 1) + 1), key=len)
    grid, gains = grid[around], [g[:, around] for g in gains]
    crossed = [crossings(grid, g) for g in gains]
    fewest = min(len(c) for c in crossed)
    alike = [np.quantile(c, (np.arange(fewest) + 0.5) / fewest, method="inverted_cdf") for c in crossed]
    source = " and ".join(law.voice.source for law in laws)
    return band_of(np.concatenate(alike), (float(grid[0]), float(grid[-1])), source, level)


def _gains(situation: Situation, law: _Judge, row: Strategy, tokens: tuple[Array, Array], level: float) -> Array:
    """Gains (draws, budgets), nats/token; nan where the law knows nothing."""
    if law.scale.by_baseline:
        return _asked_anew(situation, law, row, tokens, level)
    whole = law.voice.ensemble
    assert whole is not None and row.teacher is not None
    ensemble = whole.take(np.linspace(0, whole.size - 1, min(whole.size, _MEMBERS)).astype(int))
    n = np.full((1, 1), np.log(row.student_params))
    alone, taught = tokens
    d = [
        np.log(student_tokens_worth(situation, one, taught=is_taught))[None]
        for one, is_taught in ((alone, False), (taught, True))
    ]
    t = teacher_losses(ensemble, situation, law.scale.teacher_on_law_text(row.teacher))[:, None]
    supervised = np.exp(ensemble.log_supervised(n, d[0]))
    distilled = np.exp(ensemble.log_distilled(n, d[1], t))
    shifts = law.sd * np.array([NormalDist().inv_cdf((k + 0.5) / QUANTILES) for k in range(QUANTILES)])
    gains = law.scale.ratio * (supervised - distilled)[:, None, :] + shifts[:, None]
    return gains.reshape(-1, gains.shape[-1])


def _asked_anew(situation: Situation, law: _Judge, row: Strategy, tokens: tuple[Array, Array], level: float) -> Array:
    """The same where scale and doubt depend on the budget."""
    found = np.full((draws.POINTS, len(tokens[0])), np.nan)
    for k, (alone, taught) in enumerate(zip(*tokens, strict=True)):
        own = Option(kind="pretrain", student_params=row.student_params, student_tokens=float(alone))
        both = own, replace(own, kind=row.kind, student_tokens=float(taught), teacher=row.teacher)
        evidence = law_evidence(situation, law.voice, both, level=level)
        if evidence.posterior is not None and not evidence.details[FAR_OUTSIDE]:
            found[:, k] = evidence.posterior.draws[:, 0]
    return found
