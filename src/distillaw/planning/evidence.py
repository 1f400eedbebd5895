"""What one source says about a situation: losses of every strategy and a posterior over the gains.

A source is the study's paired runs, the study's fitted laws, or a published law. All speak the same language
here, so that decision.py can put them side by side and choose the one that may carry the verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distillaw.planning.crossover import Crossover
from distillaw.planning.gains import GainPosterior
from distillaw.planning.situation import Situation, Teacher

OUT_OF_RANGE = "OUT_OF_RANGE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its interval."""

    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, draws: np.ndarray, level: float) -> "Interval":
        """Mean and central interval of draws."""
        tail = 50 * (1 - level)
        lower, upper = np.percentile(draws, [tail, 100 - tail])
        return cls(mean=float(draws.mean()), lower=float(lower), upper=float(upper))

    def to_json(self) -> dict[str, float]:
        """`{mean, lower, upper}`."""
        return {"mean": self.mean, "lower": self.lower, "upper": self.upper}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to the student: alone, or from one teacher."""

    name: str
    teacher: Teacher | None
    student_params: float
    student_tokens: float
    compute: Mapping[str, float | None]
    """FLOP by part; `total` is what the cost scenario counts."""
    loss: Interval
    basis: str
    """`measured`, `interpolated`, `extrapolated` or `law`."""
    teacher_loss: float | None = None
    """As used: measured, given, or the law's estimate."""
    gain: Interval | None = None
    """Over pretraining alone; None for pretraining."""
    share_best: float | None = None
    """Probability that this teacher is the best of those considered."""
    run_ids: Sequence[str] = ()

    def to_json(self) -> dict[str, object]:
        """The row of interface.md, `plan`, with what it rests on."""
        return {
            "name": self.name,
            "teacher": None if self.teacher is None else self.teacher.to_json(),
            "student_params": self.student_params,
            "student_tokens": self.student_tokens,
            "teacher_params": None if self.teacher is None else self.teacher.params,
            "teacher_tokens": None if self.teacher is None else self.teacher.tokens,
            "teacher_loss": self.teacher_loss,
            "compute": dict(self.compute),
            "loss": self.loss.to_json(),
            "gain": None if self.gain is None else self.gain.to_json(),
            "probability_best_teacher": self.share_best,
            "basis": self.basis,
            "run_ids": list(self.run_ids),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One source's answer, or the reason why it has none."""

    source: str
    """As people call it, e.g. `paired runs of this study`."""
    kind: str
    """`measured`, `fitted`, `surrogate` or `published`."""
    status: str
    """One word: PAIRED, CONVERGED, TOO_FEW_RUNS, OUT_OF_RANGE, ..."""
    note: str
    """One sentence: what it rests on, or why it is silent."""
    is_decisive: bool = False
    """True if it may carry the verdict by itself."""
    inside_range: bool = False
    pretrain: Strategy | None = None
    distil: Sequence[Strategy] = ()
    """Aligned with the columns of `posterior`."""
    posterior: GainPosterior | None = None
    noise: float = 0.0
    """Standard error of the best candidate's gain, nats/token: the paired noise where runs were paired."""
    warnings: Sequence[str] = ()
    crossover: Crossover | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def speaks(self) -> bool:
        """True if it has numbers."""
        return self.posterior is not None

    @property
    def is_informative(self) -> bool:
        """False where the numbers are so far out of range that showing them would only mislead."""
        return self.speaks and self.status != OUT_OF_RANGE and not self.details.get("far_outside")

    @property
    def best(self) -> Strategy:
        """The candidate with the highest posterior gain."""
        assert self.posterior is not None
        return self.distil[self.posterior.best]

    @property
    def gain_draws(self) -> np.ndarray:
        """Draws of the best candidate's gain, nats/token."""
        assert self.posterior is not None
        return self.posterior.draws[:, self.posterior.best]


def law_strategy(
    situation: Situation, teacher: Teacher | None, tokens: float, loss: Interval, *, teacher_loss: float | None = None,
    gain: Interval | None = None, share_best: float | None = None,
) -> Strategy:  # fmt: skip
    """A row whose loss a law predicts."""
    return Strategy(
        name=strategy_name(teacher), teacher=teacher, student_params=situation.student_params,
        student_tokens=float(tokens), compute=situation.bill(teacher, tokens), loss=loss, basis="law",
        teacher_loss=teacher_loss, gain=gain, share_best=share_best,
    )  # fmt: skip


def strategy_name(teacher: Teacher | None) -> str:
    """`pretrain` or `distil from the 0.3M teacher`."""
    return "pretrain" if teacher is None else f"distil from the {teacher.name}"
