"""Published coefficient sets, each with its provenance, its doubts and its range of validity.

One TOML file per set in `laws/data/`; a coefficient without a source fails a test. A set whose paper
does not agree with itself is shipped verbatim with the warning, never silently repaired.

    distillaw laws show busbridge2025
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from distillaw.errors import ConfigError
from distillaw.laws.base import Box
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import (
    DistillationLaw,
    KappaDistillationLaw,
    ReducedDistillationLaw,
    StudentLaw,
)
from distillaw.laws.repetition import RepeatedDataLaw, RepetitionCorrection
from distillaw.laws.supervised import SupervisedLaw
from distillaw.quantities import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """One published number."""

    symbol: str
    value: float
    low: float | None = None
    high: float | None = None
    """Published interval, at the level the record states; None where none was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """A prediction that the coefficients must reproduce."""

    target: str
    """supervised, distillation, best_teacher or repeated."""
    coords: tuple[tuple[str, float], ...]
    value: float
    tolerance: float
    """Absolute, the rounding of the printed value."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionError:
    """How far predictions of one part of a set may be off, within its range."""

    part: str
    """supervised or distillation."""
    relative: float
    """Half width that holds about 90 % of the losses, as a share of the loss."""
    source: str
    """Who reported it, or on what it was measured."""
    span: tuple[str, ...] = ()
    """Other sets that disagree with this one: the band reaches from the lowest to the highest of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where a coefficient set comes from and what is wrong with it."""

    name: str
    title: str
    source: str
    """arXiv id, version, and the equation, table or file."""
    obtained: str
    """printed, source file, refitted by us, made up to match figures."""
    published: bool
    """False: not a published set, not to be quoted as one."""
    unit: str
    params_convention: str
    tokenizer: str
    data: str
    interval: str
    """What the intervals are, e.g. `90 % bootstrap, 4096 resamples`."""
    coefficients: tuple[tuple[str, tuple[Coefficient, ...]], ...]
    """(part, coefficients): supervised, distillation, capacity_gap or repetition."""
    goldens: tuple[Golden, ...]
    errors: tuple[PredictionError, ...]
    """What is known of the error of predictions; a part without one gets no interval (`laws/bands.py`)."""
    known_problems: tuple[str, ...]
    """One paragraph each; the first sentence of the first is the warning shown with predictions."""
    refuse_plan: bool
    """True: a plan made with this set must be refused or loudly flagged."""
    by_name_only: bool = False
    """True: plans consult it only where it is named, since it describes one text and tiny models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLaw:
    """A published coefficient set as law objects, with its record.

    `law.supervised(params=.., tokens=..)` and `law.distillation(student_params=.., student_tokens=..,
    teacher_loss=..)` are law objects that can be called; a part the source does not have is None.
    """

    name: str
    record: Record
    supervised: SupervisedLaw | None = None
    distillation: StudentLaw | None = None
    capacity_gap: CapacityGapLine | None = None
    repetition: RepetitionCorrection | None = None

    @property
    def repeated(self) -> RepeatedDataLaw | None:
        """The supervised law with the correction for repeated data; None where the source has none."""
        if self.supervised is None or self.repetition is None:
            return None
        return RepeatedDataLaw(supervised=self.supervised, correction=self.repetition)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must be said with every number from this set."""
        return self.record.known_problems


def laws_available() -> list[str]:
    """Names that `published` knows, sorted."""
    return sorted(_raw_records())


@cache
def published(name: str) -> PublishedLaw:
    """The published law of that name.

    Raises:
        ConfigError: unknown name (with the nearest known one).

    Example:
        >>> law = published("busbridge2025")
        >>> round(float(law.supervised(params=1.821e9, tokens=20 * 1.821e9)), 3)
        2.251
    """
    raw = _raw_records().get(name)
    if raw is None:
        known = laws_available()
        raise ConfigError(f"no law named {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    values = {
        part: {symbol: float(c["value"]) for symbol, c in raw[part].items()} for part in _PARTS if part in raw
    }
    box = {part: Box.of({k: (v[0], v[1]) for k, v in b.items()}) for part, b in raw.get("range", {}).items()}
    supervised = None
    if "supervised" in values:
        supervised = SupervisedLaw(**values["supervised"], range=box.get("supervised", Box()))
    distillation = None
    if "distillation" in values:
        form = _FORMS[raw["form"]]
        distillation = form(
            **values["distillation"], supervised=supervised, range=box.get("distillation", Box())
        )
    line = None
    if "capacity_gap" in values:
        line = CapacityGapLine(**values["capacity_gap"], range=box.get("capacity_gap", Box()))
    repetition = RepetitionCorrection(**values["repetition"]) if "repetition" in values else None
    return PublishedLaw(
        name=name, record=_record(name, raw), supervised=supervised, distillation=distillation,
        capacity_gap=line, repetition=repetition,
    )  # fmt: skip


_PARTS = ("supervised", "distillation", "capacity_gap", "repetition")
_FORMS: Mapping[str, type] = {
    "full": DistillationLaw,
    "kappa": KappaDistillationLaw,
    "reduced": ReducedDistillationLaw,
}


@cache
def _raw_records() -> dict[str, dict]:
    folder = files("distillaw.laws") / "data"
    return {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def _record(name: str, raw: dict) -> Record:
    return Record(
        name=name,
        title=raw["title"],
        source=raw["source"],
        obtained=raw["obtained"],
        published=raw["published"],
        unit=raw["unit"],
        params_convention=raw["params_convention"],
        tokenizer=raw["tokenizer"],
        data=raw["data"],
        interval=raw.get("interval", "none published"),
        coefficients=tuple((part, _coefficients(raw[part])) for part in _PARTS if part in raw),
        goldens=tuple(
            Golden(
                target=g["target"],
                coords=tuple(sorted(g["coords"].items())),
                value=g["value"],
                tolerance=g["tolerance"],
                source=g["source"],
            )
            for g in raw.get("golden", [])
        ),
        errors=tuple(
            PredictionError(
                part=part, relative=e["relative"], source=e["source"], span=tuple(e.get("span", ()))
            )
            for part, e in raw.get("error", {}).items()
        ),
        known_problems=tuple(raw.get("known_problems", [])),
        refuse_plan=raw.get("refuse_plan", False),
        by_name_only=raw.get("by_name_only", False),
    )


def _coefficients(part: dict) -> tuple[Coefficient, ...]:
    return tuple(
        Coefficient(symbol=symbol, value=float(c["value"]), low=c.get("low"), high=c.get("high"))
        for symbol, c in part.items()
    )
