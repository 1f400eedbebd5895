"""`branch.html`: what larger batches cost after a fork, under each loss, with the tolerance and the critical batch.

    distillaw branch run.toml --out out/branch

Reads branch.json alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from distillaw.quantities import format_count
from distillaw.report.branch_words import comparison_words, decision_words, excess_words, noise_words
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
    found = [(fork, each["decisions"][0]) for fork in record["forks"] for each in fork["comparisons"]
             if each["decisions"]]  # fmt: skip
    if not found:
        return f"The critical batch of {record['run']['name']}, measured by branching."
    fork, first = found[-1]
    said = {
        "larger": "Distillation has the larger critical batch",
        "smaller": "Distillation has the smaller critical batch",
        "alike within a doubling": "With and without distillation the critical batch is the same within a doubling",
        "not told apart": "The critical batches with and without distillation cannot be told apart",
    }.get(first["word"], "Whether distillation changes the critical batch is undecided")
    return f"{said}, {format_count(fork['tokens'])} tokens into training."


def _numbers(record: Mapping[str, Any]) -> list[Figure]:
    figures = []
    for fork in record["forks"]:
        for arm in fork["arms"]:
            first = arm["decisions"][0]
            if first["critical_batch"] is None:
                continue
            low, high = first["critical_batch_interval"]
            sign = {"NONE_FAILS": "at least ", "FIRST_FAILS": "below "}.get(first["status"], "")
            bound = first["smallest_failing"] if first["status"] == "FIRST_FAILS" else first["critical_batch"]
            figures.append(Figure(
                label=f"B*, {arm['loss']}, {format_count(fork['tokens'])} tokens", value=f"{sign}{bound:,.0f} tokens",
                note=f"{low:,.0f} to {'no upper end' if high is None else f'{high:,.0f}'}, {first['level']:.0%}; "
                     f"{arm['trunk']} checkpoint",
            ))  # fmt: skip
    return figures[:6]


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
    """A panel per checkpoint: what a batch costs over the best smaller one, against the batch, by loss."""
    trunks = list(dict.fromkeys(arm["trunk"] for arm in fork["arms"]))
    figure, axes = new_figure(
        1, len(trunks), width=4.8 if len(trunks) == 1 else 3.4 * len(trunks), height=3.2
    )
    batch, name, test = record["run"]["batch_tokens"], f"branch-{fork['tokens']}", record["test"]
    for ax, trunk in zip(axes[0], trunks, strict=True):
        arms = [arm for arm in fork["arms"] if arm["trunk"] == trunk]
        for shift, arm in enumerate(arms):
            _draw_arm(ax, arm, shift=1 + 0.04 * (shift - (len(arms) - 1) / 2))
        ax.axhline(0, color=INK, linewidth=0.7)
        count_axis(ax, [k * batch for k in test["multiples"]])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_xlabel("batch, tokens")
        set_title(ax, f"{trunk} checkpoint")
        ax.legend(loc="upper left", fontsize=8, frameon=False)
    axes[0][0].set_ylabel("excess loss, nats/token")
    said = "; ".join(
        f"{arm['loss']} from {arm['trunk']}: {decision_words(arm['decisions'][0])}" for arm in fork["arms"]
    )
    return Picture(
        name=name, title=f"What a larger batch costs, {format_count(fork['tokens'])} tokens into training",
        alt=f"Excess of the held-out loss over the best smaller batch. {said}",
        svg=to_svg(figure, name=name, alt=said),
        caption=f"Held-out loss at the end of the window over the best smaller batch: mean of {test['orders']} orders "
        f"with the {test['level']:.0%} interval (orders and held-out documents). Dashed: the tolerance; a batch above "
        "it fails. Dotted: where the excess meets it, the critical batch.",
    )  # fmt: skip


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
