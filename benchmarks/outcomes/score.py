"""How the recorded answers compare with what happened: calls, Brier score against the base rate, intervals."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
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
    rows: tuple[Outcome, ...]
    refused: int
    """Not asked, or refused."""
    unknown: int
    """Answered that no law reaches the question."""
    right: int
    wrong: int
    """A side was called and the other one won, or nobody did."""
    too_close: int
    """Answered without a call."""
    brier: float | None
    """Mean squared error of the probability that A wins, over the rows that were answered or unknown."""
    base: float | None
    """The same of the share of these rows that A won: what somebody scores who knows that share and nothing else."""
    covered: int
    """Published gains in nats/token inside the 90 % interval, of `intervals`."""
    intervals: int

    def won(self, side: str) -> int:
        """Rows that `A` or `B` won, or whose sides tie."""
        return sum(row.winner == side for row in self.rows)


GROUPS: Mapping[str, Callable[[Outcome], str]] = {
    "all": lambda row: "all rows",
    "kind": attrgetter("kind"),
    "metric": attrgetter("metric_kind"),
    "comparison": attrgetter("comparison"),
    "source": attrgetter("source"),
}
"""By what rows are put together."""


def scores(rows: Sequence[Outcome], given: Iterable[Answer], by: str) -> list[Score]:
    """Scores of groups of rows by the first answer to each; `by` is a key of `GROUPS`."""
    first: dict[str, Answer] = {}
    for answer in given:
        first.setdefault(answer.id, answer)
    parts: dict[str, list[Outcome]] = defaultdict(list)
    for row in rows:
        parts[GROUPS[by](row)].append(row)
    return [_score(name, part, first) for name, part in sorted(parts.items())]


def _score(group: str, rows: Sequence[Outcome], first: Mapping[str, Answer]) -> Score:
    pairs = [(row, first[row.id]) for row in rows if row.id in first and first[row.id].status != "refused"]
    told = [(row, answer) for row, answer in pairs if answer.status == "answered"]
    called = [(row, answer) for row, answer in told if answer.call in ("A", "B")]
    right = sum(answer.call == row.winner for row, answer in called)
    won = [float(row.winner == "A") for row, _ in pairs]
    base = sum(won) / len(won) if won else None
    nats = [
        (row.gain, answer.gain_lower, answer.gain_upper)
        for row, answer in told
        if row.metric_kind in ("nats_per_token", "perplexity")
    ]
    known = [(gain, low, high) for gain, low, high in nats if None not in (gain, low, high)]
    return Score(
        group=group,
        rows=tuple(rows),
        refused=len(rows) - len(pairs),
        unknown=len(pairs) - len(told),
        right=right,
        wrong=len(called) - right,
        too_close=len(told) - len(called),
        brier=_mean((_probability(answer) - w) ** 2 for (_, answer), w in zip(pairs, won, strict=True)),
        base=None if base is None else base * (1 - base),
        covered=sum(low <= gain <= high for gain, low, high in known),
        intervals=len(known),
    )


def _probability(answer: Answer) -> float:
    """That A wins; one half where no law reaches the question, whatever was made of the teachers."""
    return 0.5 if answer.status == "unknown" or answer.probability_a is None else answer.probability_a


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def score_table(found: Sequence[Score]) -> Table:
    """Calls, probabilities and intervals."""
    return Table.of(
        [
            text("rows", of=attrgetter("group")),
            number("n", "d", of=lambda s: len(s.rows)),
            number("refused", "d", of=attrgetter("refused")),
            number("unknown", "d", of=attrgetter("unknown")),
            number("too close", "d", of=attrgetter("too_close")),
            number("right", "d", of=attrgetter("right")),
            number("wrong", "d", of=attrgetter("wrong")),
            number("Brier", ".3f", of=attrgetter("brier")),
            number("base rate's", ".3f", of=attrgetter("base")),
            number("in 90 % interval", of=lambda s: f"{s.covered} of {s.intervals}" if s.intervals else None),
        ],
        found,
    )


def win_table(found: Sequence[Score], title: str) -> Table:
    """Who won, and how often the planner had called it."""
    return Table.of(
        [
            text(title, of=attrgetter("group")),
            number("rows", "d", of=lambda s: len(s.rows)),
            number("core", "d", of=lambda s: sum(row.kind == "core" for row in s.rows)),
            number("A won", "d", of=lambda s: s.won("A")),
            number("B won", "d", of=lambda s: s.won("B")),
            number("tie", "d", of=lambda s: s.won("tie")),
            number("called right", "d", of=attrgetter("right")),
            number("wrong", "d", of=attrgetter("wrong")),
        ],
        found,
    )


def counts(rows: Sequence[Outcome]) -> str:
    """The table's size in a sentence."""
    n, sources = len(rows), len({row.source for row in rows})
    core, primary = sum(row.kind == "core" for row in rows), sum(row.is_primary for row in rows)
    losses = sum(row.is_loss for row in rows)
    return (
        f"{n} rows from {sources} papers and projects: {core} core and {n - core} beyond; {losses} in a loss or a "
        f"perplexity and {n - losses} in scores; the numbers of {primary} were read in the authors' own text, a copy "
        f"or an extraction of it, those of {n - primary} in what others wrote of it."
    )


def page_tables(rows: Sequence[Outcome], given: Sequence[Answer]) -> dict[str, str]:
    """What stands between `<!-- table NAME -->` and `<!-- end -->` of docs/outcomes.md."""
    found = {by: scores(rows, given, by) for by in GROUPS}
    return {
        "counts": counts(rows),
        "kinds": "\n\n".join(win_table(found[by], by).markdown() for by in ("comparison", "metric")),
        "sources": win_table(found["source"], "source").markdown(),
        "score": score_table(
            [*found["all"], *found["kind"], *found["comparison"], *found["metric"]]
        ).markdown(),
    }
