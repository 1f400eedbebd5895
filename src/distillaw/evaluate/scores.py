"""A benchmark's score with what it takes to read it: standard error, interval, what guessing would score.

The standard error is that of a mean over questions that are a sample of such questions, clustered where several share
a passage (Miller 2024, arXiv:2411.00640, section 2). A score whose interval holds what guessing scores tells nothing
about the model: it is marked, and no ranking should use it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from distillaw.evaluate.benchmarks import SUITE
from distillaw.runs.paired import clustered_se

Z = 1.959963984540054
"""Of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkScore:
    """One benchmark's result; `evaluation.json` holds these keys."""

    score: float
    """Mean over questions, in shares of 1."""
    se: float
    interval: tuple[float, float]
    """95 %: Wilson's for right or wrong answers, else normal."""
    n: int
    """Questions asked."""
    available: int
    """Questions there are."""
    shots: int
    metric: str
    chance: float
    """What guessing scores."""
    near_chance: bool
    """Whether the interval reaches down to chance: the score cannot be told from guessing."""
    clusters: int
    """Independent groups of questions."""
    truncated: int
    """Prompts that the model's context could not hold; their beginning, the examples, was cut off."""
    other: dict[str, float] = field(default_factory=dict)
    """Means of the task's further metrics."""
    subtasks: dict[str, dict[str, float]] = field(default_factory=dict)
    """Score and n of each subtask, where there are several."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As stored."""
        return asdict(self)


def mean_and_se(values: Sequence[float], clusters: Sequence[object]) -> tuple[float, float]:
    """Mean over questions and its clustered standard error.

    Args:
        values: one per question.
        clusters: which group each belongs to; all different: sd / sqrt(n).

    Raises:
        DataError: fewer than two groups.
    """
    places = {each: i for i, each in enumerate(dict.fromkeys(clusters))}
    sums, sizes = np.zeros(len(places)), np.zeros(len(places), np.int64)
    where = [places[each] for each in clusters]
    np.add.at(sums, where, values)
    np.add.at(sizes, where, 1)
    return float(sums.sum() / sizes.sum()), clustered_se(sums, sizes)


def interval_of(score: float, se: float, values: Sequence[float], clusters: int) -> tuple[float, float]:
    """95 % interval of a mean.

    Wilson's (1927) where every value is 0 or 1 and questions are independent, or where all are alike: it does not
    shrink to nothing at 0 and 1.
    """
    if se > 0 and (clusters < len(values) or any(value not in (0.0, 1.0) for value in values)):
        return score - Z * se, score + Z * se
    n = clusters
    centre = (score + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(score * (1 - score) / n + Z**2 / (4 * n**2))
    return 0.0 if score == 0 else float(centre - half), 1.0 if score == 1 else float(centre + half)


def mean_of_suite(scores: Mapping[str, Mapping[str, object]]) -> dict[str, object] | None:
    """The plain mean of the six benchmarks of the suite, or None if one is missing.

    y = sum_i s_i / 6,  se = sqrt(sum_i se_i^2) / 6          (six independent sets of questions)
    """
    if any(task not in scores for task in SUITE):
        return None
    six = [scores[task] for task in SUITE]
    values, errors = ([float(each[key]) for each in six] for key in ("score", "se"))  # type: ignore[arg-type]
    return {
        "score": float(np.mean(values)),
        "se": float(np.sqrt(np.sum(np.square(errors))) / len(six)),
        "tasks": list(SUITE),
        "near_chance": [task for task in SUITE if scores[task]["near_chance"]],
    }
