"""`report.html`: one self-contained file from a study folder, the verdict first; `verdict.json` beside it.

    distillaw report out/quickstart

Works on studies that are unfinished or in part failed: what is missing is said, what is there is shown.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from distillaw.controls.api import check_controls, doubted_verdict
from distillaw.controls.control import Control
from distillaw.planning.cells import Cell, measured_cells
from distillaw.planning.decision import Verdict
from distillaw.planning.record import StudyRecord, read_study
from distillaw.report import calibration, content, frozen
from distillaw.report.controls import control_notes, control_table
from distillaw.report.fitplot import fitted_law, predicted_measured
from distillaw.report.losses import capacity_gap, token_curves
from distillaw.report.page import Section, render_page
from distillaw.report.shipped import LABELS, refit_shipped_table
from distillaw.report.spending import compute_spent, flop_bars, tuning_curves
from distillaw.report.svg import Picture
from distillaw.report.wandering import TITLE, walk_curves, walk_notes, walk_table, walks
from distillaw.runs.files import write_json, write_text


def write_report(study_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a study folder.

    Args:
        study_dir: the folder that `study run` wrote, finished or not.
        out: the HTML file; by default report.html in the folder. verdict.json is written beside it.

    Returns:
        The HTML file.

    Raises:
        CacheError: there is no such folder, or it is not a study.
    """
    record = read_study(Path(study_dir))
    out = Path(out) if out is not None else record.folder / "report.html"
    cells = measured_cells(record)
    controls = check_controls(record)
    verdict, note = content.decide_target(record, cells)
    verdict = doubted_verdict(verdict, controls) if verdict is not None else None
    write_json(out.parent / "verdict.json", verdict_json(record, verdict, note))
    write_text(out, render(record, cells, verdict, note, controls))
    return out


def verdict_json(record: StudyRecord, verdict: Verdict | None, note: str) -> dict[str, object]:
    """The keys of interface.md, `plan`; without a verdict, the sentence that says why."""
    head: dict[str, object] = {"schema_version": 1, "study": record.name}
    if verdict is None:
        return {**head, "verdict": None, "sentence": f"No verdict yet: {note}"}
    return {**head, **verdict.to_json(), "note": note}


def render(
    record: StudyRecord, cells: Sequence[Cell], verdict: Verdict | None, note: str, controls: Sequence[Control],
) -> str:  # fmt: skip
    """The page as text."""
    spent = compute_spent(record)
    return render_page(
        "report.html.j2", title=f"distillaw: {record.name}", record=record, verdict=verdict,
        sentence=verdict.sentence if verdict else f"No verdict yet: {note}",
        call_class=verdict.verdict if verdict else "none",
        call_name=_CALLS[verdict.verdict] if verdict else "NO VERDICT",
        numbers=content.key_numbers(verdict, spent, record),
        problems=_problems(record, verdict, note),
        strategies=content.strategy_table(verdict) if verdict else None,
        costs=content.cost_table(verdict) if verdict else None,
        evidence=content.evidence_table(verdict) if verdict else None,
        level=f"{100 * verdict.level:.0f} %" if verdict else "",
        sections=_sections(record, cells, spent, controls), fits=content.fit_notes(record),
        runs=content.run_table(record), unfinished=record.unfinished, provenance=content.provenance(record),
        specification=json.dumps(record.info.get("spec", {}), indent=2, sort_keys=True),
    )  # fmt: skip


_CALLS = {"distil": "DISTIL", "pretrain": "PRETRAIN", "too-close": "TOO CLOSE TO CALL"}


def _problems(record: StudyRecord, verdict: Verdict | None, note: str) -> list[str]:
    found = [note] if verdict is not None and note else []
    failed = [run for run in record.unfinished if run.state == "failed"]
    if failed:
        found.append(
            f"{len(failed)} runs failed (listed under Runs); what they would have shown is missing here."
        )
    if others := len(record.unfinished) - len(failed):
        found.append(f"{others} runs are not finished; this report is of what was there.")
    return [*found, *record.problems, *(verdict.warnings if verdict else ())]


def _sections(
    record: StudyRecord, cells: Sequence[Cell], spent: Sequence, controls: Sequence[Control]
) -> list[Section]:
    gap, curves = capacity_gap(cells), token_curves(cells)
    bars, search = flop_bars(spent), tuning_curves(record.tuning)
    return [
        Section(
            title="Which teacher? Student loss against teacher loss", pictures=_some(gap),
            notes=content.gap_sentences(cells)
            if gap
            else ("No student has been run both with and without a teacher yet.",),
            table=content.cell_table(cells) if gap else None, table_title="The numbers of this and the next picture",
        ),
        Section(title="How many tokens? Loss with and without a teacher", pictures=_some(curves),
                notes=() if curves else ("No student has been run without a teacher yet.",)),
        Section(title="Controls: what makes these numbers mean something", notes=control_notes(controls),
                table=control_table(controls), table_title="Every control with its numbers", open=True),
        _fit_section(record),
        _frozen_section(record),
        _walk_section(record),
        _calibration_section(record),
        Section(title="Where the compute went", pictures=_some(bars),
                notes=() if bars else ("No run has finished yet.",)),
        Section(title="Search for learning rate and batch", pictures=_some(search),
                notes=() if search else ("This study ran no search: its rates are as the study file gives them.",)),
    ]  # fmt: skip


def _some(*pictures: Picture | None) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def _fit_section(record: StudyRecord) -> Section:
    """This study's laws where they may be drawn; else why not, and the shipped table refitted."""
    title = "Predicted against measured"
    laws = _own_laws(record)
    picture = predicted_measured(
        laws, name="fit", title=title,
        caption="Laws fitted on this study against the runs they were fitted to: left on the diagonal, right what is "
        "left over. Points near zero without a trend mean that the form holds inside this range, not beyond it.",
    )  # fmt: skip
    if len(laws) == len(LABELS):
        return Section(title=title, pictures=_some(picture))
    refit = refit_shipped_table()
    drawn = {law.label for law in laws}
    why = _why_no_law(record, drawn) or "none has been fitted."
    lead = "Not drawn through this study: " if drawn else "No law is drawn through this study: "
    return Section(title=title, pictures=_some(picture, refit.picture), notes=(lead + why, *refit.notes))


def _frozen_section(record: StudyRecord) -> Section:
    """What was predicted before the runs, and what came."""
    part = frozen.frozen_part(record.folder)
    return Section(title=frozen.TITLE, pictures=_some(part.picture), notes=part.notes, table=part.table,
                   table_title="Every prediction")  # fmt: skip


def _walk_section(record: StudyRecord) -> Section:
    """How far weights went from where they began."""
    found = walks(record)
    return Section(title=TITLE, pictures=_some(walk_curves(found)), notes=walk_notes(found), table=walk_table(found),
                   table_title="Both fits of every run, and its noise scale")  # fmt: skip


def _calibration_section(record: StudyRecord) -> Section:
    """Does a model know what it knows, and how far is a student from its teacher?"""
    groups = calibration.calibrated_groups(record)
    return Section(
        title=calibration.TITLE, pictures=_some(calibration.calibration_picture(groups)),
        notes=calibration.calibration_notes(groups), table=calibration.calibration_table(groups),
        table_title="Every model",
    )  # fmt: skip


def _own_laws(record: StudyRecord) -> list:
    from distillaw.runs.table import read_table

    wanted = {name: fit for name, fit in record.laws.items() if name in LABELS}
    if not wanted:
        return []
    losses = read_table(record.folder)["loss"]
    found = [fitted_law(LABELS[name], wanted[name], losses) for name in LABELS if name in wanted]
    return [law for law in found if law is not None]


def _why_no_law(record: StudyRecord, drawn: set[str]) -> str:
    notes = [n for n in content.fit_notes(record) if n.family in LABELS and LABELS[n.family] not in drawn]
    return " ".join(f"{LABELS[n.family]}: {n.status}: {n.remedy.rstrip('.')}." for n in notes)
