"""Every scored study together: what `verify score` prints and the report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import DistillawError
from distillaw.verifying import tally
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
            "studies": [_study_json(study) for study in self.studies], "unreadable": list(self.unreadable),
            "copies": list(self.copies), "is_sound": self.is_sound, "counts": dict(self.counts),
            "predictions": [row.to_json() for row in rows], "choices": [row.to_json() for row in self.choices],
            "forecasters": [one.to_json() for one in tally.by_forecaster(rows)],
            "head_to_head": tally.head_to_head(rows), "by_distance": tally.by_distance(rows),
            "calibration": tally.calibration(rows), "decisions": tally.decisions(rows, self.choices),
            "caveats": list(CAVEATS),
        }  # fmt: skip


def _study_json(study: StudyScore) -> dict[str, object]:
    files = [
        {"file": one.path.name, "hash": one.hash, "frozen_at": one.document.get("frozen_at"),
         "is_intact": one.is_intact}
        for one in study.files
    ]  # fmt: skip
    return {"study": study.name, "source": str(study.source), "is_sound": study.is_sound,
            "problems": list(study.problems), "files": files}  # fmt: skip


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
