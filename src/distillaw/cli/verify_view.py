"""Frozen predictions and their scores in the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distillaw.cli.console import console as standard_output
from distillaw.cli.console import numbers_table, print_sections, print_table
from distillaw.quantities import format_count

if TYPE_CHECKING:
    from rich.table import Table

    from distillaw.verifying.api import Freeze
    from distillaw.verifying.cells import Cell
    from distillaw.verifying.scorecard import Scorecard
    from distillaw.verifying.scoring import Scored


def show_frozen(found: "Freeze") -> None:
    """What was frozen, and its hash."""
    console, one = standard_output(soft_wrap=True), found.frozen
    table = numbers_table("by", "of", ">params", ">tokens", "teacher", ">predicted", ">interval", "range")
    for p in one.predictions:
        mark = (
            "after the fact"
            if p.after_the_fact
            else "inside"
            if p.inside_range
            else f"beyond: {_beyond(p.outside)}"
        )
        table.add_row(p.by, p.quantity, *_cell(p.cell), f"{p.mean:+.4f}" if p.quantity == "gain" else f"{p.mean:.4f}",
                      _ends(p.intervals.get(one.level)), mark)  # fmt: skip
    print_table(table)
    print_sections(console, [("Best teacher", _choices(one.choices)),
                             ("Silent", [f"{name}: {why}" for name, why in found.silent.items()])])  # fmt: skip
    state = "frozen" if found.is_new else "the same predictions were frozen before"
    console.print(f"\n{state}: {one.path}\nhash    {one.hash}", markup=False)
    console.print(f"follows {one.document['previous'] or 'nothing: the first file'}", markup=False)
    console.print("The hash shows a change, not a date: put it into a commit or an e-mail now.", markup=False)


def _choices(choices: Sequence[Any]) -> list[str]:
    return [
        f"{c.by}, {' parameters, '.join(_cell(c.cells[0])[:2])} tokens: {_cell(c.cells[c.best])[2]} "
        f"({c.probabilities[c.best]:.0%})" for c in choices
    ]  # fmt: skip


def _cell(cell: "Cell") -> tuple[str, str, str]:
    teacher = "none" if not cell.is_taught else f"loss {cell.teacher_loss:.4f}"
    return format_count(cell.params), format_count(cell.tokens), teacher


def _ends(ends: tuple[float, float] | None) -> str:
    return "none" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def _beyond(outside: dict[str, float]) -> str:
    from math import exp

    sizes = {"student_params": "params", "student_tokens": "tokens"}
    found = [f"{name} x{exp(outside[key]):.2g}" for key, name in sizes.items() if key in outside]
    return (
        ", ".join(found + (["teacher loss"] if "teacher_loss" in outside else [])) or "tokens per parameter"
    )


def show_card(card: "Scorecard") -> None:
    """Every prediction, then the sums."""
    from distillaw.verifying import tally
    from distillaw.verifying.scorecard import CAVEATS

    console = standard_output(soft_wrap=True)
    for study in card.studies:
        files = ", ".join(
            f"{one.path.name} ({'intact' if one.is_intact else 'TAMPERED'})" for one in study.files
        )
        console.print(f"{study.name}: {files}", markup=False)
        if len(card.studies) == 1:
            print_table(_rows(study.predictions))
        print_sections(console, [("Mind", study.problems)])
    rows, choices = card.predictions, card.choices
    counts = ", ".join(f"{n} {state}" for state, n in card.counts.items() if n)
    num = len(card.studies)
    console.print(
        f"\n{num} {'study' if num == 1 else 'studies'}: {counts or 'nothing predicted'}", markup=False
    )
    tables = {
        "By forecaster": _forecasters(tally.by_forecaster(rows)),
        "By distance": _distances(tally.by_distance(rows)),
        "Calibration": _calibration(tally.calibration(rows)),
        "Decisions": _decisions(tally.decisions(rows, choices)),
    }
    for title, table in tables.items():
        if table.row_count:
            console.print(f"\n{title}:", markup=False)
            print_table(table)
    best = [best_sentence(entry) for entry in tally.head_to_head(rows)]
    caveats = CAVEATS if card.counts["scored"] else ()
    print_sections(
        console, [("Best", best), ("Not scored", [*card.unreadable, *card.copies]), ("Read as", caveats)]
    )


def best_sentence(entry: dict[str, Any]) -> str:
    """Who predicted best on common cells."""
    kind = (
        "gains"
        if entry["quantity"] == "gain"
        else f"losses {'from a teacher' if entry['is_taught'] else 'alone'}"
    )
    ranks = ", ".join(f"{r['by']} ({100 * r['rms_share']:.2f} % off)" for r in entry["ranking"])
    return f"{kind}, {entry['num']} cells that all predicted, best interval score first: {ranks}"


def _rows(predictions: Sequence["Scored"]) -> "Table":
    table = numbers_table("by", "of", ">params", ">tokens", "teacher", ">predicted", ">interval", ">measured", ">seeds",
                          ">error", ">%", ">z", "")  # fmt: skip
    for row in sorted(predictions, key=_order):
        p, known = row.prediction, row.measured == row.measured
        z = row.z if known else None
        came = (
            (f"{row.measured:.4f}", f"{row.error:+.4f}", f"{100 * row.share:+.2f}") if known else ("", "", "")
        )
        table.add_row(
            p.by, p.quantity, *_cell(p.cell), f"{p.mean:.4f}", _ends(row.interval), came[0], str(row.num_seeds or ""),
            came[1], came[2], "" if z is None else f"{z:+.1f}", _mark(row),
        )  # fmt: skip
    return table


def _order(row: "Scored") -> tuple[object, ...]:
    cell = row.prediction.cell
    return (
        row.prediction.quantity != "loss",
        row.prediction.by,
        cell.params,
        cell.tokens,
        cell.teacher_loss or 99.0,
    )


def _mark(row: "Scored") -> str:
    if not row.counts:
        return f"{row.status}{': ' + row.problem if row.problem else ''}"
    hit = row.is_hit()
    return "no interval" if hit is None else "hit" if hit else "MISS"


def _forecasters(tallies: Sequence[Any]) -> "Table":
    table = numbers_table("by", "of", ">cells", ">rms error", ">rms %", ">bias %", ">hits", ">coverage", ">90 % Wilson",
                          ">width %", ">interval score %")  # fmt: skip
    for t in tallies:
        table.add_row(t.by, t.quantity, str(t.num), f"{t.rms:.4f}", _share(t.rms_share), f"{100 * t.bias_share:+.2f}",
                      f"{t.hits}/{t.num_intervals}", _percent(t.coverage), _wilson(t.coverage_interval),
                      _share(t.width_share), _share(t.interval_score))  # fmt: skip
    return table


def _distances(entries: Sequence[dict[str, Any]]) -> "Table":
    table = numbers_table("by", "beyond the runs fitted", ">losses", ">rms %", ">bias %", ">coverage")
    for e in entries:
        table.add_row(e["by"], distance_text(e), str(e["num"]), _share(e["rms_share"]), f"{100 * e['bias_share']:+.2f}",
                      _percent(e["coverage"]))  # fmt: skip
    return table


def distance_text(entry: dict[str, Any]) -> str:
    """The row of a distance."""
    if entry["to"] == 1.0:
        return "inside"
    return f"x{entry['from']:g} to x{entry['to']:g}" if entry["to"] else f"more than x{entry['from']:g}"


def _calibration(entries: Sequence[dict[str, Any]]) -> "Table":
    table = numbers_table("by", "of", ">nominal", ">obtained", ">90 % Wilson", ">predictions")
    for e in entries:
        table.add_row(e["by"], e["quantity"], _percent(e["level"]), _percent(e["obtained"]), _wilson(e["interval"]),
                      str(e["num"]))  # fmt: skip
    return table


def _decisions(entries: Sequence[dict[str, Any]]) -> "Table":
    table = numbers_table("question", "by", ">right", ">Brier", ">regret, nats", "said: came")
    for e in entries:
        bins = ", ".join(f"{b['said']:.0%}: {b['came']:.0%} of {b['num']}" for b in e["calibration"])
        right = f"{e['right']}/{e['num']}"
        table.add_row(e["question"], e["by"], right, f"{e['brier']:.3f}", f"{e['regret']:.4f}", bins)
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _wilson(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{100 * ends[0]:.0f} to {100 * ends[1]:.0f} %"
