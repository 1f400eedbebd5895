"""Verdicts by property, with their evidence; torch-free, so that pages and commands read them without it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

from distillaw.table import Table, text

PROPERTIES: dict[str, str] = {
    "shift": "each position learns from its own next token and its own teacher row",
    "mask": "exactly the declared positions count",
    "normalisation": "positions are averaged over what was declared, whatever the batch",
    "temperature": "both logits are divided by T, and T^2 is where it was declared",
    "direction": "the declared divergence, in the declared direction, at every beta",
    "loss": "nothing but the declared divergence and cross-entropy by position",
    "weights": "the terms have the declared weights",
    "top-k": "the teacher is truncated as declared",
    "vocabulary": "entry v of the teacher moves entry v of the student, and columns without a token move nothing",
    "options": "every declared option has the declared effect",
    "chunking": "the size of chunks changes nothing",
    "precision": "finite and exact for far apart, near-equal and low-precision logits",
    "value": "the reported number is the declared one, and its slope is the gradient",
    "accumulation": "how a batch is split into micro-batches changes nothing that was not declared",
    "teacher-state": "the teacher is in the declared mode, without gradient, and stays as it is",
    "student-state": "the student trains in the declared mode, also after an evaluation",
    "schedule": "the rate of every update is the declared one",
    "optimizer": "an update is what the optimizer makes of this window's gradient alone",
    "data": "every sample is used as often as declared, with its own tokens",
    "cache": "each sample meets its own teacher rows, in every epoch",
    "packing": "samples that share a row do not see each other",
    "resume": "stopped and resumed is the same as never stopped",
    "distributed": "two ranks make the update of one",
    "generation": "what the student samples is drawn, stopped and scored as declared",
    "store": "stored targets are those of a fresh forward pass",
    "tokenizers": "both tokenizers give each token the same id",
}
"""Property -> what holds where it is right."""
LOOP_PROPERTIES = (
    *("accumulation", "teacher-state", "student-state", "schedule", "optimizer", "data"),
    *("cache", "packing", "resume", "distributed", "generation"),
)
"""Those of what surrounds a loss."""
GENERATION = "nothing is sampled here: answers are given, and what decides which and when they stop is not run"
VERDICTS = ("wrong", "differs", "right", "not-testable")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_PHASE: ContextVar[Callable[[str], None]] = ContextVar("_PHASE", default=lambda phase: None)


@contextmanager
def phases_to(takes: Callable[[str], None]) -> Iterator[None]:
    """Within it, what an audit is at is told to this."""
    token = _PHASE.set(takes)
    try:
        yield
    finally:
        _PHASE.reset(token)


def tell(phase: str) -> None:
    """Say what the audit is at."""
    _PHASE.get()(phase)


@dataclass(frozen=True, slots=True)
class Observation:
    """Why a property has its verdict."""

    says: str
    case: str = ""
    example: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """What is known."""
        return {key: value for key, value in asdict(self).items() if value}


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything an audit found, collected while it runs."""

    target: str
    kind: str
    found: dict[str, dict[str, list[Observation]]] = field(default_factory=dict)
    """Property -> verdict -> evidence."""
    notes: list[str] = field(default_factory=list)

    def add(
        self, property: str, verdict: str, says: str, case: str = "", example: Mapping[str, Any] | None = None
    ) -> None:
        """Keep one piece of evidence; the same sentence once."""
        kept = self.found.setdefault(property, {}).setdefault(verdict, [])
        if says not in [evidence.says for evidence in kept]:
            kept.append(Observation(says, case, example))

    def wrong(self, property: str, says: str, case: str = "", example: Mapping[str, Any] | None = None) -> None:
        """Not as declared."""
        self.add(property, "wrong", says, case, example)

    def right(self, property: str, says: str) -> None:
        """Looked at and as declared."""
        self.add(property, "right", says)

    def untestable(self, property: str, why: str) -> None:
        """Not looked at."""
        self.add(property, "not-testable", why)

    def close(self, looked_at: Mapping[str, str], why_not: Mapping[str, str]) -> None:
        """Say how each property was looked at, and why each of the others was not."""
        for property, how in looked_at.items():
            self.right(property, how)
        for property, why in why_not.items():
            if property not in looked_at:
                self.untestable(property, why)

    def verdict(self, property: str) -> str:
        """The gravest that there is evidence for."""
        kept = self.found.get(property, {})
        return next((verdict for verdict in VERDICTS if verdict in kept), "not-testable")

    def evidence(self, property: str) -> list[Observation]:
        """Of the verdict."""
        kept = self.found.get(property, {})
        return kept.get(self.verdict(property), [Observation("this kind of target gives nothing to look at")])

    @property
    def is_wrong(self) -> bool:
        """Whether any property is."""
        return any(self.verdict(name) == "wrong" for name in PROPERTIES)

    def to_json(self) -> dict[str, Any]:
        """The answer of the command."""
        properties = [
            {
                "name": name,
                "verdict": self.verdict(name),
                "asks": asks,
                "evidence": [evidence.to_json() for evidence in self.evidence(name)],
            }
            for name, asks in PROPERTIES.items()
        ]
        counts = {verdict: sum(p["verdict"] == verdict for p in properties) for verdict in VERDICTS}
        about = {"target": self.target, "kind": self.kind}
        return about | {"properties": properties, "counts": counts, "notes": self.notes}


def finding_table(answer: Mapping[str, Any], *, verdicts: Iterable[str] = VERDICTS) -> Table:
    """The properties with these verdicts, the gravest first; those not testable for one reason in one row.

    `answer` is that of `Findings.to_json`.
    """
    rows: list[list[str]] = []
    for verdict in (v for v in VERDICTS if v in set(verdicts)):
        named: dict[str, list[str]] = {}
        for each in answer["properties"]:
            if each["verdict"] == verdict:
                said = "; ".join(_said(evidence) for evidence in _without_repeats(each["evidence"])[:4])
                named.setdefault(said, []).append(each["name"])
        for said, names in named.items():
            whole = [", ".join(names)] if verdict == "not-testable" else names
            rows += [[name, verdict, said] for name in whole]
    columns = [text("property", is_wrapped=True), text("verdict", is_facet=True), text("evidence", is_wrapped=True)]
    return Table(columns, rows)


def _said(evidence: Mapping[str, Any]) -> str:
    return f"{evidence['says']} [{evidence['case']}]" if evidence.get("case") else str(evidence["says"])


def _without_repeats(evidence: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sentences that differ in their numbers alone as one, with the range of each number."""
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in evidence:
        alike.setdefault((_NUMBER.sub("#", each["says"]), each.get("case", "")), []).append(each)
    merged = []
    for group in alike.values():
        ranges = iter(zip(*(_NUMBER.findall(each["says"]) for each in group), strict=True))

        def span(_: re.Match[str], ranges: Iterator[tuple[str, ...]] = ranges) -> str:
            seen = sorted(set(next(ranges)), key=float)
            return seen[0] if len(seen) == 1 else f"{seen[0]} to {seen[-1]}"

        merged.append(dict(group[0]) | {"says": _NUMBER.sub(span, group[0]["says"])})
    return merged
