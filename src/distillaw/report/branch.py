"""`branch.html`: what larger batches cost after a fork, under each loss, with the tolerance and the critical batch.

    distillaw branch run.toml --out out/branch

Reads branch.json alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillaw.figures.forks import draw_excess
from distillaw.quantities import format_count
from distillaw.report.branch_words import (
    ANSWERS,
    TOLERANCES,
    comparison_words,
    decision_words,
    excess_words,
    noise_words,
)
from distillaw.report.content import Figure, Table, Value, number
from distillaw.report.page import FigureFiles, Section, write_page
from distillaw.report.picture import Picture


def write_branch_page(record: Mapping[str, Any], out: Path, *, figures: FigureFiles | None = None) -> Path:
    """Write the page of a branch test.

    Args:
        record: what branch.json holds.
        out: the HTML file.
        figures: where to write every figure as files of its own; None: only in the page.
    """
    write_page(
        out, "branch.html.j2", figures=figures,
        title=f"distillaw branch: {record['run']['name']}", name=record["run"]["name"],
        sentence=_sentence(record), numbers=_numbers(record), problems=_problems(record),
        sections=[_section(record, fork) for fork in record["forks"]], command=record["command"],
        specification=json.dumps(record["test"], indent=2),
    )  # fmt: skip
    return out


def _sentence(record: Mapping[str, Any]) -> str:
    found = [
        (fork, each["decisions"])
        for fork in record["forks"]
        for each in fork["comparisons"]
        if each["decisions"]
    ]
    if not found:
        return f"The critical batch of {record['run']['name']}, measured by branching."
    fork, decisions = found[-1]
    said, other = ANSWERS[decisions[0]["word"]], decisions[-1]["word"]
    if other != decisions[0]["word"]:
        share = TOLERANCES[decisions[-1]["tolerance_from"]]
        said = f"{said} at one tolerance for both; at {share} {other.split(':')[0]}"
    return f"{format_count(fork['tokens'])} tokens into training: {said}."


def _numbers(record: Mapping[str, Any]) -> list[Figure]:
    compared = [_compared(fork, each, found) for fork in record["forks"] for each in fork["comparisons"]
                for found in each["decisions"]]  # fmt: skip
    return compared[:6] or [_critical(fork, arm) for fork in record["forks"] for arm in fork["arms"]][:6]


def _compared(fork: Mapping[str, Any], comparison: Mapping[str, Any], found: Mapping[str, Any]) -> Figure:
    """Both critical batches under one rule: those of an arm's own tolerance cannot be compared."""
    alone, taught = found["batches"]
    return Figure(
        label=f"B*, distilled : supervised, {format_count(fork['tokens'])} tokens",
        value=f"{taught:,.0f} : {alone:,.0f}",
        note=f"tokens; at {TOLERANCES[found['tolerance_from']]}; {comparison['what']}: {found['word']}",
    )  # fmt: skip


def _critical(fork: Mapping[str, Any], arm: Mapping[str, Any]) -> Figure:
    first = arm["decisions"][0]
    low, high = first["critical_batch_interval"]
    sign = {"NONE_FAILS": "at least ", "FIRST_FAILS": "below "}.get(first["status"], "")
    batch = first["smallest_failing"] if first["status"] == "FIRST_FAILS" else first["critical_batch"]
    return Figure(
        label=f"B*, {arm['loss']}, {format_count(fork['tokens'])} tokens",
        value="undecided" if batch is None else f"{sign}{batch:,.0f} tokens",
        note=f"{low:,.0f} to {'no upper end' if high is None else f'{high:,.0f}'}, {first['level']:.0%}; "
             f"{arm['trunk']} checkpoint",
    )  # fmt: skip


def _problems(record: Mapping[str, Any]) -> list[str]:
    test = record["test"]
    found = [
        f"It holds for this model, this text, the rate rule ({test['rate_rule']}) and windows of {test['window']:,} "
        "tokens. A rate tuned anew for each batch could help any of them."
    ]
    if not test["anneal"]:
        found.append("The rate stays constant: small batches end on their noise floor, which flatters large ones. "
                     "--anneal decays it before batches are compared.")  # fmt: skip
    steps = test["window"] // round(max(test["multiples"]) * record["run"]["batch_tokens"])
    if steps < 20:
        found.append(f"The largest batch takes {steps} steps in the window: few for an optimiser to settle.")
    return found


def _section(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Section:
    notes = [f"{arm['trunk'].capitalize()} checkpoint, branches {arm['loss']}: {decision_words(arm['decisions'][0])}."
             for arm in fork["arms"]]  # fmt: skip
    for comparison in fork["comparisons"]:
        notes += [f"{line[0].upper()}{line[1:]}." for line in comparison_words(comparison)]
        notes.append(
            f"{comparison['what'].capitalize()}: {excess_words(comparison, record['test']['level'])}."
        )
    notes += [f"{arm['trunk'].capitalize()} checkpoint, {arm['loss']}: {noise_words(arm['noise_scale'])}."
              for arm in fork["arms"] if arm["noise_scale"]]  # fmt: skip
    return Section(title=f"Forked at {fork['tokens']:,} tokens", pictures=[excess_picture(record, fork)], notes=notes,
                   table=_table(fork), table_title="Every batch", open=True)  # fmt: skip


def excess_picture(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Picture:
    """What a batch costs over the best smaller one, against the batch, by loss."""
    test, name = record["test"], f"branch-{fork['tokens']}"
    said = "; ".join(
        f"{arm['loss']} from {arm['trunk']}: {decision_words(arm['decisions'][0])}" for arm in fork["arms"]
    )
    return Picture(
        name=name, title=f"What a larger batch costs, {format_count(fork['tokens'])} tokens into training",
        alt=f"Excess of the held-out loss over the best smaller batch. {said}",
        figure=draw_excess(record, fork),
        caption=f"Held-out loss at the end of the window over the best smaller batch: mean of {test['orders']} orders "
        f"with the {test['level']:.0%} interval (orders and held-out documents). Dashed: the tolerance of each "
        "loss by itself; a batch above it fails. Dotted: where the excess meets it, the critical batch.",
    )  # fmt: skip


def _table(fork: Mapping[str, Any]) -> Table:
    rows = [
        [Value(text=arm["trunk"], kind="text"), Value(text=arm["loss"], kind="text"),
         Value(text=f"{row['batch_tokens']:,}", sort=row["batch_tokens"]),
         Value(text=f"{row['rate']:.4g}", sort=row["rate"]), number(row["steps"], 0), number(row["loss"], 4),
         number(row["excess"], 4), number(row["fails"], 3), number(row["gain_lost"], 3)]
        for arm in fork["arms"] for row in arm["rows"]
    ]  # fmt: skip
    return Table(columns=["checkpoint", "loss", "batch, tokens", "rate", "steps", "held-out, nats/token", "excess",
                          "P(fails)", "gain lost, share"], rows=rows)  # fmt: skip
