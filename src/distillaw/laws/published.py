"""Published coefficient sets, each with its provenance, its doubts, its range, and the error of its predictions.

One TOML file per set in `laws/data/`; a coefficient without a source fails a test. A set whose paper does not agree
with itself is shipped verbatim with the warning, never silently repaired.

    distillaw laws show busbridge2025

A paper prints coefficients, seldom an error of its predictions, and intervals of single coefficients without their
correlations say nothing about the loss. So the band of a prediction is what the record states: an error reported by the
paper or measured on the public runs, around the loss, or around the span of sets that contradict each other. Outside
the fitted range nothing is known of the error, and there is no band. Fitted laws bring their own.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any

from distillaw.errors import ConfigError
from distillaw.laws.base import Box
from distillaw.laws.capacity import CapacityGapLine
from distillaw.laws.distillation import DistillationLaw, KappaDistillationLaw, ReducedDistillationLaw, StudentLaw
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
class LawRecord:
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
    """What is known of the error of predictions; a part without one gets no interval (`published_band`)."""
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
    record: LawRecord
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
    parts = {part: raw[part] for part in _PARTS if part in raw}
    values: dict[str, dict[str, Any]]
    values = {part: {name: float(c["value"]) for name, c in given.items()} for part, given in parts.items()}
    box = {part: Box.of({k: (v[0], v[1]) for k, v in b.items()}) for part, b in raw.get("range", {}).items()}
    made: dict[str, Any] = {}
    if "supervised" in values:
        made["supervised"] = SupervisedLaw(**values["supervised"], range=box.get("supervised", Box()))
    if "distillation" in values:
        own = {"supervised": made.get("supervised"), "range": box.get("distillation", Box())}
        made["distillation"] = _FORMS[raw["form"]](**values["distillation"], **own)
    if "capacity_gap" in values:
        made["capacity_gap"] = CapacityGapLine(**values["capacity_gap"], range=box.get("capacity_gap", Box()))
    if "repetition" in values:
        made["repetition"] = RepetitionCorrection(**values["repetition"])
    return PublishedLaw(name=name, record=_record(name, raw), **made)


_PARTS = ("supervised", "distillation", "capacity_gap", "repetition")
_FORMS: Mapping[str, type] = {"full": DistillationLaw, "kappa": KappaDistillationLaw, "reduced": ReducedDistillationLaw}


@cache
def _raw_records() -> dict[str, dict]:
    folder = files("distillaw.laws") / "data"
    return {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def _record(name: str, raw: dict) -> LawRecord:
    texts = ("title", "source", "obtained", "published", "unit", "params_convention", "tokenizer", "data")
    goldens = [g | {"coords": tuple(sorted(g["coords"].items()))} for g in raw.get("golden", [])]
    errors = [e | {"part": part, "span": tuple(e.get("span", ()))} for part, e in raw.get("error", {}).items()]
    return LawRecord(
        name=name,
        **{key: raw[key] for key in texts},
        interval=raw.get("interval", "none published"),
        coefficients=tuple(
            (part, tuple(Coefficient(symbol=name, **c | {"value": float(c["value"])}) for name, c in raw[part].items()))
            for part in _PARTS
            if part in raw
        ),
        goldens=tuple(Golden(**golden) for golden in goldens),
        errors=tuple(PredictionError(**error) for error in errors),
        known_problems=tuple(raw.get("known_problems", [])),
        refuse_plan=raw.get("refuse_plan", False),
        by_name_only=raw.get("by_name_only", False),
    )


_STATED_LEVEL = 0.9
"""Coverage that the half widths in the records stand for."""


def published_band(
    law: PublishedLaw, *, part: str, coords: Mapping[str, float], is_inside: bool, level: float = 0.9
) -> tuple[tuple[float, float] | None, str]:
    """The band of one prediction and what it means; without one, why there is none.

    Args:
        part: supervised, repeated or distillation: what was evaluated.
        is_inside: whether the prediction lies in the fitted range.
        level: coverage wanted; other levels than 0.9 assume a normal error.
    """
    error = next((e for e in law.record.errors if e.part == ("supervised" if part == "repeated" else part)), None)
    if error is None:
        return None, f"{law.name} states no error of its predictions, only point values"
    if not is_inside:
        return None, f"outside the range of the runs behind {law.name}, where the error of its predictions is unknown"
    quantile = NormalDist().inv_cdf
    half = error.relative * quantile((1 + level) / 2) / quantile((1 + _STATED_LEVEL) / 2)
    losses = [float(getattr(one, part)(**coords)) for one in (law, *map(published, error.span))]
    around = f"the span of {', '.join((law.name, *error.span))}" if error.span else "the point value"
    scaled = "" if level == _STATED_LEVEL else f", scaled from 90 % to {100 * level:g} % as for a normal error"
    meaning = f"{100 * half:.2g} % around {around}{scaled}: {error.source}"
    return (min(losses) * (1 - half), max(losses) * (1 + half)), meaning
