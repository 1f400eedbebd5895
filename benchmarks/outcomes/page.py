"""The tables of docs/outcomes.md: what is in the table of outcomes, and what the planner had said of its rows."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from distillaw.outcomes.table import Outcome
from distillaw.table import Table, number, text
from distillaw.verifying.retrodiction import GROUPS, Answer, Retrodiction, Score, probability_of, score_table, scores


def answers(path: Path) -> list[Answer]:
    """The recorded answers, in the order in which they were given; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_answer(cells) for cells in csv.DictReader(file)]


def _answer(cells: Mapping[str, str]) -> Answer:
    read = {}
    for field in fields(Answer):
        value: object = cells.get(field.name)
        if "float" in str(field.type):
            value = float(cells[field.name]) if value else None
        elif "bool" in str(field.type):
            value = {"yes": True, "no": False}.get(str(value))
        read[field.name] = value
    return Answer(**read)


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
    first = {answer.id: answer for answer in reversed(given)}
    pairs = [(row, first.get(row.id, Answer(id=row.id))) for row in rows]
    found = {by: scores(pairs, by) for by in GROUPS}
    return {
        "counts": counts(rows),
        "kinds": "\n\n".join(win_table(found[by], by).markdown() for by in ("comparison", "metric")),
        "sources": win_table(found["source"], "source").markdown(),
        "score": score_table([*found["all"], *found["kind"], *found["comparison"], *found["metric"]]).markdown(),
    }


BANDS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
"""Of probabilities: those from 0.8 on, and up to 0.2, are where calls are made."""


def reliability_tables(found: Retrodiction) -> dict[str, str]:
    """The tables of docs/retrodiction.md."""
    told = [(row, probability_of(answer)) for row, answer in found.rows if answer.status != "refused"]
    bands = []
    for low, high in pairwise(BANDS):
        inside = [(row, p) for row, p in told if low <= p < high or p == high == 1]
        if inside:
            sources = len({row.source for row, _ in inside})
            said, won = (
                sum(values) / len(inside) for values in zip(*((p, row.winner == "A") for row, p in inside), strict=True)
            )
            bands.append((f"{low:.2f} to {high:.2f}", len(inside), sources, said, won))
    names = ("P(A)", "rows", "sources", "said", "A won")
    head = [text(names[0], of=lambda b: b[0])]
    counted = [number(name, "d", of=lambda b, i=i: b[i]) for i, name in enumerate(names) if i in (1, 2)]
    shares = [number(name, ".2f", of=lambda b, i=i: b[i]) for i, name in enumerate(names) if i > 2]
    asked = [one for by in GROUPS for one in found.by(by) if one.refused < len(one.rows)]
    return {"reliability": Table.of(head + counted + shares, bands).markdown(), "scores": score_table(asked).markdown()}


def learnt_table(found: Mapping[str, Mapping]) -> str:
    """What was learnt from all sources, and the ends of what is learnt without one of them."""
    parts = found["without"].values()
    rows = [
        (name, value, min(part[name] for part in parts), max(part[name] for part in parts))
        for name, value in found["all"].items()
    ]
    columns = [text("", of=lambda row: row[0]), number("from all sources", ".4f", of=lambda row: row[1])]
    columns += [
        number(words, ".4f", of=lambda row, i=i: row[i]) for i, words in ((2, "without one: lowest"), (3, "highest"))
    ]
    return Table.of(columns, rows).markdown()
