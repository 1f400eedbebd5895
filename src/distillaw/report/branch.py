"""`branch.html`: what larger batches cost after a fork, under each loss, with the tolerance and the critical batch.

    distillaw branch run.toml --out out/branch

Reads branch.json alone.
"""

import json
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from distillaw.figures.batches import draw_excess
from distillaw.quantities import format_count
from distillaw.report.page import FigureFiles, KeyNumber, Picture, Section, write_page
from distillaw.table import Column, Table, number, text

TOLERANCES = {
    "given": "the tolerance asked for",
    "seed-noise": "twice the noise of a run",
    "merrill2025": "the published tolerance",
    "gain-share": "a twentieth of the window's gain",
}
ANSWERS = {
    "larger": "distillation has the larger critical batch",
    "smaller": "distillation has the smaller critical batch",
    "alike within a doubling": "with and without distillation the critical batch is the same within a doubling",
    "not told apart": "the critical batches with and without distillation are not told apart",
    "undecided: not both are bracketed by the grid": "whether distillation changes the critical batch is undecided",
}
"""Does distillation change the critical batch? By the word of a comparison."""
LOSSES = {"heldout": "held-out loss", "training": "smoothed training loss"}


def write_branch_page(record: Mapping[str, Any], out: Path, *, figures: FigureFiles | None = None) -> Path:
    """Write the page of a branch test from what branch.json holds; other arguments as of `write_any`."""
    write_page(
        out,
        "branch.html.j2",
        figures=figures,
        title=f"distillaw branch: {record['run']['name']}",
        name=record["run"]["name"],
        sentence=_sentence(record),
        numbers=_numbers(record),
        problems=_problems(record),
        sections=[_section(record, fork) for fork in record["forks"]],
        command=record["command"],
        specification=json.dumps(record["test"], indent=2),
    )
    return out


def _sentence(record: Mapping[str, Any]) -> str:
    found = [(fork, each["decisions"]) for fork in record["forks"] for each in fork["comparisons"] if each["decisions"]]
    if not found:
        return f"The critical batch of {record['run']['name']}, measured by branching."
    fork, decisions = found[-1]
    said, other = ANSWERS[decisions[0]["word"]], decisions[-1]["word"]
    if other != decisions[0]["word"]:
        share = TOLERANCES[decisions[-1]["tolerance_from"]]
        said = f"{said} at one tolerance for both; at {share} {other.split(':')[0]}"
    return f"{format_count(fork['tokens'])} tokens into training: {said}."


def _numbers(record: Mapping[str, Any]) -> list[KeyNumber]:
    compared = [
        _compared(fork, each, found)
        for fork in record["forks"]
        for each in fork["comparisons"]
        for found in each["decisions"]
    ]
    return compared[:6] or [_critical(fork, arm) for fork in record["forks"] for arm in fork["arms"]][:6]


def _compared(fork: Mapping[str, Any], comparison: Mapping[str, Any], found: Mapping[str, Any]) -> KeyNumber:
    """Both critical batches under one rule: those of an arm's own tolerance cannot be compared."""
    alone, taught = found["batches"]
    return KeyNumber(
        f"B*, distilled : supervised, {format_count(fork['tokens'])} tokens",
        f"{taught:,.0f} : {alone:,.0f}",
        f"tokens; at {TOLERANCES[found['tolerance_from']]}; {comparison['what']}: {found['word']}",
    )


def _critical(fork: Mapping[str, Any], arm: Mapping[str, Any]) -> KeyNumber:
    first = arm["decisions"][0]
    low, high = first["critical_batch_interval"]
    end = "no upper end" if high is None else f"{high:,.0f}"
    sign = {"NONE_FAILS": "at least ", "FIRST_FAILS": "below "}.get(first["status"], "")
    batch = first["smallest_failing"] if first["status"] == "FIRST_FAILS" else first["critical_batch"]
    return KeyNumber(
        f"B*, {arm['loss']}, {format_count(fork['tokens'])} tokens",
        "undecided" if batch is None else f"{sign}{batch:,.0f} tokens",
        f"{low:,.0f} to {end}, {first['level']:.0%}; {arm['trunk']} checkpoint",
    )


def _problems(record: Mapping[str, Any]) -> list[str]:
    test = record["test"]
    found = [
        f"It holds for this model, this text, the rate rule ({test['rate_rule']}) and windows of {test['window']:,} "
        "tokens. A rate tuned anew for each batch could help any of them."
    ]
    if not test["anneal"]:
        found.append(
            "The rate stays constant: small batches end on their noise floor, which flatters large ones. "
            "--anneal decays it before batches are compared."
        )
    steps = test["window"] // round(max(test["multiples"]) * record["run"]["batch_tokens"])
    if steps < 20:
        found.append(f"The largest batch takes {steps} steps in the window: few for an optimiser to settle.")
    return found


def _section(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Section:
    notes = []
    for arm in fork["arms"]:
        lead = f"{arm['trunk'].capitalize()} checkpoint, branches {arm['loss']}"
        notes.append(f"{lead}: {decision_words(arm['decisions'][0])}.")
    for comparison in fork["comparisons"]:
        notes += [f"{line[0].upper()}{line[1:]}." for line in comparison_words(comparison)]
        excess = excess_words(comparison, record["test"]["level"])
        notes.append(f"{comparison['what'].capitalize()}: {excess}.")
    for arm in fork["arms"]:
        if arm["noise_scale"]:
            lead = f"{arm['trunk'].capitalize()} checkpoint, {arm['loss']}"
            notes.append(f"{lead}: {noise_words(arm['noise_scale'])}.")
    return Section(
        title=f"Forked at {fork['tokens']:,} tokens",
        pictures=[excess_picture(record, fork)],
        notes=notes,
        table=branch_table(record, fork),
        table_title="Every batch",
        open=True,
    )


def excess_picture(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Picture:
    """What a batch costs over the best smaller one, against the batch, by loss."""
    test, name = record["test"], f"branch-{fork['tokens']}"
    said = "; ".join(
        f"{arm['loss']} from {arm['trunk']}: {decision_words(arm['decisions'][0])}" for arm in fork["arms"]
    )
    return Picture(
        name=name,
        title=f"What a larger batch costs, {format_count(fork['tokens'])} tokens into training",
        alt=f"Excess of the held-out loss over the best smaller batch. {said}",
        figure=draw_excess(record, fork),
        caption=f"Held-out loss at the end of the window over the best smaller batch: mean of {test['orders']} orders "
        f"with the {test['level']:.0%} interval (orders and held-out documents). Dashed: the tolerance of each "
        "loss by itself; a batch above it fails. Dotted: where the excess meets it, the critical batch.",
    )


def branch_table(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Table:
    """Every batch of every arm."""
    columns = batch_columns(record["test"]["level"])
    rows = [
        [arm["trunk"], arm["loss"], *(column.of(row) for column in columns)]
        for arm in fork["arms"]
        for row in arm["rows"]
    ]
    return Table([text("checkpoint"), text("branches"), *columns], rows)


def batch_columns(level: float) -> list[Column]:
    """What is known of one batch of an arm."""

    def excess(row: Mapping[str, Any]) -> str:
        low, high = row["excess_interval"]
        return f"{row['excess']:+.4f} [{low:+.4f}, {high:+.4f}]"

    return [
        number("batch, tokens", ",", of=itemgetter("batch_tokens")),
        number("rate", ".4g", of=itemgetter("rate")),
        number("steps", ",", of=itemgetter("steps")),
        number("held-out loss", ".4f", unit="nats/token", of=itemgetter("loss"), missing="-"),
        number(
            f"excess [{level:.0%}]",
            excess,
            of=lambda row: None if row["excess"] is None else row,
            sort=itemgetter("excess"),
            missing="diverged",
        ),
        number("P(fails)", ".1%", of=itemgetter("fails")),
        number("gain lost", ".1%", of=itemgetter("gain_lost"), missing="-"),
    ]


# --- in sentences, the same on the terminal and on the page -------------------------------------------------


def decision_words(decision: Mapping[str, Any]) -> str:
    """One decision: the critical batch or what bounds it."""
    what = f"{LOSSES[decision['loss']]}, {_tolerance(decision)}"
    low, high = decision["critical_batch_interval"]
    between = f"[{low:,.0f}, {'no upper end' if high is None else f'{high:,.0f}'}], {decision['level']:.0%}"
    if decision["status"] == "NOTHING_TO_COMPARE":
        return f"{what}: {decision['remedy']}"
    passing, failing, critical = (
        "" if decision[key] is None else f"{decision[key]:,.0f}"
        for key in ("largest_passing", "smallest_failing", "critical_batch")
    )
    if decision["status"] == "NONE_FAILS":
        said = f"no batch fails up to {passing} tokens: only a lower bound {between}"
    elif decision["status"] == "FIRST_FAILS":
        said = f"already {failing} tokens fail: only an upper bound; interpolated {critical} {between}"
    else:
        said = f"B* = {passing} tokens ({failing} fail); interpolated {critical} {between}"
    if decision.get("passes_after_failing"):
        said += "; a smaller batch fails too, so the losses do not rise steadily"
    return f"{what}: {said}"


def comparison_words(comparison: Mapping[str, Any]) -> list[str]:
    """Distilled against supervised, one line per tolerance."""
    lines = []
    for found in comparison["decisions"]:
        low, high = found["interval"]
        ends = f"[{'open' if low is None else f'{low:+.2f}'}, {'open' if high is None else f'{high:+.2f}'}]"
        alone, taught = found["batches"]
        lines.append(
            f"{comparison['what']}, at {_tolerance(found)}: distilled {taught:,.0f} tokens, supervised {alone:,.0f}: "
            f"{found['doublings']:+.2f} doublings {ends}; P(larger by half a doubling) {found['larger']:.0%}, "
            f"P(smaller by as much) {found['smaller']:.0%}: {found['word']}"
        )
    return lines or [f"{comparison['what']}: every branch of one loss diverged, nothing to compare"]


def excess_words(comparison: Mapping[str, Any], level: float) -> str:
    """What a larger batch costs under one loss and the other, at each multiple."""
    parts = [
        f"x{row['multiple']:g} {row['difference']:+.4f} [{row['interval'][0]:+.4f}, {row['interval'][1]:+.4f}]"
        for row in comparison["excess_difference"]
    ]
    found = ", ".join(parts) or "nothing in common"
    what = "what a batch costs over the smallest, distilled minus supervised, nats/token"
    return f"{what} ({level:.0%}, paired): {found}"


def noise_words(noise: Mapping[str, Any]) -> str:
    """The gradient noise scale, a diagnostic."""
    value = "not distinct from no signal" if noise["value"] is None else f"{noise['value']:,.0f} tokens"
    high = "no upper end" if noise["high"] is None else f"{noise['high']:,.0f}"
    return (
        f"noise scale {value} [{noise['low']:,.0f}, {high}], tr(Sigma) {noise['trace']:.3g} ± "
        f"{noise['trace_se']:.2g}, |G|^2 {noise['grad_sq']:.3g} ± {noise['grad_sq_se']:.2g} (a diagnostic, "
        f"{noise['steps']} batches of {noise['big']:,.0f})"
    )


def _tolerance(found: Mapping[str, Any]) -> str:
    both = found["tolerances"] if "tolerances" in found else [found["tolerance"]]
    values = dict.fromkeys(f"{value:.4f}" for value in both)
    extra = ""
    if "noise" in found and found["tolerance_from"] == "seed-noise":
        extra = f", {found['noise']['dof']} degrees of freedom"
    return f"{TOLERANCES[found['tolerance_from']]} ({' and '.join(values)} nats/token{extra})"
