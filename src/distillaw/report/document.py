"""`report.html`: one self-contained file from a study folder, the verdict first; its verdict as JSON beside it.

    distillaw report out/quickstart

Works on studies that are unfinished or in part failed: what is missing is said, what is there is shown.
"""

import json
from pathlib import Path

from distillaw.controls.api import check_controls, doubted_verdict
from distillaw.figures.spending import compute_spent
from distillaw.fitting.study import kept_laws
from distillaw.planning.measured import DesignPoint, design_points
from distillaw.planning.verdict import Verdict
from distillaw.report import content
from distillaw.report.page import FigureFiles, write_page
from distillaw.report.sections import study_sections
from distillaw.runs.files import write_json
from distillaw.runs.places import GENERATOR, check_file
from distillaw.runs.record import StudyRecord, evenly, read_study


def write_report(study_dir: Path, out: Path | None = None, *, figures: FigureFiles | None = None) -> Path:
    """Write the report of a study folder.

    Args:
        study_dir: the folder that `study run` wrote, finished or not.
        out: the HTML file; by default report.html in the folder. `verdict_file` is written beside it.
        figures: where to write every figure as files of its own; None: only in the page.

    Returns:
        The HTML file.

    Raises:
        CacheError: there is no such folder, or it is not a study.
    """
    record = read_study(Path(study_dir))
    out = Path(out) if out is not None else record.folder / "report.html"
    check_report(out)
    shown = record.thinned(MOST_SHOWN)
    every_cell = design_points(shown)
    cells = _drawable(every_cell, is_part=shown is not record)
    controls = check_controls(shown)
    verdict, note = content.decide_target(record)
    verdict = doubted_verdict(verdict, controls) if verdict is not None else None
    write_json(verdict_file(out), verdict_json(record, verdict, note))
    spent = compute_spent(record)
    write_page(
        out, "report.html.j2", figures=figures, title=f"distillaw: {record.name}", record=record, verdict=verdict,
        sentence=verdict.sentence if verdict else f"No verdict yet: {note}",
        call_class=verdict.verdict if verdict else "none",
        call_name=verdict.title if verdict else "NO VERDICT",
        numbers=content.key_numbers(verdict, spent, record),
        problems=[*_thinned(record, shown), *_undrawn(record, every_cell, cells), *_problems(record, verdict, note)],
        strategies=content.strategy_table(verdict) if verdict else None,
        costs=content.cost_table(verdict) if verdict else None,
        evidence=content.evidence_table(verdict) if verdict else None,
        gains_are=_gains_are(verdict) if verdict else "",
        level=f"{100 * verdict.level:.0f} %" if verdict else "",
        sections=study_sections(shown, cells, spent, controls), fits=content.fit_notes(record),
        runs=content.run_table(shown), unfinished=record.unfinished, provenance=content.provenance(record),
        verdict_file=verdict_file(out).name,
        specification=json.dumps(record.info.get("spec", {}), indent=2, sort_keys=True),
    )  # fmt: skip
    return out


def check_report(out: Path) -> None:
    """Refuse, before the work, to replace what is no report or verdict of ours.

    Raises:
        ConfigError: a file of another origin is there.
    """
    for file in (out, verdict_file(out)):
        check_file(file)


MOST_SHOWN = 1000
"""Runs in pictures and tables: more can be neither read nor drawn."""


MOST_SIZES, MOST_CELLS = 12, 120
"""Each size of student is a panel of its own, and so is a cell that shows a capacity gap; half as many of a part."""


def _drawable(cells: list[DesignPoint], *, is_part: bool) -> list[DesignPoint]:
    """The cells of at most so many sizes, evenly spaced."""
    sizes, most = (MOST_SIZES // 2, MOST_CELLS // 2) if is_part else (MOST_SIZES, MOST_CELLS)
    kept = set(evenly(sorted({cell.params for cell in cells}), sizes))
    return evenly([cell for cell in cells if cell.params in kept], most)


def _undrawn(record: StudyRecord, cells: list[DesignPoint], drawn: list[DesignPoint]) -> list[str]:
    """What the pictures by cell leave out, of all that the record has."""
    if len(drawn) == len(cells):
        return []
    every = sum(
        any(not teacher for teacher, _ in cell)
        for budgets in record.student_cells.values() for cell in budgets.values()
    )  # fmt: skip
    return [
        f"Pictures by size and budget show {len(drawn)} of {every:,} cells, evenly over the sizes of students"
    ]


def _thinned(record: StudyRecord, shown: StudyRecord) -> list[str]:
    """What the page leaves out of a very large table."""
    if shown is record:
        return []
    return [
        f"{len(record.runs):,} runs are too many to draw: pictures, controls and tables show {len(shown.runs):,} of "
        "them, whole cells evenly over compute, those with a teacher first. The verdict, the compute and every count "
        "are of all of them; runs.parquet holds each"
    ]


def verdict_file(report: Path) -> Path:
    """The verdict of a report: verdict.json beside report.html, NAME.verdict.json beside NAME.html."""
    return report.with_name("verdict.json" if report.name == "report.html" else f"{report.stem}.verdict.json")


def verdict_json(record: StudyRecord, verdict: Verdict | None, note: str) -> dict[str, object]:
    """The keys of `distillaw plan --json`; without a verdict, the sentence that says why."""
    head: dict[str, object] = {"schema_version": 1, "generator": GENERATOR, "study": record.name}
    if verdict is None:
        return {**head, "verdict": None, "sentence": f"No verdict yet: {note}"}
    return {**head, **verdict.to_json(), "note": note}


def _gains_are(verdict: Verdict) -> str:
    if verdict.headline.kind != "measured":
        return "differences of what the law predicts for the two ways"
    if verdict.headline.is_paired:
        return (
            "paired differences on the same documents and seeds, which is why they are known so much better"
        )
    return "differences of runs compared as if independent: their losses by document did not come along"


def _problems(record: StudyRecord, verdict: Verdict | None, note: str) -> list[str]:
    found = [note] if verdict is not None and note else []
    failed = [run for run in record.unfinished if run.state == "failed"]
    if failed:
        found.append(
            f"{len(failed)} runs failed (listed under Runs); what they would have shown is missing here."
        )
    if others := len(record.unfinished) - len(failed):
        found.append(f"{others} runs are not finished; this report is of what was there.")
    found += [*record.problems, *kept_laws(record).problems, *(verdict.warnings if verdict else ())]
    return list(dict.fromkeys(found))
