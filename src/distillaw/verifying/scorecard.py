"""Every scored study together, and sums over predictions: who was right how often, how far off, how far out it held.

Proper scores as in Gneiting & Raftery 2007 (J. Am. Stat. Assoc. 102:359): the interval score rewards narrow
intervals that hold, the Brier score probabilities that are right.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np

from distillaw.errors import DistillawError
from distillaw.verifying.scoring import (
    AFTER,
    PENDING,
    SCORED,
    UNUSABLE,
    Scored,
    ScoredChoice,
    StudyScore,
    find_sources,
    score_study,
)

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
            "studies": [_study_json(study) for study in self.studies],
            "unreadable": list(self.unreadable),
            "copies": list(self.copies),
            "is_sound": self.is_sound,
            "counts": dict(self.counts),
            "predictions": [row.to_json() for row in rows],
            "choices": [row.to_json() for row in self.choices],
            "forecasters": [one.to_json() for one in by_forecaster(rows)],
            "head_to_head": head_to_head(rows),
            "by_distance": by_distance(rows),
            "calibration": calibration(rows),
            "decisions": decisions(rows, self.choices),
            "caveats": list(CAVEATS),
        }


def _study_json(study: StudyScore) -> dict[str, object]:
    files = [
        {
            "file": one.path.name,
            "hash": one.hash,
            "frozen_at": one.document.get("frozen_at"),
            "is_intact": one.is_intact,
        }
        for one in study.files
    ]
    return {
        "study": study.name,
        "source": str(study.source),
        "is_sound": study.is_sound,
        "problems": list(study.problems),
        "files": files,
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

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


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
        coverage_interval=wilson(hits, len(spans)) if spans else None,
        width_share=float(np.mean([(u - low) / row.scale for row, (low, u) in spans])) if spans else None,
        interval_score=float(np.mean([s for s in scores if s is not None])) if spans else None,
    )


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def by_forecaster(rows: Iterable[Scored]) -> list[Tally]:
    """One tally per forecaster and quantity, losses first, the sharpest honest one (by interval score) first."""
    found = [tally(part, by=by, quantity=quantity) for (quantity, by), part in _parts(rows, _forecaster)]
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
        sums = tally(part, by=by, quantity="loss").to_json()
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
        part = [row for q, row in keyed if q in common]
        ranked = sorted(
            (
                tally([row for row in part if row.prediction.by == name], by=name, quantity=quantity)
                for name in who
            ),
            key=_merit,
        )
        ranking = [{"by": t.by, "rms_share": t.rms_share, "interval_score": t.interval_score} for t in ranked]
        found.append(
            {"quantity": quantity, "is_taught": is_distilled, "num": len(common), "ranking": ranking}
        )
    return found


def _forecaster(row: Scored) -> tuple[str, str]:
    return row.prediction.quantity, row.prediction.by


def _question(row: Scored) -> tuple[object, ...]:
    point = row.prediction.point
    return row.study, row.frozen, point.params, point.tokens, point.teacher, point.teacher_loss


def calibration(rows: Iterable[Scored]) -> list[dict[str, object]]:
    """Nominal against obtained coverage at every frozen level, by forecaster and quantity."""
    found = []
    for (quantity, by), part in _parts(rows, _forecaster):
        for level in sorted({level for row in part for level in row.prediction.intervals}):
            held = [h for row in part if (h := row.is_hit(level)) is not None]
            found.append(
                {
                    "by": by,
                    "quantity": quantity,
                    "level": level,
                    "num": len(held),
                    "obtained": sum(held) / len(held),
                    "interval": wilson(sum(held), len(held)),
                }
            )
    return found


def decisions(rows: Iterable[Scored], choices: Iterable[ScoredChoice]) -> list[dict[str, object]]:
    """Sign of the gain and best teacher by forecaster: share right, Brier score, calibration by how sure it was."""
    asked: dict[tuple[str, str], list[tuple[float, bool, float]]] = {}
    for row in rows:
        p = row.prediction.probability_positive
        if p is not None and row.counts:
            asked.setdefault(("does the teacher help", row.prediction.by), []).append(_sign(p, row.measured))
    for choice in choices:
        if choice.counts:
            asked.setdefault(("which teacher is best", choice.choice.by), []).append(
                (choice.probability, choice.is_hit, choice.regret)
            )
    return [
        {"question": question, "by": by, **_decision_sums(cases)} for (question, by), cases in asked.items()
    ]


def _sign(probability: float, gain: float) -> tuple[float, bool, float]:
    """(probability of what was called, whether it came, what the call cost in nats)."""
    said = probability >= 0.5
    right = said == (gain > 0)
    return max(probability, 1 - probability), right, 0.0 if right else abs(gain)


def _decision_sums(cases: Sequence[tuple[float, bool, float]]) -> dict[str, object]:
    right = sum(ok for _, ok, _ in cases)
    bins = []
    for low, high in pairwise(SURENESS):
        here = [(p, ok) for p, ok, _ in cases if low <= p < high or (high == 1.0 and p == 1.0)]
        if here:
            bins.append(
                {
                    "from": low,
                    "to": high,
                    "num": len(here),
                    "said": float(np.mean([p for p, _ in here])),
                    "came": float(np.mean([ok for _, ok in here])),
                }
            )
    return {
        "num": len(cases),
        "right": right,
        "share": right / len(cases),
        "share_interval": wilson(right, len(cases)),
        "brier": float(np.mean([brier(p, ok) for p, ok, _ in cases])),
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


def wilson(hits: int, count: int, *, level: float = 0.9) -> tuple[float, float]:
    """Interval of a share from independent trials (Wilson 1927, J. Am. Stat. Assoc. 22:209).

    Forecasts of one law err together, so the true interval is wider.

    Example:
        >>> low, high = wilson(9, 10, level=0.95)
        >>> round(low, 3), round(high, 3)
        (0.596, 0.982)
    """
    if not count:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def brier(probability: float, came: bool) -> float:
    """Square of what a probability was off: 0 is perfect, 0.25 is what a coin gets.

    Example:
        >>> round(brier(0.9, True), 6)
        0.01
    """
    return (probability - float(came)) ** 2
