"""Frozen predictions against what was measured, and sums over them: who was right how often, and how far out it held.

The measurement of a design point is the mean over its seeds, compared with the interval of a single run: with several
seeds the intervals are a little too wide, never too narrow. A gain is paired over the seeds that both arms have. Proper
scores as in Gneiting & Raftery 2007 (J. Am. Stat. Assoc. 102:359): the interval score rewards narrow intervals that
hold, the Brier score probabilities that are right.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import attrgetter, itemgetter
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from distillaw.errors import CacheError, DistillawError
from distillaw.quantities import format_count
from distillaw.runs.paired import wilson_interval
from distillaw.table import Column, Table, number, text
from distillaw.verifying.frozen import (
    Frozen,
    FrozenChoice,
    FrozenPrediction,
    Measurement,
    PredictedPoint,
    TableRun,
    chain_problems,
    frozen_files,
    measure,
    point_json,
    predictions_folder,
    read_frozen,
    read_runs,
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
        ends, mean = self.interval, self.prediction.mean
        return None if ends is None else surprise(mean, *ends, self.measured, level=self.level)

    @property
    def interval_score(self) -> float | None:
        """Winkler's, as a share of the loss."""
        ends = self.interval
        return None if ends is None else interval_score(*ends, self.measured, level=self.level) / self.scale

    @property
    def factor_beyond(self) -> float:
        """By which factor size or tokens, whichever is farther, lie outside the fitted range; 1 inside."""
        names = ("student_params", "student_tokens")
        return math.exp(max((self.prediction.efolds_outside.get(name, 0.0) for name in names), default=0.0))

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; null for what is not known yet."""
        came = {
            "measured": self.measured,
            "error": self.error,
            "error_share": self.share,
            "is_hit": self.is_hit(),
            "z": self.z,
            "interval_score": self.interval_score,
        }
        return {
            "study": self.study,
            "frozen": self.frozen,
            **self.prediction.to_json(),
            "level": self.level,
            "status": self.status,
            "problem": self.problem or None,
            "num_seeds": self.num_seeds,
            **(came if math.isfinite(self.measured) else dict.fromkeys(came)),
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

    def to_json(self) -> dict[str, object]:
        """Plain JSON values, without the predictions."""
        files = []
        for one in self.files:
            stamps = {"hash": one.hash, "frozen_at": one.document.get("frozen_at")}
            files.append({"file": one.path.name, **stamps, "is_intact": one.is_intact})
        about = {"study": self.name, "source": str(self.source), "is_sound": self.is_sound}
        return {**about, "problems": list(self.problems), "files": files}


def score_study(source: str | Path) -> StudyScore:
    """Compare the frozen predictions of a study folder or table with its runs."""
    source = Path(source)
    folder = predictions_folder(source)
    files = read_frozen(folder)
    if not files:
        raise CacheError(f"{folder}: nothing is frozen there; `distillaw verify freeze {source}` does it")
    runs = read_runs(source, columns=files[-1].document.get("columns"))
    name = source.resolve().name
    intact = [one for one in files if one.is_intact]
    return StudyScore(
        name=name,
        source=source,
        files=files,
        problems=[*chain_problems(files), *_changed_runs(files, runs)],
        predictions=[_score(name, one, p, runs) for one in intact for p in one.predictions],
        choices=[_score_choice(name, c, runs, one.known) for one in intact for c in one.choices],
    )


def find_sources(places: Sequence[str | Path]) -> list[Path]:
    """The studies and tables with frozen predictions among some places: themselves, or up to two folders below."""
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        if not place.exists():
            raise CacheError(f"{place}: no such study folder or table of runs; give one whose predictions were frozen")
        own = _sources_below(place)
        if not own:
            raise CacheError(f"{place}: no frozen predictions there or below; `distillaw verify freeze` makes them")
        found |= {source.resolve(): source for source in own}
    return list(found.values())


def _sources_below(place: Path) -> list[Path]:
    if frozen_files(predictions_folder(place)):
        return [place]
    found = []
    for pattern in ("*/predictions", "*/*/predictions", "*.predictions", "*/*.predictions"):
        for folder in sorted(place.glob(pattern)):
            if frozen_files(folder) and folder.name == "predictions":
                found.append(folder.parent)
            elif frozen_files(folder):
                found.append(folder.parent / str(read_frozen(folder)[0].document["table"]))
    return found


def _score(study: str, one: Frozen, prediction: FrozenPrediction, runs: Sequence[TableRun]) -> Scored:
    # of a gain the measurement is followed by that without a teacher; nothing is measured while one is missing
    points = [prediction.point, *([prediction.point.supervised] if prediction.quantity != "loss" else [])]
    found = _measured(points, runs)
    status, problem = _status(found, one.known)
    if prediction.after_the_fact:
        status = AFTER
    loss = math.nan
    if found and not problem and prediction.quantity == "loss":
        loss = found[0].loss
    elif found and not problem:
        own, alone = (m.by_seed for m in found)
        if common := sorted(own.keys() & alone.keys()):
            loss = float(np.mean([alone[s] - own[s] for s in common]))
        elif status == SCORED:
            status, problem = UNUSABLE, "the arms with and without a teacher share no seed"
    return Scored(
        study=study,
        frozen=one.hash[:10],
        prediction=prediction,
        level=one.level,
        status=status,
        measured=loss,
        num_seeds=min((len(m.by_seed) for m in found or ()), default=0),
        scale=found[-1].loss if found else math.nan,
        problem=problem,
    )


def _measured(points: Sequence[PredictedPoint], runs: Sequence[TableRun]) -> list[Measurement] | None:
    """The measurements of all points; None while one is missing."""
    found = [m for point in points if (m := measure(point, runs)) is not None]
    return found if len(found) == len(points) else None


def _status(found: Sequence[Measurement] | None, before: Mapping[str, object]) -> tuple[str, str]:
    if found is None:
        return PENDING, ""
    if problem := next((m.problem for m in found if m.problem), ""):
        return UNUSABLE, problem
    if any(run.run_id in before for run in found[0].runs):
        return AFTER, "a run of this cell is among those known when it was frozen"
    return SCORED, ""


def _score_choice(
    study: str, choice: FrozenChoice, runs: Sequence[TableRun], before: Mapping[str, object]
) -> ScoredChoice:
    there = _measured(choice.points, runs) or []
    states = [_status([m], before)[0] for m in there]
    if choice.after_the_fact or AFTER in states:
        status = AFTER
    else:
        status = PENDING if not there else UNUSABLE if UNUSABLE in states else SCORED
    losses = [m.loss for m in there] if status == SCORED else []
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
        found.append(f"ALTERED TABLE: {len(gone)} runs that predictions were made from are gone, e.g. {gone[0]}")
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


CAVEATS = (
    "a cell's measurement is the mean over its seeds, the interval that of one run",
    "intervals of shares take predictions as independent; those of one law err together, so they are too narrow",
    "after-the-fact and tampered predictions never count; pending ones not yet",
)
FACTORS = (1.0, 2.0, 4.0, 10.0, math.inf)
"""Ends of the rows of error by distance: times the largest size or token budget fitted."""
SURENESS = (0.5, 0.7, 0.9, 1.0)
"""Ends of the rows of calibration of decisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """Predictions of one or several studies and what came of them."""

    studies: Sequence[StudyScore]
    unreadable: Sequence[str] = ()
    """Why studies could not be scored."""
    copies: Sequence[str] = ()
    """Studies whose files are counted already."""

    @property
    def predictions(self) -> list[Scored]:
        """Of all studies."""
        return [row for study in self.studies for row in study.predictions]

    @property
    def choices(self) -> list[ScoredChoice]:
        """Of all studies."""
        return [row for study in self.studies for row in study.choices]

    @property
    def is_sound(self) -> bool:
        """Whether every study could be scored and every file is intact."""
        return not self.unreadable and all(study.is_sound for study in self.studies)

    @property
    def counts(self) -> Mapping[str, int]:
        """Predictions by status."""
        states = [row.status for row in self.predictions]
        return {state: states.count(state) for state in (SCORED, PENDING, AFTER, UNUSABLE)}

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        rows = self.predictions
        return {
            "studies": [study.to_json() for study in self.studies],
            "unreadable": list(self.unreadable),
            "copies": list(self.copies),
            "is_sound": self.is_sound,
            "counts": dict(self.counts),
            "predictions": [row.to_json() for row in rows],
            "choices": [row.to_json() for row in self.choices],
            "forecasters": [asdict(one) for one in by_forecaster(rows)],
            "head_to_head": head_to_head(rows),
            "by_distance": by_distance(rows),
            "calibration": calibration(rows),
            "decisions": decisions(rows, self.choices),
            "caveats": list(CAVEATS),
        }


def score_places(places: Sequence[str | Path]) -> Scorecard:
    """The card of every study with frozen predictions among some places.

    Raises:
        ConfigError: a place that does not exist, or holds none.
    """
    studies: list[StudyScore] = []
    unreadable: list[str] = []
    copies: list[str] = []
    seen: set[str] = set()
    for source in find_sources(places):
        try:
            score = score_study(source)
        except DistillawError as error:
            unreadable.append(str(error))
            continue
        hashes = {one.hash for one in score.files}
        if hashes <= seen:
            copies.append(f"{source}: its files are those of another study here; they count once")
        else:
            studies.append(score)
        seen |= hashes
    return Scorecard(studies=studies, unreadable=unreadable, copies=copies)


# --- sums ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One forecaster on one quantity, or any other part of the predictions."""

    by: str
    quantity: str
    num: int
    """Scored predictions."""
    rms: float
    """Root mean square error, nats/token."""
    rms_share: float
    """The same as a share of the loss."""
    bias_share: float
    """Mean error as a share of the loss: positive where the loss came out lower than predicted."""
    num_intervals: int
    hits: int
    coverage: float | None
    coverage_interval: tuple[float, float] | None
    """Wilson's, 90 %, as if predictions were independent; those of one law err together, so it is too narrow."""
    width_share: float | None
    """Mean width of the intervals as a share of the loss: sharpness."""
    interval_score: float | None
    """Mean of Winkler's, as a share of the loss; lower is better."""


def tally(rows: Sequence[Scored], *, by: str, quantity: str) -> Tally:
    """Sums over rows that count."""
    spans = [(row, row.interval) for row in rows if row.interval is not None]
    hits = sum(bool(row.is_hit()) for row, _ in spans)
    scores = [row.interval_score for row, _ in spans]
    return Tally(
        by=by,
        quantity=quantity,
        num=len(rows),
        rms=_rms([row.error for row in rows]),
        rms_share=_rms([row.share for row in rows]),
        bias_share=float(np.mean([row.share for row in rows])),
        num_intervals=len(spans),
        hits=hits,
        coverage=hits / len(spans) if spans else None,
        coverage_interval=wilson_interval(hits / len(spans), len(spans)) if spans else None,
        width_share=float(np.mean([(u - low) / row.scale for row, (low, u) in spans])) if spans else None,
        interval_score=float(np.mean([s for s in scores if s is not None])) if spans else None,
    )


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


_FORECASTER = attrgetter("prediction.quantity", "prediction.by")


def by_forecaster(rows: Iterable[Scored]) -> list[Tally]:
    """One tally per forecaster and quantity, losses first, the sharpest honest one (by interval score) first."""
    found = [tally(part, by=by, quantity=quantity) for (quantity, by), part in _parts(rows, _FORECASTER)]
    return sorted(found, key=lambda t: (t.quantity != "loss", *_merit(t)))


def _merit(one: Tally) -> tuple[float, float]:
    """Sorts tallies: by interval score, those without intervals last and by error."""
    return math.inf if one.interval_score is None else one.interval_score, one.rms_share


def by_distance(rows: Iterable[Scored]) -> list[dict[str, object]]:
    """Error and coverage of losses by forecaster and distance: times the largest size or tokens that were fitted."""
    found = []
    losses = [row for row in rows if row.prediction.quantity == "loss"]
    for (by, k), part in _parts(losses, lambda r: (r.prediction.by, _distance(r.factor_beyond))):
        low, high = (1.0, 1.0) if k == 0 else (FACTORS[k - 1], FACTORS[k])
        sums = asdict(tally(part, by=by, quantity="loss"))
        found.append({"from": low, "to": high if math.isfinite(high) else None, **sums})
    return found


def _distance(factor: float) -> int:
    """0 inside the range, else the number of the row."""
    if factor <= 1 + 1e-9:
        return 0
    return next(k for k in range(1, len(FACTORS)) if factor <= FACTORS[k] * (1 + 1e-9))


def head_to_head(rows: Iterable[Scored]) -> list[dict[str, object]]:
    """Who predicted best, on the design points that all of them predicted: losses without and with a teacher, gains."""
    found = []
    kinds = _parts(rows, lambda r: (r.prediction.quantity, r.prediction.point.is_distilled))
    for (quantity, is_distilled), part in kinds:
        who = sorted({row.prediction.by for row in part})
        keyed = [(_question(row), row) for row in part]
        common = set.intersection(*({q for q, row in keyed if row.prediction.by == name} for name in who))
        if not common or len(who) < 2:
            continue
        own = {name: [row for q, row in keyed if q in common and row.prediction.by == name] for name in who}
        ranked = sorted((tally(rows, by=name, quantity=quantity) for name, rows in own.items()), key=_merit)
        ranking = [{"by": t.by, "rms_share": t.rms_share, "interval_score": t.interval_score} for t in ranked]
        kind = {"quantity": quantity, "is_taught": is_distilled}
        found.append({**kind, "num": len(common), "ranking": ranking})
    return found


def _question(row: Scored) -> tuple[object, ...]:
    point = row.prediction.point
    return row.study, row.frozen, point.params, point.tokens, point.teacher, point.teacher_loss


def calibration(rows: Iterable[Scored]) -> list[dict[str, object]]:
    """Nominal against obtained coverage at every frozen level, by forecaster and quantity."""
    found = []
    for (quantity, by), part in _parts(rows, _FORECASTER):
        for level in sorted({level for row in part for level in row.prediction.intervals}):
            held = [h for row in part if (h := row.is_hit(level)) is not None]
            share = sum(held) / len(held)
            known = {"obtained": share, "interval": wilson_interval(share, len(held))}
            found.append({"by": by, "quantity": quantity, "level": level, "num": len(held), **known})
    return found


def decisions(rows: Iterable[Scored], choices: Iterable[ScoredChoice]) -> list[dict[str, object]]:
    """Sign of the gain and best teacher by forecaster: share right, Brier score, calibration by how sure it was."""
    asked: dict[tuple[str, str], list[tuple[float, bool, float]]] = {}
    for row in rows:
        p, gain = row.prediction.probability_positive, row.measured
        if p is not None and row.counts:
            right = (p >= 0.5) == (gain > 0)
            case = max(p, 1 - p), right, 0.0 if right else abs(gain)
            asked.setdefault(("does the teacher help", row.prediction.by), []).append(case)
    for choice in choices:
        if choice.counts:
            case = choice.probability, choice.is_hit, choice.regret
            asked.setdefault(("which teacher is best", choice.choice.by), []).append(case)
    return [{"question": question, "by": by, **_decision_sums(cases)} for (question, by), cases in asked.items()]


def _decision_sums(cases: Sequence[tuple[float, bool, float]]) -> dict[str, object]:
    """Of (probability of what was called, whether it came, what the call cost in nats); Brier: a coin gets 0.25."""
    right = sum(ok for _, ok, _ in cases)
    bins = []
    for low, high in pairwise(SURENESS):
        here = [(p, ok) for p, ok, _ in cases if low <= p < high or (high == 1.0 and p == 1.0)]
        if here:
            said, came = (float(np.mean(each)) for each in zip(*here, strict=True))
            bins.append({"from": low, "to": high, "num": len(here), "said": said, "came": came})
    return {
        "num": len(cases),
        "right": right,
        "share": right / len(cases),
        "share_interval": wilson_interval(right / len(cases), len(cases)),
        "brier": float(np.mean([(p - float(ok)) ** 2 for p, ok, _ in cases])),
        "regret": float(np.mean([cost for _, _, cost in cases])),
        "calibration": bins,
    }


def _parts(rows: Iterable[Scored], key: Callable[[Scored], tuple]) -> list[tuple[tuple, list[Scored]]]:
    """Rows that count, by a key, in its order."""
    found: dict[tuple, list[Scored]] = {}
    for row in rows:
        if row.counts:
            found.setdefault(key(row), []).append(row)
    return sorted(found.items(), key=lambda item: item[0])


def what_columns(prediction: Callable[[Any], FrozenPrediction]) -> list[Column]:
    """Who says something, of what; `prediction` of a row."""
    return [
        text("by", of=lambda row: prediction(row).by),
        text("of", of=lambda row: prediction(row).quantity),
        number("params", format_count, of=lambda row: prediction(row).point.params),
        number("tokens", format_count, of=lambda row: prediction(row).point.tokens),
        text("teacher", of=lambda row: teacher_words(prediction(row).point)),
    ]


def teacher_words(point: PredictedPoint) -> str:
    """Who teaches, by its loss."""
    return f"loss {point.teacher_loss:.4f}" if point.is_distilled else "none"


def interval_words(ends: tuple[float, float]) -> str:
    """Both ends of an interval, nats/token."""
    return f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def prediction_table(predictions: Sequence[Scored]) -> Table:
    """Every prediction, what was measured, and how far the two are apart."""

    def known(value: Callable[[Scored], float | None]) -> Callable[[Scored], float | None]:
        return lambda row: None if math.isnan(row.measured) else value(row)

    columns = [
        *what_columns(attrgetter("prediction")),
        number("predicted", ".4f", of=attrgetter("prediction.mean")),
        number("interval", interval_words, of=attrgetter("interval"), missing="none"),
        number("measured", ".4f", of=attrgetter("measured")),
        number("seeds", of=lambda row: row.num_seeds or None),
        number("error", "+.4f", of=known(attrgetter("error"))),
        number("%", "+.2f", of=known(lambda row: 100 * row.share)),
        number("z", "+.1f", of=known(attrgetter("z"))),
        number("beyond", lambda factor: f"x{factor:.3g}", of=attrgetter("factor_beyond")),
        text("", of=_outcome),
    ]
    return Table.of(columns, sorted(predictions, key=_order))


def _order(row: Scored) -> tuple[object, ...]:
    p, point = row.prediction, row.prediction.point
    return p.quantity != "loss", p.by, point.params, point.tokens, point.teacher_loss or 99.0


def _outcome(row: Scored) -> str:
    if not row.counts:
        return f"{row.status}{': ' + row.problem if row.problem else ''}"
    return {None: "no interval", True: "hit", False: "MISS"}[row.is_hit()]


def sum_tables(card: Scorecard) -> Mapping[str, Table]:
    """The sums by title: by forecaster, by distance, calibration, decisions; empty ones are left out."""
    rows = card.predictions
    tables = {
        "By forecaster": Table.of(_FORECASTERS, by_forecaster(rows)),
        "By distance": Table.of(_DISTANCES, by_distance(rows)),
        "Calibration": Table.of(_CALIBRATION, calibration(rows)),
        "Decisions": Table.of(_DECISIONS, decisions(rows, card.choices)),
    }
    return {title: table for title, table in tables.items() if table.rows}


def _distance_words(entry: dict[str, Any]) -> str:
    if entry["to"] == 1.0:
        return "inside"
    return f"x{entry['from']:g} to x{entry['to']:g}" if entry["to"] else f"more than x{entry['from']:g}"


def _hundredths(spec: str) -> Callable[[float], str]:
    return lambda share: format(100 * share, spec)


_SHARE, _BIAS = _hundredths(".2f"), _hundredths("+.2f")


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _wilson(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.0f} to {100 * ends[1]:.0f} %"


def _bins(entry: dict[str, Any]) -> str:
    return ", ".join(f"{b['said']:.0%}: {b['came']:.0%} of {b['num']}" for b in entry["calibration"])


_FORECASTERS = [
    text("by", of=attrgetter("by")),
    text("of", of=attrgetter("quantity")),
    number("cells", of=attrgetter("num")),
    number("rms error", ".4f", of=attrgetter("rms")),
    number("rms %", _SHARE, of=attrgetter("rms_share")),
    number("bias %", _BIAS, of=attrgetter("bias_share")),
    number("hits", of=lambda one: f"{one.hits}/{one.num_intervals}"),
    number("coverage", _percent, of=attrgetter("coverage")),
    number("90 % Wilson", _wilson, of=attrgetter("coverage_interval")),
    number("width %", _SHARE, of=attrgetter("width_share")),
    number("interval score %", _SHARE, of=attrgetter("interval_score")),
]
_DISTANCES = [
    text("by", of=itemgetter("by")),
    text("beyond the runs fitted", of=_distance_words),
    number("losses", of=itemgetter("num")),
    number("rms %", _SHARE, of=itemgetter("rms_share")),
    number("bias %", _BIAS, of=itemgetter("bias_share")),
    number("coverage", _percent, of=itemgetter("coverage")),
]
_CALIBRATION = [
    text("by", of=itemgetter("by")),
    text("of", of=itemgetter("quantity")),
    number("nominal", _percent, of=itemgetter("level")),
    number("obtained", _percent, of=itemgetter("obtained")),
    number("90 % Wilson", _wilson, of=itemgetter("interval")),
    number("predictions", of=itemgetter("num")),
]
_DECISIONS = [
    text("question", of=itemgetter("question")),
    text("by", of=itemgetter("by")),
    number("right", of=lambda entry: f"{entry['right']}/{entry['num']}"),
    number("Brier", ".3f", of=itemgetter("brier")),
    number("regret, nats", ".4f", of=itemgetter("regret")),
    text("said: came", of=_bins),
]
