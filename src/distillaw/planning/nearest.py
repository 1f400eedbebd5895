"""Published outcomes nearest to a question: what happened when somebody asked much the same.

    distance^2 = sum over what both sides know of (difference / scale)^2 / how much of it they know

Sizes and tokens count by their logarithms. What is not known of an outcome says nothing for or against it, but an
outcome must know the student's size or the ratio of teacher to student.
"""

import math
from dataclasses import dataclass

from distillaw.outcomes.table import Outcome, read_outcomes
from distillaw.planning.evidence import Strategy
from distillaw.planning.situation import Situation
from distillaw.quantities import format_count

SHOWN = 5
"""Outcomes, at most one of a source and comparison: rows of one table tell much the same."""
FEWEST = 3
FARTHEST = 2.0
"""Distance beyond which no more than `FEWEST` are shown."""
SCALES = {"params": math.log(10), "per_param": math.log(10), "ratio": math.log(4), "passes": math.log(4)}
"""E-folds that count as one: an order of magnitude of student and of tokens per parameter, four times the teacher or
the passes over the text. Judged, as are those below: they order what is shown and move no probability."""
OTHER = {"start": 2.0, "cut": 1.0, "budget": 1.0}
"""What another start, truncated targets on one side only, and another budget (equal FLOP or tokens) count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What makes an outcome near to a question; None where nobody said."""

    params: float | None
    """Of the student, non-embedding."""
    per_param: float | None
    """Training tokens per parameter."""
    ratio: float | None
    """Parameters of the teacher over the student's."""
    passes: float | None
    """Over the distinct tokens."""
    start: str
    cut: bool
    """Whether targets leave out a part of the vocabulary."""
    budget: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published outcome beside the question."""

    row: Outcome
    distance: float
    agrees: bool | None
    """With the verdict; None where that is too close to call."""

    @property
    def question(self) -> str:
        """What was compared, in words."""
        row = self.row
        sizes = {"student": row.student_params, "teacher": row.teacher_params, "tokens": row.tokens_a}
        known = [f"{name} {format_count(value)}" for name, value in sizes.items() if value is not None]
        start = [f"start {row.start}"] if row.start else []
        return ", ".join([row.comparison.replace("-", " "), *known, *start])

    @property
    def outcome(self) -> str:
        """Who won, and by how much."""
        row = self.row
        who = {"A": "distilling won", "B": "training alone won", "tie": "a tie"}[row.winner]
        if row.gain is None:
            return who
        unit = f"{abs(row.gain):.3g} nats" if row.is_loss else f"{abs(row.gain):.3g} points"
        return f"{who}, {unit} ({row.metric_kind.replace('_', ' ')})"

    def to_json(self) -> dict[str, object]:
        """A row of `nearest` in `distillaw plan --json`."""
        return {
            "id": self.row.id,
            "source": self.row.source,
            "question": self.question,
            "outcome": self.outcome,
            "winner": self.row.winner,
            "distance": self.distance,
            "agrees": self.agrees,
        }


def nearest(situation: Situation, best: Strategy, verdict: str) -> list[Case]:
    """Three to five published outcomes of distilling against training alone, nearest to the best distillation first."""
    teacher, unique = best.teacher, situation.unique_tokens
    asked = Features(
        params=best.student_params,
        per_param=best.student_tokens / best.student_params,
        ratio=None if teacher is None or teacher.params is None else teacher.params / best.student_params,
        passes=1.0 if unique is None else max(best.student_tokens / unique, 1.0),
        start=situation.start,
        cut=situation.recipe.is_truncated,
        budget=situation.comparison,
    )
    found = []
    for row in read_outcomes():
        if row.says_of_distilling and (away := _distance(asked, features(row))) is not None:
            won = {"A": "distil", "B": "pretrain"}.get(row.winner)
            agrees = None if verdict == "too-close" else won == verdict
            found.append(Case(row=row, distance=away, agrees=agrees))
    apart: dict[tuple[str, str], Case] = {}
    for case in sorted(found, key=lambda case: (case.distance, case.row.id)):
        apart.setdefault((case.row.source, case.row.comparison), case)
    shown = list(apart.values())[:SHOWN]
    return [case for i, case in enumerate(shown) if i < FEWEST or case.distance < FARTHEST]


def features(row: Outcome) -> Features:
    """What of an outcome a question is compared with."""
    size, tokens, teacher = row.student_params, row.tokens_a, row.teacher_params
    by_compute = row.comparison.endswith(("equal-flop", "equal-time"))
    return Features(
        params=size,
        per_param=None if size is None or tokens is None else tokens / size,
        ratio=None if size is None or teacher is None else teacher / size,
        passes=None if tokens is None or row.unique_tokens is None else tokens / row.unique_tokens,
        start=row.start or "random",
        cut=row.top_k is not None or row.top_p is not None,
        budget="equal-compute" if by_compute else "equal-tokens",
    )


def _distance(asked: Features, row: Features) -> float | None:
    """None where nothing of the row's sizes is known."""
    if row.params is None and row.ratio is None:
        return None
    pairs = ((getattr(asked, name), getattr(row, name), scale) for name, scale in SCALES.items())
    squares = [
        (math.log(own / theirs) / scale) ** 2 for own, theirs, scale in pairs if own is not None and theirs is not None
    ]
    other = sum(weight**2 for name, weight in OTHER.items() if getattr(asked, name) != getattr(row, name))
    known = len(squares) / len(SCALES)
    return math.sqrt(sum(squares) / known / len(SCALES) + other + (1 - known))
