"""The arms of one student: where each began, where it ended, how far it is behind the best."""

from collections.abc import Mapping
from typing import Any

from distillaw.figures.arms import arm_name, draw_arms
from distillaw.quantities import format_count
from distillaw.report.content import Table, Value, number
from distillaw.report.picture import Picture


def arms_picture(record: Mapping[str, Any]) -> Picture:
    """The arms of a recipe, best on top."""
    alt = "; ".join(f"{arm_name(row['arm'])} {row['loss']:.3f}" for row in record["arms"])
    return Picture(
        name="arms", title="Arms at equal tokens", alt=f"Held-out loss of each arm: {alt}", figure=draw_arms(record),
        caption=f"Every arm read the same {format_count(record['tokens'])} tokens. Rings: before the first step; dots: "
        "after the last, with the 90 % interval of the held-out documents; blue: taught, grey: from the text alone. "
        "Differences between arms are known better than these intervals: they are paired.",
    )  # fmt: skip


def pair_sentences(record: Mapping[str, Any]) -> list[str]:
    """What start and teacher were worth."""
    return [
        f"{pair['what'][0].upper()}{pair['what'][1:]}: {pair['gain']:+.3f} nats/token ({pair['interval'][0]:+.3f} to "
        f"{pair['interval'][1]:+.3f}, 90 %, paired over {pair['documents']} documents, one seed)."
        for pair in record["pairs"]
    ]


def arm_table(record: Mapping[str, Any]) -> Table:
    """Every arm with its numbers."""
    rows = [
        [Value(text=arm_name(row["arm"]), kind="text"), Value(text=format_count(row["params"]), sort=row["params"]),
         number(row["start_loss"], 3), number(row["loss"], 4), number(row["loss_se"], 4), number(row["behind_best"], 4),
         Value(text=f"{row['peak_lr']:g}", sort=row["peak_lr"]), number(row["seconds"], 0)]
        for row in record["arms"]
    ]  # fmt: skip
    return Table(columns=["arm", "parameters", "loss before, nats/token", "loss after", "se", "behind the best",
                          "learning rate", "seconds"],
                 rows=rows)  # fmt: skip
