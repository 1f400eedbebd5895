"""How far a study's numbers can be trusted: controls, laws, hold-outs, predictions, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter, itemgetter
from pathlib import Path

from distillaw.controls.api import summary
from distillaw.controls.control import STATUSES, Control
from distillaw.errors import DistillawError
from distillaw.figures.calibrated import Calibrated, ErrorEstimate, calibrated_groups, draw_calibration, or_inf
from distillaw.figures.fits import (
    LABELS,
    FittedLaw,
    HoldOut,
    draw_coverage,
    draw_fits,
    draw_frozen,
    draw_hold_outs,
    fitted_laws,
    hold_outs,
)
from distillaw.figures.style import Z90
from distillaw.fitting.study import kept_laws
from distillaw.report.page import Picture, Section, status_words
from distillaw.report.students import drawn
from distillaw.runs.paired import wilson_interval
from distillaw.runs.record import StudyRecord, budget_text
from distillaw.table import Column, Table, number, text
from distillaw.verifying import scorecard
from distillaw.verifying.frozen import frozen_files, predictions_folder
from distillaw.verifying.scorecard import Scorecard, Scored, prediction_table, score_places

FIT_TITLE = "Predicted against measured"
FROZEN_TITLE = "Scorecard: predictions frozen before the runs"
CALIBRATION_TITLE = "Calibration, and the distance from the teacher"
NOTHING_FROZEN = (
    "Nothing was predicted before these runs, so no forecast can be scored. `distillaw verify freeze {folder} --from "
    "NEXT.toml` writes down, with a hash, what every law says of the runs of NEXT.toml; once they are trained, this "
    "page shows how many intervals held. Until then the next section is all that is known of the laws' intervals."
)


# --- controls -----------------------------------------------------------------------------------------------


def control_section(controls: Sequence[Control]) -> Section:
    """How the controls stand, what a failed one means, and each with its numbers and what to do."""
    notes = ["No student has finished yet, so nothing can be checked."]
    if controls:
        notes = [f"{summary(controls)}. A failed control leaves laws and verdict standing, with a caveat."]
    notes += [f"{c.name}: without it, {c.guards}." for c in controls if c.status == "failed"]
    columns = [
        text("control", of=attrgetter("name")),
        text("status", of=attrgetter("status"), sort=STATUSES.index),
        text("found", of=attrgetter("found"), is_wrapped=True),
        text("what to do", of=attrgetter("remedy"), is_wrapped=True),
    ]
    return Section(
        title="Controls: what makes these numbers mean something",
        notes=notes,
        table=Table.of(columns, controls),
        table_title="Every control with its numbers",
        open=True,
    )


# --- fitted laws --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FitNote:
    """One law of the study: its status first, then values where there are any."""

    family: str
    status: str
    remedy: str
    summary: str = ""
    coefficients: Table | None = None
    """None where the fit is not to be used."""


def fit_notes(record: StudyRecord) -> list[FitNote]:
    """The stored fits and the families that could not be fitted."""
    kept = kept_laws(record)
    found = [
        FitNote(
            family=name,
            status=fit.status.name,
            remedy=fit.remedy or fit.status.value,
            summary=f"{fit.nobs} rows in {fit.ngroups} independent runs",
            coefficients=fit.coefficient_table() if fit.is_usable else None,
        )
        for name, fit in kept.fits.items()
    ]
    for name, error in kept.errors.items():
        found.append(FitNote(family=name, status="NOT FITTED", remedy=error))
    return sorted(found, key=lambda note: _FAMILY_ORDER.get(note.family, 9))


_FAMILY_ORDER = {"supervised": 0, "distillation-kappa": 1, "distillation-reduced": 2, "capacity-gap": 3}


def fit_section(record: StudyRecord) -> Section:
    """This study's laws where they may be drawn; else why not."""
    laws, notes = fitted_laws(record), []
    if len(laws) < len(LABELS):
        shown = {law.label for law in laws}
        missing = [n for n in fit_notes(record) if n.family in LABELS and LABELS[n.family] not in shown]
        why = [f"{LABELS[n.family]}: {status_words(n.status)}: {n.remedy.rstrip('.')}." for n in missing]
        lead = "Not drawn through this study: " if laws else "No law is drawn through this study: "
        notes = [lead + (" ".join(why) or "none has been fitted.")]
    return Section(title=FIT_TITLE, pictures=[fits_picture(laws)] if laws else [], notes=notes)


def fits_picture(laws: Sequence[FittedLaw]) -> Picture:
    """Predicted against measured, and residuals; DataError: there is no law."""
    words = [f"{law.label}: {len(law.measured)} runs, root mean square error {law.rms:.2f} %." for law in laws]
    return Picture(
        name="fit",
        title=FIT_TITLE,
        alt=f"{FIT_TITLE}. {' '.join(words)}",
        figure=draw_fits(laws),
        caption="Laws fitted on this study against the runs they were fitted to: left on the diagonal, right what is "
        "left over. Points near zero without a trend mean that the form holds inside this range, not beyond it. The "
        "band at the right is the root mean square of what is left over.",
    )


# --- predictions frozen before the runs ---------------------------------------------------------------------


def frozen_section(folder: Path) -> Section:
    """The frozen predictions of a study folder, from the same card as `verify score`, and the record beside it."""
    if not frozen_files(predictions_folder(folder)):
        return Section(title=FROZEN_TITLE, notes=[NOTHING_FROZEN.format(folder=folder)])
    try:
        card = score_places([folder])
    except DistillawError as error:
        return Section(title=FROZEN_TITLE, notes=[f"Frozen predictions cannot be read: {error}"])
    notes = list(card.unreadable)
    for study in card.studies:
        files = (
            f"{one.document.get('frozen_at')}, SHA-256 {one.hash} ({'intact' if one.is_intact else 'TAMPERED'})"
            for one in study.files
        )
        notes += [f"Frozen {'; '.join(files)}.", *study.problems]
    scored = [row for row in card.predictions if row.counts]
    pictures = [_frozen_picture(scored)] if scored else []
    if any(row.interval is not None for row in scored):
        pictures.append(coverage_picture(scored))
    return Section(
        title=FROZEN_TITLE,
        pictures=pictures,
        notes=[*notes, *_sums(card), *_beside(folder)],
        table=prediction_table(card.predictions) if card.predictions else None,
        table_title="Every prediction",
    )


def _sums(card: Scorecard) -> list[str]:
    """Sentences on errors, coverage and decisions."""
    found = [f"{n} predictions are {state}." for state, n in card.counts.items() if n and state != "scored"]
    tallies = scorecard.by_forecaster(card.predictions)
    for quantity, noun in (("loss", "Losses"), ("gain", "Gains over no teacher")):
        held = [_tally_words(one) for one in tallies if one.quantity == quantity]
        if held:
            found.append(f"{noun} inside their intervals, and root mean square error: {'; '.join(held)}.")
    decisions = scorecard.decisions(card.predictions, card.choices)
    for question in dict.fromkeys(str(entry["question"]) for entry in decisions):
        said = [
            f"{entry['by']} {entry['right']} of {entry['num']}, {entry['brier']:.3f}"
            for entry in decisions
            if entry["question"] == question
        ]
        found.append(f"{question.capitalize()}? Right, and Brier score: {'; '.join(said)}.")
    return found


def _tally_words(one: scorecard.Tally) -> str:
    if one.coverage_interval is None:
        return f"{one.by} without intervals, {100 * one.rms_share:.2f} %"
    low, high = (100 * end for end in one.coverage_interval)
    hits = f"{one.hits} of {one.num_intervals}"
    return f"{one.by} {hits} ({low:.0f} to {high:.0f} %), {100 * one.rms_share:.2f} %"


def _beside(folder: Path) -> list[str]:
    """Coverage over all studies in the folder that holds this one, where others have predictions too."""
    try:
        card = score_places([folder.resolve().parent])
    except DistillawError:
        return []
    losses = [row for row in card.predictions if row.counts and row.prediction.quantity == "loss"]
    one = scorecard.tally(losses, by="all", quantity="loss") if losses else None
    if len(card.studies) < 2 or one is None or one.coverage is None:
        return []
    return [
        f"Over the {len(card.studies)} studies of {folder.resolve().parent.name}/ so far, by all forecasters: "
        f"{one.hits} of {one.num_intervals} losses inside their intervals, root mean square error "
        f"{100 * one.rms_share:.2f} %."
    ]


def _frozen_picture(rows: Sequence[Scored]) -> Picture:
    """Predicted minus measured, and what is said of it."""
    words = [
        f"{one.by}: {one.hits} of {one.num_intervals} {one.quantity} intervals held, root mean square error "
        f"{100 * one.rms_share:.2f} %."
        for one in scorecard.by_forecaster(rows)
    ]
    return Picture(
        name="frozen",
        title=FROZEN_TITLE,
        figure=draw_frozen(rows),
        alt=f"{FROZEN_TITLE}, predicted minus measured. {' '.join(words)}",
        caption="Each bar is an interval frozen before the run, less what was then measured: a bar across zero held "
        "(dot), one that does not reach it missed (cross). In each block, cells farther beyond the fitted runs stand "
        "to the right.",
    )


def coverage_picture(rows: Sequence[Scored]) -> Picture:
    """Obtained against promised coverage; DataError: no interval has been scored."""
    words = [
        f"{one['by']}, {one['quantity']}, {100 * one['level']:.0f} % intervals: {100 * one['obtained']:.0f} % of "
        f"{one['num']} inside."
        for one in scorecard.calibration(rows)
    ]
    return Picture(
        name="coverage",
        title="Coverage of frozen intervals",
        figure=draw_coverage(rows),
        alt="Share of measured values inside their frozen intervals. " + " ".join(words),
        caption="On the dashed diagonal intervals keep their word; below it they are too narrow, above too wide. Bars: "
        "90 % interval of the share as if predictions were independent; those of one law err together, so they are too "
        "short.",
    )


# --- runs held out from the fit -----------------------------------------------------------------------------


def hold_out_section(record: StudyRecord) -> Section:
    """What the laws predicted of the runs held out from them."""
    found = hold_outs(record)
    return drawn(
        "Runs held out from the fit",
        lambda: hold_out_picture(found),
        notes=hold_out_sentences(found),
        table=lambda: hold_out_table(found),
        table_title="Every distance",
    )


def hold_out_picture(found: Sequence[HoldOut]) -> Picture:
    """Held-out errors beside the intervals given; DataError: no fit held runs out."""
    return Picture(
        name="hold-outs",
        title="Held-out runs",
        figure=draw_hold_outs(found),
        alt="Error of held-out predictions by distance. " + " ".join(hold_out_sentences(found)),
        caption="The smallest 40 to 80 % of this study's runs were fitted again and the others predicted. Bars: mean "
        "half width of the 90 % interval; dots: root mean square error; above, how many runs lay inside. The width was "
        "chosen on these hold-outs, so it is no forecast.",
    )


def hold_out_sentences(found: Sequence[HoldOut]) -> list[str]:
    """Coverage, error and reach of each law's hold-outs."""
    said = []
    for one in found:
        c, num = one.found, one.found.num_held_out
        low, high = (100 * end for end in wilson_interval(one.hits / num, num))
        said.append(
            f"{one.label.capitalize()}: {one.hits} of {num} held-out predictions inside their {100 * c.nominal:.0f} "
            f"% intervals ({100 * one.hits / num:.0f} %; {low:.0f} to {high:.0f} % as if they were independent), up to "
            f"{c.max_decades:.1f} decades of compute beyond what was fitted, root mean square error "
            f"{100 * (c.error or 0.0):.2f} % of the loss. Without the term for a wrong form, "
            f"{100 * (c.obtained_without or 0.0):.0f} % would have been."
        )
    return said


def hold_out_table(found: Sequence[HoldOut]) -> Table:
    """Every distance of every law."""
    columns = [
        text("law"),
        number("decades beyond", lambda row: f"{row['from']:.2g} to {row['to']:.2g}", sort=itemgetter("from")),
        number("predictions"),
        number("inside", ".0f", unit="%"),
        number("error", ".2f", unit="%"),
        number("half width", ".2f", unit="%"),
    ]
    shares = ("inside", "error", "half_width")
    rows = [
        (one.label, row, int(row["num"]), *(100 * row[name] for name in shares)) for one in found for row in one.rows
    ]
    return Table(columns, rows)


# --- calibration and distance from the teacher --------------------------------------------------------------


def calibration_section(record: StudyRecord) -> Section:
    """Does a model know what it knows, and how far is a student from its teacher?"""
    groups = calibrated_groups(record)
    section = drawn(CALIBRATION_TITLE, lambda: calibration_picture(groups), notes=calibration_notes(groups))
    if not groups:
        return section
    # of teachers alone, too, who make no picture
    return replace(section, table=calibration_table(groups), table_title="Every model")


def calibration_picture(groups: Sequence[Calibrated]) -> Picture:
    """The figure with its words; DataError: no distilled student has the numbers."""
    words = [_calibration_words(group) for group in groups if group.teacher]
    return Picture(
        name="calibration",
        title=CALIBRATION_TITLE,
        figure=draw_calibration(groups),
        alt=f"{CALIBRATION_TITLE}. {' '.join(words)}",
        caption="Students by size and training tokens, better teachers to the right; dashed, the same student without "
        "a teacher. Calibration error: how far the confidence of a model's first choice lies from how often it comes "
        "(left) or from the teacher's probability of it, in 21 equal bins. Bars and shades are 90 % "
        "intervals over documents.",
    )


def _calibration_words(group: Calibrated) -> str:
    parts = [f"{100 * group.against_data.value:.1f} % against the text"]
    if group.against_teacher:
        parts.append(f"{100 * group.against_teacher.value:.1f} % against the teacher")
    if group.kl:
        parts.append(f"KL {group.kl.value:.3f}")
    tokens = budget_text(group.tokens)
    return f"{group.label} on {tokens} tokens from the {group.teacher}: {', '.join(parts)}."


def calibration_notes(groups: Sequence[Calibrated]) -> list[str]:
    """What the numbers say."""
    kinds = {
        "Teachers": [g for g in groups if g.role == "teacher"],
        "Students without a teacher": [g for g in groups if g.role == "student" and not g.teacher],
        "Taught students": [g for g in groups if g.teacher],
    }
    said = []
    for who, own in kinds.items():
        if own:
            values = sorted(100 * group.against_data.value for group in own)
            widest = 100 * Z90 * max(group.against_data.se for group in own)
            ends = f"{values[0]:.1f} to {values[-1]:.1f} %, each ± {widest:.1f} or less (90 %)"
            said.append(f"{who}: calibration error against the text {ends}.")
    return said + _distance_notes(groups)


def _distance_notes(groups: Sequence[Calibrated]) -> list[str]:
    """Does the distance grow with a better teacher? Busbridge et al. 2025 find that it always does."""
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for group in groups:
        if group.kl is not None:
            own = cells.setdefault((group.params, group.tokens), [])
            own.append((-group.teacher_loss, group.kl.value))
    lines = [[kl for _, kl in sorted(own)] for own in cells.values() if len(own) > 1]
    if not lines:
        return []
    grows = sum(all(after > before for before, after in pairwise(line)) for line in lines)
    return [
        f"From the worst teacher to the best, the distance KL(teacher ‖ student) grows at every step in {grows} of "
        f"{len(lines)} rows of students. Busbridge et al. 2025 (arXiv 2502.08606) saw it grow in all of theirs, while "
        "the loss turned up again: a student that cannot follow its teacher is a matter of learning capacity."
    ]


def calibration_table(groups: Sequence[Calibrated]) -> Table:
    """Every group."""

    def error(title: str, name: str, unit: str, factor: float, digits: int) -> Column:
        def show(one: ErrorEstimate) -> str:
            half = factor * Z90 * one.se
            return f"{factor * one.value:.{digits}f} ± {half:.{digits}f}"

        return number(title, show, unit=unit, of=attrgetter(name), sort=attrgetter("value"))

    loss = {"sort": lambda group: or_inf(group.teacher_loss)}
    return Table.of(
        [
            text("model", lambda group: f"{group.label} {group.role}", sort=attrgetter("params")),
            number("tokens", budget_text, of=attrgetter("tokens")),
            text("teacher", attrgetter("teacher"), **loss),
            number("seeds", of=attrgetter("seeds")),
            error("against the text", "against_data", "%", 100.0, 2),
            error("against the teacher", "against_teacher", "%", 100.0, 2),
            error("KL", "kl", "nats/token", 1.0, 3),
        ],
        groups,
    )
