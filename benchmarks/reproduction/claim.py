"""One claim of a paper beside what our code gives: numbers by coefficient set, a rule, a verdict by that rule.

A claim is judged by a function of the numbers, never by hand. `None` from the judge means that it cannot be decided.
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from distillaw.accounting.family import FixedAspect
from distillaw.laws.distillation import DistillationLaw
from distillaw.laws.ensemble import LawEnsemble
from distillaw.laws.published import published
from distillaw.laws.supervised import SupervisedLaw

SETS = {"printed": "busbridge2025", "S1": "surrogate-s1", "S2": "surrogate-s2", "S3": "surrogate-s3"}
"""Column of the page -> name of the law."""
AGREES, DISAGREES, UNDECIDED = "agrees", "disagrees", "cannot be decided"
FORWARD = FixedAspect().forward_flops
"""F(N), FLOP per token, of the paper's family."""
EVERY_TEACHER = {"low": 1.2201, "high": 4.0}
"""Teacher losses searched: from the irreducible loss up."""


@dataclass(frozen=True, kw_only=True)
class LawSet:
    """One set of coefficients."""

    name: str
    law: DistillationLaw
    supervised: SupervisedLaw
    ensemble: LawEnsemble

    def distilled(self, *, size, tokens, teacher, teacher_tokens) -> np.ndarray:
        """L_S from a teacher of this size and tokens."""
        quality = self.supervised(params=teacher, tokens=teacher_tokens)
        return self.law(student_params=size, student_tokens=tokens, teacher_loss=quality)

    def best(self, *, size, tokens):
        """The best teacher loss of all, and the student's loss with it."""
        return self.law.optimal_teacher_loss(student_params=size, student_tokens=tokens, **EVERY_TEACHER)


def law_sets() -> dict[str, LawSet]:
    """The printed set and the surrogates, by column."""
    found = {}
    for column, name in SETS.items():
        law = published(name)
        assert isinstance(law.distillation, DistillationLaw) and law.supervised is not None
        pair = (law.supervised, law.distillation)
        found[column] = LawSet(name=name, law=pair[1], supervised=pair[0], ensemble=LawEnsemble.of([pair]))
    return found


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says, what we get, and how that was judged."""

    key: str
    says: str
    where: str
    """Section, table or figure of the paper; `by hand` for a figure that we computed before there was code."""
    certainty: str
    """paper, figure, secondary, or spec."""
    theirs: str
    rule: str
    """When it counts as agreeing."""
    values: dict[str, list[float]]
    shown: dict[str, str]
    verdict: dict[str, str]
    note: str = ""

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


Show = Callable[..., str]
Judge = Callable[..., bool | None]
WORDS = tomllib.loads((Path(__file__).parent / "claims.toml").read_text(encoding="utf-8"))
"""Claims in words, by key: says, where, certainty, theirs, rule, note."""


def by_set(
    sets: dict[str, LawSet], key: str, *, measure: Callable[[LawSet], Sequence[float]], show: Show, judge: Judge
) -> Claim:
    """A claim about each set of coefficients.

    Args:
        sets: from `law_sets`.
        key: its words in claims.toml.
        measure: our numbers for one set; nan where there is none.
        show: text of the numbers.
        judge: True, False, or None, of the numbers.
    """
    values = {column: [float(v) for v in measure(one)] for column, one in sets.items()}
    return Claim(
        key=key,
        **WORDS[key],
        values=values,
        shown={c: show(*v) for c, v in values.items()},
        verdict={c: _verdict(judge(*v)) for c, v in values.items()},
    )


def single(
    key: str, *, ours: Sequence[float] = (), show: Show = lambda *_: "-", judge: Judge = lambda *_: None
) -> Claim:
    """A claim that no distillation coefficient enters; without numbers it cannot be decided."""
    values = [float(v) for v in ours]
    verdict = _verdict(judge(*values) if values else None)
    shown = show(*values) if values else "-"
    return Claim(key=key, **WORDS[key], values={"ours": values}, shown={"ours": shown}, verdict={"ours": verdict})


def near(expected: Sequence[float], *, abs_: float = 0.0, rel: float = 0.0) -> Judge:
    """Every number within a tolerance of the one printed."""

    def judge(*values: float) -> bool:
        return all(abs(v - e) <= abs_ + rel * abs(e) for v, e in zip(values, expected, strict=True))

    return judge


def form(pattern: str, *, scale: float = 1.0) -> Show:
    """Numbers in one format, separated by ` / `; `none` for one that does not exist."""

    def show(*values: float) -> str:
        return " / ".join("none" if np.isnan(v) else pattern.format(v * scale) for v in values)

    return show


def _verdict(found: bool | None) -> str:
    return UNDECIDED if found is None else AGREES if found else DISAGREES
