"""Frozen predictions against what was measured: hit or miss, error, and whether the files can be trusted.

The measurement of a design point is the mean over its seeds, compared with the interval of a single run: with several
seeds the intervals are a little too wide, never too narrow. A gain is paired over the seeds that both arms have. Sums
over predictions are in scorecard.py.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from distillaw.errors import CacheError
from distillaw.verifying.design_points import Measurement, TableRun, measure, read_runs
from distillaw.verifying.frozen import (
    Frozen,
    FrozenChoice,
    FrozenPrediction,
    chain_problems,
    frozen_files,
    point_json,
    predictions_folder,
    read_frozen,
)

SCORED, PENDING, AFTER, UNUSABLE = "scored", "pending", "after the fact", "unusable"
_CHANGED = 1e-9
"""Share by which a known loss may differ from what it was: rounding of text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One prediction with what came of it."""

    study: str
    frozen: str
    """First digits of the file's hash."""
    prediction: FrozenPrediction
    level: float
    status: str
    """`scored`; or `pending`, `after the fact`, `unusable`, which never count."""
    measured: float = math.nan
    """Mean over seeds, nats/token."""
    num_seeds: int = 0
    scale: float = math.nan
    """Loss of which errors are given as a share: the measured one; without a teacher, for a gain."""
    problem: str = ""

    @property
    def counts(self) -> bool:
        """Whether it enters sums."""
        return self.status == SCORED

    @property
    def interval(self) -> tuple[float, float] | None:
        """At the level of the file."""
        return self.prediction.intervals.get(self.level)

    @property
    def error(self) -> float:
        """Predicted minus measured, nats/token."""
        return self.prediction.mean - self.measured

    @property
    def share(self) -> float:
        """The same as a share of the loss."""
        return self.error / self.scale

    def is_hit(self, level: float | None = None) -> bool | None:
        """Whether the interval held; None without one."""
        ends = self.prediction.intervals.get(self.level if level is None else level)
        return None if ends is None else bool(ends[0] <= self.measured <= ends[1])

    @property
    def z(self) -> float | None:
        """Measured minus predicted in standard deviations."""
        if self.interval is None:
            return None
        return surprise(self.prediction.mean, *self.interval, self.measured, level=self.level)

    @property
    def interval_score(self) -> float | None:
        """Winkler's, as a share of the loss."""
        if self.interval is None:
            return None
        return interval_score(*self.interval, self.measured, level=self.level) / self.scale

    @property
    def factor_beyond(self) -> float:
        """By which factor size or tokens, whichever is farther, lie outside the fitted range; 1 inside."""
        names = ("student_params", "student_tokens")
        return math.exp(max((self.prediction.efolds_outside.get(name, 0.0) for name in names), default=0.0))

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; null for what is not known yet."""
        known = math.isfinite(self.measured)
        return {
            "study": self.study,
            "frozen": self.frozen,
            **self.prediction.to_json(),
            "level": self.level,
            "status": self.status,
            "problem": self.problem or None,
            "num_seeds": self.num_seeds,
            "measured": self.measured if known else None,
            "error": self.error if known else None,
            "error_share": self.share if known else None,
            "is_hit": self.is_hit() if known else None,
            "z": self.z if known else None,
            "interval_score": self.interval_score if known else None,
            "factor_beyond": self.factor_beyond,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChoice:
    """One choice of a teacher with what came of it."""

    study: str
    choice: FrozenChoice
    status: str
    losses: Sequence[float] = ()
    """Measured, by teacher."""

    @property
    def counts(self) -> bool:
        """Whether it enters sums."""
        return self.status == SCORED

    @property
    def is_hit(self) -> bool:
        """Whether the likeliest teacher was the best."""
        return self.choice.best == int(np.argmin(self.losses))

    @property
    def probability(self) -> float:
        """Of the likeliest teacher."""
        return self.choice.probabilities[self.choice.best]

    @property
    def regret(self) -> float:
        """Loss of its student over that of the best, nats/token."""
        return self.losses[self.choice.best] - min(self.losses)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "study": self.study,
            **self.choice.to_json(),
            "status": self.status,
            "measured": list(self.losses) or None,
            "is_hit": self.is_hit if self.counts else None,
            "regret": self.regret if self.counts else None,
            "chosen": point_json(self.choice.points[self.choice.best]),
            "probability": self.probability,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyScore:
    """All frozen predictions of one study."""

    name: str
    source: Path
    files: Sequence[Frozen]
    problems: Sequence[str]
    """Tampered or dropped files, changed runs."""
    predictions: Sequence[Scored]
    choices: Sequence[ScoredChoice]

    @property
    def is_sound(self) -> bool:
        """Whether every file is intact and the chain is whole."""
        return not chain_problems(self.files)


def score_study(source: str | Path) -> StudyScore:
    """Compare the frozen predictions of a study folder or table with its runs.

    Raises:
        CacheError: nothing is frozen there, or a file cannot be read.
        DataError: the runs cannot be read.
    """
    source = Path(source)
    folder = predictions_folder(source)
    files = read_frozen(folder)
    if not files:
        raise CacheError(f"{folder}: nothing is frozen there; `distillaw verify freeze {source}` does it")
    runs = read_runs(source, columns=files[-1].document.get("columns"))
    name = source.resolve().name
    predictions: list[Scored] = []
    choices: list[ScoredChoice] = []
    for one in files:
        if one.is_intact:
            predictions += [_score(name, one, p, runs) for p in one.predictions]
            choices += [_score_choice(name, c, runs, one.known) for c in one.choices]
    problems = [*chain_problems(files), *_changed_runs(files, runs)]
    return StudyScore(
        name=name, source=source, files=files, problems=problems, predictions=predictions, choices=choices
    )


def find_sources(places: Sequence[str | Path]) -> list[Path]:
    """The studies and tables with frozen predictions among some places: themselves, or up to two folders below.

    Raises:
        CacheError: a place that does not exist, or holds none.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        if not place.exists():
            raise CacheError(
                f"{place}: no such study folder or table of runs; give one whose predictions were frozen"
            )
        own = _sources_below(place)
        if not own:
            raise CacheError(
                f"{place}: no frozen predictions there or below; `distillaw verify freeze` makes them"
            )
        found |= {source.resolve(): source for source in own}
    return list(found.values())


def _sources_below(place: Path) -> list[Path]:
    if frozen_files(predictions_folder(place)):
        return [place]
    studies = [
        folder.parent
        for depth in ("*", "*/*")
        for folder in sorted(place.glob(f"{depth}/predictions"))
        if frozen_files(folder)
    ]
    tables = [
        folder.parent / str(read_frozen(folder)[0].document["table"])
        for pattern in ("*.predictions", "*/*.predictions")
        for folder in sorted(place.glob(pattern))
        if frozen_files(folder)
    ]
    return studies + tables


def _score(study: str, one: Frozen, prediction: FrozenPrediction, runs: Sequence[TableRun]) -> Scored:
    found = _measured(prediction, runs)
    status, problem = _status(found, one.known)
    if prediction.after_the_fact:
        status = AFTER
    loss = math.nan if not found or problem else _value(prediction, found)
    if math.isnan(loss) and status == SCORED:
        status, problem = UNUSABLE, "the arms with and without a teacher share no seed"
    seeds = 0 if not found else min(len(m.by_seed) for m in found)
    scale = found[-1].loss if found else math.nan
    return Scored(
        study=study,
        frozen=one.hash[:10],
        prediction=prediction,
        level=one.level,
        status=status,
        measured=loss,
        num_seeds=seeds,
        scale=scale,
        problem=problem,
    )


def _measured(prediction: FrozenPrediction, runs: Sequence[TableRun]) -> list[Measurement] | None:
    """The measurement of the design point, followed by that without a teacher for a gain; None while one is missing."""
    points = (
        [prediction.point]
        if prediction.quantity == "loss"
        else [prediction.point, prediction.point.supervised]
    )
    found = [measure(point, runs) for point in points]
    return None if any(m is None for m in found) else [m for m in found if m is not None]


def _status(found: Sequence[Measurement] | None, before: Mapping[str, object]) -> tuple[str, str]:
    if found is None:
        return PENDING, ""
    if problem := next((m.problem for m in found if m.problem), ""):
        return UNUSABLE, problem
    if any(run.run_id in before for run in found[0].runs):
        return AFTER, "a run of this cell is among those known when it was frozen"
    return SCORED, ""


def _value(prediction: FrozenPrediction, found: Sequence[Measurement]) -> float:
    if prediction.quantity == "loss":
        return found[0].loss
    own, supervised = (m.by_seed for m in found)
    common = sorted(own.keys() & supervised.keys())
    return float(np.mean([supervised[s] - own[s] for s in common])) if common else math.nan


def _score_choice(
    study: str, choice: FrozenChoice, runs: Sequence[TableRun], before: Mapping[str, object]
) -> ScoredChoice:
    found = [measure(point, runs) for point in choice.points]
    there = None if any(m is None for m in found) else [m for m in found if m is not None]
    states = [_status([m], before)[0] for m in there or ()]
    if choice.after_the_fact or AFTER in states:
        status = AFTER
    else:
        status = PENDING if there is None else UNUSABLE if UNUSABLE in states else SCORED
    losses = [m.loss for m in there] if there is not None and status == SCORED else []
    return ScoredChoice(study=study, choice=choice, status=status, losses=losses)


def _changed_runs(files: Sequence[Frozen], runs: Iterable[TableRun]) -> list[str]:
    """Runs that were known when something was frozen and have another loss now, or are gone."""
    now = {run.run_id: run.loss for run in runs}
    then = {run_id: loss for one in files if one.is_intact for run_id, loss in one.known.items()}
    changed = [
        (run_id, loss, now[run_id])
        for run_id, loss in then.items()
        if run_id in now and loss is not None and not abs(now[run_id] - loss) <= _CHANGED * abs(loss)
    ]
    found = []
    if changed:
        run_id, old, new = changed[0]
        found.append(
            f"ALTERED TABLE: {len(changed)} runs that were known when predictions were frozen have another loss now, "
            f"e.g. {run_id}: {old:.6g} then, {new:.6g} now. If the held-out text changed, errors mean nothing"
        )
    if gone := [run_id for run_id in then if run_id not in now]:
        found.append(
            f"ALTERED TABLE: {len(gone)} runs that predictions were made from are gone, e.g. {gone[0]}"
        )
    return found


def interval_score(lower: float, upper: float, value: float, *, level: float) -> float:
    """Width plus a penalty of 2 / (1 - level) for every unit that the value lies outside (Winkler 1972).

    Example:
        >>> round(interval_score(2.0, 3.0, 3.1, level=0.9), 6)
        3.0
    """
    return (upper - lower) + 2 / (1 - level) * (max(lower - value, 0.0) + max(value - upper, 0.0))


def surprise(mean: float, lower: float, upper: float, value: float, *, level: float) -> float:
    """Z: distance of the value from the mean in standard deviations of the side of the interval it lies on."""
    half = upper - mean if value >= mean else mean - lower
    sd = half / NormalDist().inv_cdf(0.5 + level / 2)
    return (value - mean) / sd if sd > 0 else math.copysign(math.inf, value - mean) if value != mean else 0.0
