"""What a study brings to the planner page: its fitted laws, its runs, and the paired verdict of every measured cell.

The page's own planner asks laws. Paired runs are read by `distillaw.plan` alone, so their verdicts are worked out here,
when the page is made, for the cells that were run; the page shows them where a question meets such a cell.
"""

import math
import shlex
from collections.abc import Mapping, Sequence

from distillaw.errors import DistillawError
from distillaw.fitting.result import FitResult
from distillaw.fitting.study import kept_laws
from distillaw.planning.api import plan
from distillaw.planning.paired import study_teachers
from distillaw.planning.voices import FAMILIES, fitted_voice
from distillaw.quantities import format_count
from distillaw.runs.record import Run, StudyRecord


def study_laws(record: StudyRecord) -> list[tuple[str, str, FitResult | str]]:
    """The study's usable distillation fits: the file for `distillaw plan --law`, a label, the file again."""
    found: list[tuple[str, str, FitResult | str]] = []
    for family in FAMILIES:
        fit = kept_laws(record).fits.get(family)
        if fit is not None and fitted_voice(fit, family).ensemble is not None:
            path = str(record.folder / "laws" / f"{family}.json")
            found.append((path, f"{record.name}: {family} ({fit.status.name.lower()})", path))
    return found


def study_on_page(record: StudyRecord) -> Mapping[str, object]:
    """Runs and measured cells as plain JSON values."""
    problems = [*record.problems, *kept_laws(record).problems]
    cells = _cells(record, problems)
    kept = [*record.every_teacher.values(), *record.students]  # runs of searches are no seeds of a curve
    return {
        "name": record.name,
        "folder": str(record.folder),
        "runs": [_run(run) for run in kept],
        "cells": cells,
        "question": _question(record, cells),
        "problems": problems,
    }


def _question(record: StudyRecord, cells: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What the page asks when it is opened: the study's target, else its largest cell, from its own teachers."""
    target = record.target or ((cells[-1]["params"], cells[-1]["tokens"]) if cells else None)
    if target is None:
        return {}
    row = record.runs[0]
    sizes = {key: f"{n:.0f}" for key in ("vocab_size", "context") if (n := row.number(key)) == n}
    laws = study_laws(record)
    teachers = study_teachers(record, float(target[0]))  # type: ignore[arg-type]
    return {
        "student": _exact(target[0]),
        "budget": _exact(target[1]),
        "law": laws[0][0] if laws else "",
        "vocab": sizes.get("vocab_size", "32768"),
        "context": sizes.get("context", "4096"),
        "own": [
            {"params": _exact(t.params), "tokens": _exact(t.tokens), "loss": _exact(t.loss)} for t in teachers
        ],
    }


def _exact(value: object) -> str:
    """A number with all its digits, whole ones without a point; nothing for None."""
    return "" if value is None else repr(float(value)).removesuffix(".0")  # type: ignore[arg-type]


def _run(run: Run) -> dict[str, object]:
    def number(key: str) -> float | None:
        value = run.number(key)
        return None if math.isnan(value) else value

    return {
        "run_id": run.run_id,
        "role": str(run.row.get("role", "")),
        "params": run.params,
        "label": run.label,
        "tokens": run.tokens,
        "seed": run.seed,
        "loss": run.loss,
        "loss_se": number("loss_se"),
        "teacher": run.teacher_run,
        "teacher_loss": number("teacher_loss"),
    }


def _cells(record: StudyRecord, problems: list[str]) -> list[dict[str, object]]:
    """The paired verdict of every student and budget that was run with and without a teacher."""
    arms: dict[tuple[int, int], set[str | None]] = {}
    labels = {}
    for run in record.students:
        arms.setdefault((run.params, run.tokens), set()).add(run.teacher_run)
        labels[run.params] = run.label
    found = []
    for (params, tokens), teachers in sorted(arms.items()):
        if None not in teachers or len(teachers) < 2:
            continue
        try:
            verdict = plan(params, student_tokens=tokens, study=record, with_flips=False)
        except DistillawError as error:
            problems.append(f"{labels[params]} on {format_count(tokens)} tokens: no verdict: {error}")
            continue
        asked = f"--study {shlex.quote(str(record.folder))} --student {params} --tokens {tokens}"
        found.append(
            {
                "label": labels[params],
                "params": params,
                "tokens": tokens,
                "verdict": verdict.verdict,
                "probability": verdict.probability,
                "sentence": verdict.sentence,
                "gain": verdict.gain.to_json(),
                "command": f"distillaw plan {asked}",
            }
        )
    return found
