"""What published laws say of a situation: a rough and doubtful band, put together openly.

They bring no draws that can be trusted, so their doubt is the spread between the three surrogate sets (spec
laws.md section 8), 1 % of the loss for what the form misses and for carrying it to other text, and 1 % of the
loss times the square of the e-folds outside the fitted range. `busbridge2025` (Table 6 verbatim) contradicts its
own paper's planning figures and never carries a verdict.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from distillaw.errors import ConfigError
from distillaw.laws.published import PublishedLaw, laws_available, published
from distillaw.laws.supervised import SupervisedLaw
from distillaw.planning.crossover import Crossover, band_of, crossings
from distillaw.planning.evidence import OUT_OF_RANGE, Evidence, Interval, law_strategy
from distillaw.planning.gains import DRAWS, GainPosterior
from distillaw.planning.situation import Situation, Teacher
from distillaw.quantities import format_count

Array = np.ndarray
Plans = Sequence[tuple[Teacher, float]]
"""Teachers with the tokens that the student can be given from each."""

SURROGATES = ("surrogate-s1", "surrogate-s2", "surrogate-s3")
FORM_ERROR = 0.01
"""What such a law misses of a gain on the user's own text and tokenizer, as a share of the loss: the papers report
fit errors of up to 1 % on their own."""
PER_EFOLD_SQUARED = 0.01
"""Further error per squared e-fold outside the fitted range, as a share of the loss. A guess on the wide side."""
FAR = math.log(3)
"""Further outside than this factor and a law may not carry a verdict."""
LADDER = (1, 2, 4, 8, 16)
"""Teacher sizes in units of the student's, considered where the user names none."""
LADDER_RATIO = 20.0
"""Tokens per parameter of such teachers: about compute-optimal."""


def teacher_ladder(student_params: float) -> tuple[Teacher, ...]:
    """Compute-optimal teachers from the student's size upwards, none of which exists."""
    return tuple(
        Teacher(name=f"{format_count(k * student_params)} teacher", params=k * student_params,
                tokens=LADDER_RATIO * k * student_params, exists=False)
        for k in LADDER
    )  # fmt: skip


def published_evidence(
    situation: Situation,
    teachers: Sequence[Teacher],
    *,
    level: float,
    rng: np.random.Generator,
    law: str | None,
) -> list[Evidence]:
    """The surrogates together as one voice, and each published distillation law by itself.

    Args:
        situation: the question.
        teachers: candidates; a loss that is not known is estimated by each law from size and tokens.
        level: of the intervals.
        rng: source of the draws.
        law: a published law that the user wants to decide by; it then comes first.
    """
    names = [n for n in laws_available() if published(n).distillation is not None and n not in SURROGATES]
    voices = [("surrogates S1-S3 (not published)", "surrogate", list(SURROGATES))]
    voices += [(n, "published", [n]) for n in names]
    if law is not None:
        if published(law).distillation is None:
            raise ConfigError(
                f"law {law!r} has no distillation part; laws that do: {', '.join([*SURROGATES, *names])}"
            )
        kind = "published" if published(law).record.published else "surrogate"
        voices = [(law, kind, [law])] + [v for v in voices if v[0] != law]
    return [
        _published_voice(situation, teachers, source, kind, members, level, rng)
        for source, kind, members in voices
    ]


def _published_voice(
    situation: Situation, teachers: Sequence[Teacher], source: str, kind: str, members: Sequence[str], level: float,
    rng: np.random.Generator,
) -> Evidence:  # fmt: skip
    laws = [published(name) for name in members]
    warnings = tuple(f"{law.name}: {law.warnings[0]}" for law in laws if law.warnings)[
        : 1 if len(laws) > 1 else None
    ]
    plans = [(t, d) for t in teachers if (d := situation.tokens_for(t)) is not None]
    own = situation.tokens_for(None)
    if not plans or own is None:
        return Evidence(
            source=source,
            kind=kind,
            status="NO_TEACHER",
            note="no teacher can be paid for",
            warnings=warnings,
        )
    table = _losses(laws, situation, plans, own)
    outside, lines = _outside(laws[0], situation, plans, own, table["teacher"][0])
    scale = float(table["alone"].mean())
    sd = scale * math.hypot(FORM_ERROR, PER_EFOLD_SQUARED * outside**2)
    pick = rng.integers(len(laws), size=DRAWS)
    draws = (table["alone"][:, None] - table["distilled"])[pick] + rng.normal(0, sd, (DRAWS, 1))
    posterior = GainPosterior(draws=draws, estimate=draws.mean(0), se=draws.std(0))
    spread = sd * rng.normal(size=DRAWS)
    share = posterior.share_best()
    rows = tuple(
        law_strategy(situation, t, d, Interval.of(table["distilled"][pick, j] + spread, level),
                     teacher_loss=float(table["teacher"][:, j].mean()), gain=Interval.of(draws[:, j], level),
                     share_best=float(share[j]))
        for j, (t, d) in enumerate(plans)
    )  # fmt: skip
    refused = any(law.record.refuse_plan for law in laws)
    verdictable = not refused and outside <= FAR
    best = posterior.best
    return Evidence(
        source=source, kind=kind, status="REFUSED" if refused else _range_status(outside),
        note=_voice_note(refused, outside, lines), is_decisive=verdictable, inside_range=outside == 0,
        pretrain=law_strategy(situation, None, own, Interval.of(table["alone"][pick] + spread, level)),
        distil=rows, posterior=posterior, noise=0.0, warnings=(*warnings, *lines),
        crossover=_law_crossover(laws, situation, plans[best][1], table["teacher"][:, best], sd=sd, source=source,
                                 level=level),
        details={
            "efolds_outside": outside, "far_outside": outside > FAR,
            "laws": {law.name: {"pretrain": float(a), "distil": float(d[best])}
                     for law, a, d in zip(laws, table["alone"], table["distilled"], strict=True)},
        },
    )  # fmt: skip


def _range_status(outside: float) -> str:
    return "IN_RANGE" if outside == 0 else "NEAR_RANGE" if outside <= FAR else OUT_OF_RANGE


def _voice_note(refused: bool, outside: float, lines: Sequence[str]) -> str:
    if refused:
        return (
            "shown for comparison only: its printed coefficients contradict its own paper's planning figures"
        )
    if outside > FAR:
        factor = float(f"{math.exp(outside):.1g}")
        return f"a factor {factor:,.0f} outside its fitted range: whatever it says is a guess"
    return "within a factor 3 of its fitted range" if lines else "inside its fitted range"


def _losses(laws: Sequence[PublishedLaw], situation: Situation, plans: Plans, own: float) -> dict[str, Array]:
    """Losses by law: `alone` (laws,), `distilled` and `teacher` (laws, candidates), nats/token."""
    N = situation.student_params
    alone, distilled, teacher = [], [], []
    for law in laws:
        assert law.supervised is not None and law.distillation is not None
        at = [_teacher_loss(law.supervised, t) for t, _ in plans]
        alone.append(float(law.supervised(params=N, tokens=own)))
        distilled.append(
            law.distillation(student_params=N, student_tokens=[d for _, d in plans], teacher_loss=at)
        )
        teacher.append(at)
    return {"alone": np.array(alone), "distilled": np.array(distilled), "teacher": np.array(teacher)}


def _teacher_loss(law: SupervisedLaw, teacher: Teacher) -> float:
    """L_T as given, else what the law makes of the teacher's size and tokens."""
    if teacher.loss is not None:
        return teacher.loss
    assert teacher.params is not None and teacher.tokens is not None, "a Teacher has one or the other"
    return float(law.supervised(params=teacher.params, tokens=teacher.tokens))


def _outside(
    law: PublishedLaw, situation: Situation, plans: Plans, own: float, losses: Array
) -> tuple[float, list[str]]:
    """How many e-folds the question lies outside the fitted box in its worst coordinate, and in words."""
    assert law.distillation is not None and law.supervised is not None
    N = situation.student_params
    tokens = [own, *(d for _, d in plans)]
    box = law.distillation.range
    coords = {"student_params": [N], "student_tokens": tokens, "teacher_loss": list(losses)}
    coords["tokens_per_param"] = [d / N for d in tokens]
    worst = 0.0
    for name, low, high in box.bounds:
        for value in coords.get(name, []):
            # losses move by tenths where sizes move by decades: one e-fold of loss counts tenfold
            weight = 10.0 if name == "teacher_loss" else 1.0
            worst = max(worst, weight * math.log(low / value), weight * math.log(value / high))
    lines = box.complaints({k: np.array(v) for k, v in coords.items() if k != "tokens_per_param"} | {
        "tokens_per_param": np.array(coords["tokens_per_param"])})  # fmt: skip
    return worst, lines


def _law_crossover(
    laws: Sequence[PublishedLaw],
    situation: Situation,
    tokens: float,
    teacher_losses: Array,
    *,
    sd: float,
    source: str,
    level: float,
) -> Crossover:
    """Where the gain from one teacher vanishes under each law, shifted by the doubt of a gain, sd."""
    grid = tokens * np.geomspace(0.1, 1000, 81)
    N = situation.student_params
    shifts = sd * np.array([NormalDist().inv_cdf((k + 0.5) / 101) for k in range(101)])
    gains = []
    for law, loss in zip(laws, teacher_losses, strict=True):
        assert law.supervised is not None and law.distillation is not None
        taught = law.distillation(student_params=N, student_tokens=grid, teacher_loss=loss)
        gains.append(law.supervised(params=N, tokens=grid) - taught + shifts[:, None])
    crossed = crossings(grid, np.concatenate(gains))
    return band_of(crossed, (float(grid[0]), float(grid[-1])), source, level)
