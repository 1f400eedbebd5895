"""The sections of a study's report between the verdict and the laws: each picture with its words and numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from distillaw.controls.control import Control
from distillaw.errors import DataError
from distillaw.figures.calibrated import calibrated_groups
from distillaw.figures.equal_compute import iso_budgets
from distillaw.figures.fits import LABELS, fitted_laws, study_laws
from distillaw.figures.intervals import hold_outs
from distillaw.figures.paid import paid_cells
from distillaw.figures.spending import Spent, study_searches
from distillaw.figures.teachers import TeacherStyle, teacher_styles
from distillaw.figures.walks import walks
from distillaw.planning.measured import DesignPoint
from distillaw.report import calibration, content, equal_compute, frozen, intervals, paid
from distillaw.report import walks as walk_words
from distillaw.report.controls import control_notes, control_table
from distillaw.report.fits import fits_picture
from distillaw.report.losses import gap_picture, tokens_picture
from distillaw.report.page import Section
from distillaw.report.picture import Picture
from distillaw.report.spending import searches_picture, spent_picture
from distillaw.runs.record import StudyRecord


def study_sections(
    record: StudyRecord, cells: Sequence[DesignPoint], spent: Sequence[Spent], controls: Sequence[Control]
) -> list[Section]:
    """Every section, in the order of the page."""
    styles = teacher_styles(record)
    return [
        _gap_section(cells),
        drawn("How many tokens? Loss with and without a teacher",
              lambda: tokens_picture(cells, styles, laws=study_laws(record))),
        _isoflop_section(record, styles),
        _paid_section(record, cells),
        Section(title="Controls: what makes these numbers mean something", notes=control_notes(controls),
                table=control_table(controls), table_title="Every control with its numbers", open=True),
        _fit_section(record),
        _frozen_section(record),
        _hold_out_section(record),
        _walk_section(record),
        _calibration_section(record),
        drawn("Where the compute went", lambda: spent_picture(spent)),
        drawn("Search for learning rate and batch", lambda: searches_picture(study_searches(record))),
    ]  # fmt: skip


def drawn(title: str, picture: Callable[[], Picture], notes: Sequence[str] = ()) -> Section:
    """A section of one picture, or of the sentence that says why there is none."""
    try:
        return Section(title=title, pictures=[picture()], notes=notes)
    except DataError as error:
        return Section(title=title, notes=(*notes, str(error)))


def _gap_section(cells: Sequence[DesignPoint]) -> Section:
    title = "Which teacher? Student loss against teacher loss"
    if not any(cell.taught for cell in cells):
        return drawn(title, lambda: gap_picture(cells))
    return Section(title=title, pictures=[gap_picture(cells)], notes=content.gap_sentences(cells),
                   table=content.cell_table(cells), table_title="The numbers of this and the next picture")  # fmt: skip


def _isoflop_section(record: StudyRecord, styles: Mapping[str, TeacherStyle]) -> Section:
    """Which size at equal compute."""
    budgets = iso_budgets(record)
    return drawn(equal_compute.TITLE,
                 lambda: equal_compute.isoflop_picture(budgets, styles, laws=study_laws(record)),
                 equal_compute.isoflop_sentences(budgets))  # fmt: skip


def _paid_section(record: StudyRecord, cells: Sequence[DesignPoint]) -> Section:
    """What the compute buys, with every bill."""
    bills = paid_cells(record, cells)
    section = drawn(paid.TITLE, lambda: paid.paid_picture(bills, cells), paid.paid_sentences(bills))
    if not section.pictures:
        return section
    return replace(section, table=paid.paid_table(bills), table_title="Every student with its bill")


def _fit_section(record: StudyRecord) -> Section:
    """This study's laws where they may be drawn; else why not."""
    title = "Predicted against measured"
    laws = fitted_laws(record)
    pictures = [] if not laws else [fits_picture(
        laws, name="fit", title=title,
        caption="Laws fitted on this study against the runs they were fitted to: left on the diagonal, right what is "
        "left over. Points near zero without a trend mean that the form holds inside this range, not beyond it.",
    )]  # fmt: skip
    if len(laws) == len(LABELS):
        return Section(title=title, pictures=pictures)
    why = _why_no_law(record, {law.label for law in laws}) or "none has been fitted."
    lead = "Not drawn through this study: " if laws else "No law is drawn through this study: "
    return Section(title=title, pictures=pictures, notes=(lead + why,))


def _why_no_law(record: StudyRecord, drawn: set[str]) -> str:
    notes = [n for n in content.fit_notes(record) if n.family in LABELS and LABELS[n.family] not in drawn]
    return " ".join(
        f"{LABELS[n.family]}: {content.status_words(n.status)}: {n.remedy.rstrip('.')}." for n in notes
    )


def _frozen_section(record: StudyRecord) -> Section:
    """What was predicted before the runs, and what came."""
    part = frozen.frozen_part(record.folder)
    return Section(title=frozen.TITLE, pictures=part.pictures, notes=part.notes,
                   table=part.table, table_title="Every prediction")  # fmt: skip


def _hold_out_section(record: StudyRecord) -> Section:
    """What the laws predicted of the runs held out from them."""
    found = hold_outs(record)
    section = drawn("Runs held out from the fit", lambda: intervals.hold_out_picture(found),
                    intervals.hold_out_sentences(found))  # fmt: skip
    if not section.pictures:
        return section
    return replace(section, table=intervals.hold_out_table(found), table_title="Every distance")


def _walk_section(record: StudyRecord) -> Section:
    """How far weights went from where they began."""
    found = walks(record)
    if not found:
        return drawn(walk_words.TITLE, lambda: walk_words.walks_picture(found))
    return Section(title=walk_words.TITLE, pictures=[walk_words.walks_picture(found)],
                   notes=walk_words.walk_notes(found), table=walk_words.walk_table(found),
                   table_title="Both fits of every run, and its noise scale")  # fmt: skip


def _calibration_section(record: StudyRecord) -> Section:
    """Does a model know what it knows, and how far is a student from its teacher?"""
    groups = calibrated_groups(record)
    section = drawn(calibration.TITLE, lambda: calibration.calibration_picture(groups),
                    calibration.calibration_notes(groups))  # fmt: skip
    if not groups:
        return section
    return replace(section, table=calibration.calibration_table(groups), table_title="Every model")
