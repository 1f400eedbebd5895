"""How the recorded answers compare with what happened: calls, Brier score against the base rate, intervals."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks.outcomes.questions import Answer
from distillaw.outcomes.table import Outcome
from distillaw.table import Table, number, text


def answers(path: Path) -> list[Answer]:
    """The recorded answers, in the order in which they were given; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_answer(cells) for cells in csv.DictReader(file)]


def _answer(cells: Mapping[str, str]) -> Answer:
    read = {}
    for field in fields(Answer):
        value: object = cells[field.name]
        if "float" in str(field.type):
            value = float(cells[field.name]) if value else None
        elif "bool" in str(field.type):
            value = {"yes": True, "no": False}.get(cells[field.name])
        read[field.name] = value
    return Answer(**read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What became of the answers to a group of rows."""

    group: str
    rows: int
    refused: int
    """Not asked, or refused."""
    unknown: int
    """Answered that no law reaches the question."""
    right: int
    wrong: int
    """A side was called and the other one won, or nobody did."""
    too_close: int
    """Answered without a call; ties among them are counted in `close_ties`."""
    close_ties: int
    brier: float | None
    """Mean squared error of the probability that A wins, over the rows that were answered or unknown."""
    base: float | None
    """The same of the share of these rows that A won: what somebody scores who knows that share and nothing else."""
    covered: int
    """Published gains in nats/token inside the 90 % interval, of `intervals`."""
    intervals: int


def scores(rows: Sequence[Outcome], given: Iterable[Answer]) -> dict[str, Table]:
    """Tables of scores: of all rows, by kind, by comparison, by source."""
    first: dict[str, Answer] = {}
    for answer in given:
        first.setdefault(answer.id, answer)
    groups: dict[str, Callable[[Outcome], str]] = {
        "All rows": lambda row: "all",
        "By kind": lambda row: row.kind,
        "By metric": lambda row: row.metric_kind,
        "By comparison": lambda row: row.comparison,
        "By source": lambda row: row.source,
    }
    return {title: _table(_split(rows, first, of)) for title, of in groups.items()}


def _split(rows: Sequence[Outcome], first: Mapping[str, Answer], of: Callable[[Outcome], str]) -> list[Score]:
    parts: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        parts[of(row)].append(row)
    return [score(name, part, first) for name, part in sorted(parts.items())]


def score(group: str, rows: Sequence[Outcome], first: Mapping[str, Answer]) -> Score:
    """The score of some rows by their first answers."""
    pairs = [(row, first[row.id]) for row in rows if row.id in first and first[row.id].status != "refused"]
    told = [(row, answer) for row, answer in pairs if answer.status == "answered"]
    called = [(row, answer) for row, answer in told if answer.call in ("A", "B")]
    right = sum(answer.call == row.winner for row, answer in called)
    won = [float(row.winner == "A") for row, _ in pairs]
    base = sum(won) / len(won) if won else None
    nats = [
        (row.gain, answer.gain_lower, answer.gain_upper)
        for row, answer in told
        if row.gain is not None and row.metric_kind in ("nats_per_token", "perplexity")
        if answer.gain_lower is not None and answer.gain_upper is not None
    ]
    return Score(
        group=group,
        rows=len(rows),
        refused=len(rows) - len(pairs),
        unknown=len(pairs) - len(told),
        right=right,
        wrong=len(called) - right,
        too_close=len(told) - len(called),
        close_ties=sum(row.winner == "tie" for row, answer in told if answer.call == "too-close"),
        brier=_mean((answer.probability_a - w) ** 2 for (_, answer), w in zip(pairs, won, strict=True)),
        base=None if base is None else base * (1 - base),
        covered=sum(low <= gain <= high for gain, low, high in nats),
        intervals=len(nats),
    )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _table(found: Sequence[Score]) -> Table:
    return Table.of(
        [
            text("rows of", of=lambda s: s.group),
            number("rows", "d", of=lambda s: s.rows),
            number("refused", "d", of=lambda s: s.refused),
            number("unknown", "d", of=lambda s: s.unknown),
            number("right", "d", of=lambda s: s.right),
            number("wrong", "d", of=lambda s: s.wrong),
            number("too close", str, of=lambda s: f"{s.too_close} ({s.close_ties} ties)"),
            number("Brier", ".3f", of=lambda s: s.brier),
            number("base rate's", ".3f", of=lambda s: s.base),
            number(
                "in 90 % interval", str, of=lambda s: f"{s.covered} of {s.intervals}" if s.intervals else ""
            ),
        ],
        found,
    )
