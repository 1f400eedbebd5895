"""Files of frozen predictions: append-only, each with a hash over its content and the hash of the one before.

    predictions/2026-11-21-3f9c0a1b2d.json

The hash is SHA-256 of the canonical JSON (sorted keys, no spaces, full float precision) of everything but itself. It
shows that a file was changed, and the chain that one is missing; neither proves *when* a file was made. For that the
hash must have been put where others saw it: a commit, an e-mail, a page.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from distillaw.errors import CacheError, RunError
from distillaw.runs.files import content_hash, read_json, write_json
from distillaw.runs.lock import held
from distillaw.verifying.design_points import PredictedPoint

KIND = "distillaw frozen predictions"
SCHEMA_VERSION = 1
_STAMPS = ("frozen_at", "number", "previous", "hash")
"""What differs between two freezes of the same predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPrediction:
    """What one forecaster says of one design point: the loss of one run, or its gain over no teacher."""

    by: str
    """The law, or `consensus`, `paired runs`, `laws of the study` as `plan` weighs them."""
    quantity: str
    """`loss`, or `gain`: the loss of the same student without a teacher minus this one's."""
    point: PredictedPoint
    mean: float
    """Nats/token."""
    intervals: Mapping[float, tuple[float, float]]
    """Level -> (lower, upper) of a single new run; empty where the forecaster states no error."""
    inside_range: bool
    """Whether the design point lies in the range of the runs behind the forecaster."""
    efolds_outside: Mapping[str, float]
    """Coordinate -> e-folds beyond that range: ln(N / N_max), ln(D / D_max), ten times that of the teacher's loss."""
    probability_positive: float | None = None
    """Of a positive gain."""
    after_the_fact: bool = False
    """The design point had been measured already: shown, never counted."""

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; levels become text, and the point's entries stand among the others."""
        row = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "point"}
        intervals = {f"{level:g}": list(ends) for level, ends in self.intervals.items()}
        return {**row, **point_json(self.point), "intervals": intervals}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "FrozenPrediction":
        """The prediction that `to_json` wrote."""
        known: dict[str, Any] = {
            field.name: row[field.name] for field in fields(cls) if field.name != "point"
        }
        known["intervals"] = {float(level): (low, high) for level, (low, high) in row["intervals"].items()}
        return cls(point=point_from_json(row), **known)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenChoice:
    """Which of several teachers will be the best for one student and token budget."""

    by: str
    points: Sequence[PredictedPoint]
    """One per teacher."""
    probabilities: Sequence[float]
    """Of each to have the lowest loss."""
    after_the_fact: bool = False

    @property
    def best(self) -> int:
        """The likeliest."""
        return max(range(len(self.points)), key=lambda j: self.probabilities[j])

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        cells, shares = [point_json(point) for point in self.points], list(self.probabilities)
        return {"by": self.by, "cells": cells, "probabilities": shares, "after_the_fact": self.after_the_fact}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "FrozenChoice":
        """The choice that `to_json` wrote."""
        points = [point_from_json(point) for point in row["cells"]]
        return cls(points=points, **{key: row[key] for key in ("by", "probabilities", "after_the_fact")})


def point_json(point: PredictedPoint) -> dict[str, object]:
    """A design point as plain JSON values."""
    return {**asdict(point), "teacher": point.teacher or None}


def point_from_json(row: Mapping[str, Any]) -> PredictedPoint:
    """The design point that `point_json` wrote, among whatever else."""
    known: dict[str, Any] = {field.name: row[field.name] for field in fields(PredictedPoint)}
    known["teacher"] = row["teacher"] or ""
    return PredictedPoint(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """One file of frozen predictions."""

    path: Path
    document: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """As the file states it."""
        return str(self.document.get("hash"))

    @property
    def is_intact(self) -> bool:
        """Whether the content is the one that was hashed."""
        return self.hash == document_hash(self.document)

    @property
    def level(self) -> float:
        """Of the intervals that hits are counted with."""
        return float(self.document["level"])

    @property
    def known(self) -> dict[str, float | None]:
        """Run id -> loss of every run there was when the predictions were frozen; None for no finite loss."""
        return dict(self.document["known_runs"])

    @property
    def predictions(self) -> list[FrozenPrediction]:
        """All of them."""
        return [FrozenPrediction.from_json(row) for row in self.document["predictions"]]

    @property
    def choices(self) -> list[FrozenChoice]:
        """All of them."""
        return [FrozenChoice.from_json(row) for row in self.document["choices"]]


def document_hash(document: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of everything but `hash`."""
    return content_hash({k: v for k, v in document.items() if k != "hash"}, digits=64)


def predictions_folder(source: Path) -> Path:
    """Where the predictions of a study folder, or of a table of runs, lie."""
    return source / "predictions" if source.is_dir() else source.with_suffix(".predictions")


def frozen_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as frozen predictions are, by a date."""
    return sorted(folder.glob("[0-9]*.json"))


def read_frozen(folder: Path) -> list[Frozen]:
    """Every file of frozen predictions in a folder, oldest first; tampered ones too.

    Raises:
        CacheError: a file cannot be read at all.
    """
    found = []
    for path in frozen_files(folder):
        document = read_json(path)
        if document.get("kind") != KIND or not isinstance(document.get("number"), int):
            raise CacheError(f"{path}: not a file of frozen predictions; move it out of {folder}")
        if document.get("schema_version") != SCHEMA_VERSION:
            raise CacheError(
                f"{path}: schema_version {document.get('schema_version')}, this version reads {SCHEMA_VERSION}"
            )
        found.append(Frozen(path=path, document=document))
    return sorted(found, key=lambda one: (one.document["number"], one.path.name))


def chain_problems(files: Sequence[Frozen]) -> list[str]:
    """What is wrong with a folder's files, oldest first: changed, dropped, or forked."""
    found = [
        f"TAMPERED: {one.path.name} states hash {one.hash[:10]}, its content has "
        f"{document_hash(one.document)[:10]}; none of its predictions count"
        for one in files
        if not one.is_intact
    ]
    for before, one in zip([None, *files], files, strict=False):
        asked = one.document.get("previous")
        there = None if before is None else before.hash
        if asked != there:
            found.append(
                f"BROKEN CHAIN: {one.path.name} follows {str(asked)[:10]}, but the file before it is "
                f"{'missing' if there is None else there[:10]}: one was dropped, changed or added"
            )
    return found


def write_frozen(folder: Path, content: Mapping[str, object]) -> tuple[Frozen, bool]:
    """Append a file, or find the one that has the same content: everything but time, number and hashes.

    Returns:
        The file, and whether it is new.

    Raises:
        RunError: another process is freezing, the disk is full, or what is there was tampered with.
    """
    with held(folder, f"the predictions in {folder}"):
        files = read_frozen(folder)
        if problems := chain_problems(files):
            raise RunError(
                f"{folder}: {problems[0]}. Nothing is added to a broken chain; restore the file from a copy"
            )
        for one in files:
            undated = {key: value for key, value in one.document.items() if key not in _STAMPS}
            if content_hash(undated) == content_hash(dict(content)):
                return one, False
        document: dict[str, object] = {
            **content,
            "number": len(files) + 1,
            "previous": files[-1].hash if files else None,
            "frozen_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        document["hash"] = document_hash(document)
        path = folder / f"{str(document['frozen_at'])[:10]}-{str(document['hash'])[:10]}.json"
        write_json(path, document, is_ours=False)  # it has a hash of its own, that the next file names
        path.chmod(0o444)
        return Frozen(path=path, document=document), True


def frozen_points(files: Iterable[Frozen]) -> list[PredictedPoint]:
    """The design points whose losses were predicted before they were measured, in intact files."""
    return [
        p.point
        for one in files
        if one.is_intact
        for p in one.predictions
        if p.quantity == "loss" and not p.after_the_fact
    ]
