"""`branch.html`: what larger batches cost after a fork, under each loss, with the tolerance and the critical batch.

    distillaw branch run.toml --out out/branch

Reads branch.json alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter

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
from distillaw.report.page import Section, render_page
from distillaw.report.svg import INK, MUTED, SERIES, Picture, count_axis, new_figure, set_title, to_svg
from distillaw.runs.files import write_text

STYLES = {"distilled": (SERIES[0], "o"), "supervised": (SERIES[1], "s")}


def write_branch_page(record: Mapping[str, Any], out: Path) -> Path:
    """Write the page of a branch test.

    Args:
        record: what branch.json holds.
        out: the HTML file.
    """
    write_text(out, render_page(
        "branch.html.j2", title=f"distillaw branch: {record['run']['name']}", name=record["run"]["name"],
        sentence=_sentence(record), numbers=_numbers(record), problems=_problems(record),
        sections=[_section(record, fork) for fork in record["forks"]], command=record["command"],
        specification=json.dumps(record["test"], indent=2),
    ))  # fmt: skip
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
        svg=to_svg(draw_excess(record, fork), name=name, alt=said),
        caption=f"Held-out loss at the end of the window over the best smaller batch: mean of {test['orders']} orders "
        f"with the {test['level']:.0%} interval (orders and held-out documents). Dashed: the tolerance of each "
        "loss by itself; a batch above it fails. Dotted: where the excess meets it, the critical batch.",
    )  # fmt: skip


def draw_excess(record: Mapping[str, Any], fork: Mapping[str, Any]) -> Drawing:
    """A panel per checkpoint; one for all where each loss is branched from its own checkpoint only."""
    panels = _panels(fork)
    figure, axes = new_figure(
        1, len(panels), width=4.8 if len(panels) == 1 else 3.4 * len(panels), height=3.2
    )
    for ax, (title, arms) in zip(axes[0], panels.items(), strict=True):
        for shift, arm in enumerate(arms):
            _draw_arm(ax, arm, shift=1 + 0.04 * (shift - (len(arms) - 1) / 2))
        ax.axhline(0, color=INK, linewidth=0.7)
        count_axis(ax, [k * record["run"]["batch_tokens"] for k in record["test"]["multiples"]])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_xlabel("batch, tokens")
        set_title(ax, title)
        ax.legend(loc="upper left", fontsize=8, frameon=False)
    lowest, highest = min(ax.get_ylim()[0] for ax in axes[0]), max(ax.get_ylim()[1] for ax in axes[0])
    for ax in axes[0]:
        ax.set_ylim(lowest, highest)
    axes[0][0].set_ylabel("excess loss, nats/token")
    return figure


def _panels(fork: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    arms = fork["arms"]
    if len(arms) > 1 and all(arm["trunk"] == arm["loss"] for arm in arms):
        return {"each loss from its own checkpoint": arms}
    trunks = dict.fromkeys(arm["trunk"] for arm in arms)
    return {f"{trunk} checkpoint": [arm for arm in arms if arm["trunk"] == trunk] for trunk in trunks}


def _draw_arm(ax: Axes, arm: Mapping[str, Any], *, shift: float) -> None:
    color, marker = STYLES[arm["loss"]]
    rows = [row for row in arm["rows"] if row["excess"] is not None]
    x, y = [row["batch_tokens"] * shift for row in rows], [row["excess"] for row in rows]
    ax.plot(x, y, marker=marker, color=color, markersize=4.5, label=arm["loss"])
    for place, row in zip(x, rows, strict=True):
        ax.plot([place, place], row["excess_interval"], color=color, linewidth=2.4, alpha=0.4)
    first = arm["decisions"][0]
    ax.axhline(first["tolerance"], color=color, linestyle=(0, (4, 3)), linewidth=0.9)
    if first["status"] in ("BRACKETED", "FIRST_FAILS"):
        ax.axvline(first["critical_batch"], color=color, linestyle=":", linewidth=1.0)
    for row in arm["rows"]:
        if row["excess"] is None:
            ax.annotate("diverged", (row["batch_tokens"], 0), rotation=90, fontsize=7, color=MUTED)


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
