"""Frozen predictions against what was measured: the section of the report, from the same card as `verify score`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillaw.errors import DistillawError
from distillaw.figures.frozen import draw_frozen
from distillaw.quantities import format_count
from distillaw.report.content import Table, Value, number
from distillaw.report.intervals import coverage_picture
from distillaw.report.picture import Picture
from distillaw.runs.record import budget_text
from distillaw.verifying import tally
from distillaw.verifying.frozen import frozen_files, predictions_folder
from distillaw.verifying.scorecard import Scorecard, score_places
from distillaw.verifying.scoring import Scored, StudyScore

TITLE = "Scorecard: predictions frozen before the runs"
NOTHING = (
    "Nothing was predicted before these runs, so no forecast can be scored. `distillaw verify freeze {folder} --from "
    "NEXT.toml` writes down, with a hash, what every law says of the runs of NEXT.toml; once they are trained, this "
    "page shows how many intervals held. Until then the next section is all that is known of the laws' intervals."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPart:
    """What the section shows."""

    pictures: Sequence[Picture]
    notes: Sequence[str]
    table: Table | None


def frozen_part(folder: Path) -> FrozenPart:
    """The frozen predictions of a study folder, and the record of the studies that lie beside it."""
    if not frozen_files(predictions_folder(folder)):
        return FrozenPart(pictures=(), notes=(NOTHING.format(folder=folder),), table=None)
    try:
        card = score_places([folder])
    except DistillawError as error:
        return FrozenPart(pictures=(), notes=(f"Frozen predictions cannot be read: {error}",), table=None)
    rows = card.predictions
    notes = [*card.unreadable, *(line for study in card.studies for line in _file_lines(study))]
    notes += [*_sums(card), *_beside(folder)]
    scored = [row for row in rows if row.counts]
    pictures = [_picture(scored)] if scored else []
    if any(row.interval is not None for row in scored):
        pictures.append(coverage_picture(scored))
    return FrozenPart(pictures=pictures, notes=notes, table=_table(rows) if rows else None)


def _file_lines(study: StudyScore) -> list[str]:
    files = [
        f"{one.document.get('frozen_at')}, SHA-256 {one.hash} ({'intact' if one.is_intact else 'TAMPERED'})"
        for one in study.files
    ]
    return [f"Frozen {'; '.join(files)}.", *study.problems]


def _sums(card: Scorecard) -> list[str]:
    """Sentences on errors, coverage and decisions."""
    found = [f"{n} predictions are {state}." for state, n in card.counts.items() if n and state != "scored"]
    tallies = tally.by_forecaster(card.predictions)
    for quantity, noun in (("loss", "Losses"), ("gain", "Gains over no teacher")):
        held = [_tally_words(one) for one in tallies if one.quantity == quantity]
        if held:
            found.append(f"{noun} inside their intervals, and root mean square error: {'; '.join(held)}.")
    decisions = tally.decisions(card.predictions, card.choices)
    for question in dict.fromkeys(str(entry["question"]) for entry in decisions):
        said = [_decision_words(entry) for entry in decisions if entry["question"] == question]
        found.append(f"{question.capitalize()}? Right, and Brier score: {'; '.join(said)}.")
    return found


def _tally_words(one: tally.Tally) -> str:
    if one.coverage_interval is None:
        return f"{one.by} without intervals, {100 * one.rms_share:.2f} %"
    low, high = (100 * end for end in one.coverage_interval)
    return (
        f"{one.by} {one.hits} of {one.num_intervals} ({low:.0f} to {high:.0f} %), {100 * one.rms_share:.2f} %"
    )


def _decision_words(entry: dict[str, Any]) -> str:
    return f"{entry['by']} {entry['right']} of {entry['num']}, {entry['brier']:.3f}"


def _beside(folder: Path) -> list[str]:
    """Coverage over all studies in the folder that holds this one, where others have predictions too."""
    try:
        card = score_places([folder.resolve().parent])
    except DistillawError:
        return []
    if len(card.studies) < 2 or not card.counts["scored"]:
        return []
    losses = [row for row in card.predictions if row.counts and row.prediction.quantity == "loss"]
    one = tally.tally(losses, by="all", quantity="loss") if losses else None
    if one is None or one.coverage is None:
        return []
    return [f"Over the {len(card.studies)} studies of {folder.resolve().parent.name}/ so far, by all forecasters: "
            f"{one.hits} of {one.num_intervals} losses inside their intervals, root mean square error "
            f"{100 * one.rms_share:.2f} %."]  # fmt: skip


def _picture(rows: Sequence[Scored]) -> Picture:
    """Predicted minus measured, and what is said of it."""
    return Picture(
        name="frozen", title=TITLE, figure=draw_frozen(rows),
        alt=f"{TITLE}, predicted minus measured. " + " ".join(map(_alt_words, tally.by_forecaster(rows))),
        caption="Each bar is an interval frozen before the run, less what was then measured: a bar across zero held "
        "(dot), one that does not reach it missed (cross). In each block, cells farther beyond the fitted runs stand "
        "to the right.",
    )  # fmt: skip


def _alt_words(one: tally.Tally) -> str:
    return (
        f"{one.by}: {one.hits} of {one.num_intervals} {one.quantity} intervals held, root mean square error "
        f"{100 * one.rms_share:.2f} %."
    )


def _table(rows: Sequence[Scored]) -> Table:
    columns = ["by", "of", "student", "tokens", "teacher loss", "predicted", "lower", "upper", "measured", "error, %",
               "z", "beyond", ""]  # fmt: skip
    return Table(columns=columns, rows=[_row(row) for row in rows])


def _row(row: Scored) -> list[Value]:
    p, ends = row.prediction, row.interval or (None, None)
    known = row.measured == row.measured
    result = (
        row.status
        if not row.counts
        else "no interval"
        if row.is_hit() is None
        else "hit"
        if row.is_hit()
        else "miss"
    )
    return [
        Value(text=p.by, sort=p.by, kind="text"), Value(text=p.quantity, sort=p.quantity, kind="text"),
        Value(text=format_count(p.cell.params), sort=p.cell.params),
        Value(text=budget_text(p.cell.tokens), sort=p.cell.tokens), number(p.cell.teacher_loss, 4), number(p.mean, 4),
        number(ends[0], 4), number(ends[1], 4), number(row.measured, 4), number(100 * row.share if known else None, 2),
        number(row.z if known else None, 1), Value(text=f"x{row.factor_beyond:.3g}", sort=row.factor_beyond),
        Value(text=result, sort=result, kind="text"),
    ]  # fmt: skip
