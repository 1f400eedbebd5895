"""A study that was run twice, with other rates: what moved, cell by cell.

    python -m benchmarks.studies.again BEFORE AFTER --out benchmarks/results/pocket_again.json --table FILE.parquet

BEFORE and AFTER are folders of one study, or copies of their runs.parquet in a folder of their own. Losses are means
over the seeds that both have; rates are those at which a run's cooldown begins, at width 64. `--table` keeps AFTER's
runs.parquet. Prints the tables of docs/studies.md.
"""

import argparse
import shutil
from pathlib import Path

import distillaw as dl
from benchmarks.result_file import save
from distillaw.controls.api import check_controls
from distillaw.controls.study_runs import Place, StudyRuns
from distillaw.fitting.study import kept_laws
from distillaw.planning.measured import design_points
from distillaw.quantities import format_count
from distillaw.runs.record import Run, StudyRecord, budget_text, read_study

Cell = tuple[int, int, str]
"""(params, tokens, teacher as people say it; empty without one)."""


def main() -> None:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    records = [read_study(arguments.before), read_study(arguments.after)]
    found = {
        "study": records[1].name,
        "teachers": teachers(*records),
        "cells": cells(*records),
        "searches": [
            {
                "arm": s.arm,
                "size": s.size,
                "what": s.what,
                "best": s.best,
                "interior": s.interior,
                "tried": s.tried,
            }
            for s in records[1].searches
        ],
        "points": [points(record) for record in records],
        **conclusions(records[1], arguments.after),
    }
    print(teacher_table(found["teachers"]), cell_table(found["cells"]), sep="\n\n")
    for name in ("points", "verdicts", "laws", "controls"):
        print(name, *found[name], sep="\n  ")
    if arguments.out:
        save(arguments.out, "python -m benchmarks.studies.again BEFORE AFTER", **found)
    if arguments.table:
        shutil.copyfile(arguments.after / "runs.parquet", arguments.table)


def teachers(before: StudyRecord, after: StudyRecord) -> list[dict]:
    """Every teacher's loss and rate in both."""
    named = [{_name(run): run for run in r.teachers.values()} for r in (before, after)]
    return [
        {"teacher": name, "params": run.params, "tokens": run.tokens, **_pair(named[0][name], run)}
        for name, run in sorted(named[1].items(), key=lambda item: -item[1].loss)
        if name in named[0]
    ]


def cells(before: StudyRecord, after: StudyRecord) -> list[dict]:
    """Every student's loss in both, by size, budget and teacher."""
    grids = [_grid(record) for record in (before, after)]
    found = []
    for cell, runs in grids[1].items():
        if common := sorted(runs.keys() & grids[0].get(cell, {}).keys()):
            pairs = [_pair(grids[0][cell][seed], runs[seed]) for seed in common]
            found.append(
                {
                    "size": format_count(cell[0]),
                    "tokens": budget_text(cell[1]),
                    "teacher": cell[2],
                    **pairs[0],
                    **{key: sum(p[key] for p in pairs) / len(pairs) for key in ("before", "after")},
                    "seeds": len(pairs),
                }
            )
    return found


def _grid(record: StudyRecord) -> dict[Cell, dict[int, Run]]:
    grid: dict[Place, dict[int, Run]] = StudyRuns(record).grid
    return {
        (params, tokens, _name(record.teachers[teacher]) if teacher else ""): runs
        for (params, tokens, teacher), runs in grid.items()
    }


def _name(teacher: Run) -> str:
    """The same in tables that name sizes and in those that do not."""
    return f"{format_count(teacher.params)}@{budget_text(teacher.tokens)}"


def _pair(before: Run, after: Run) -> dict:
    return {
        "before": before.loss,
        "after": after.loss,
        "rate_before": before.branch_lr,
        "rate_after": after.branch_lr,
    }


def points(record: StudyRecord) -> list[dict]:
    """Every size and budget: the best teacher's gain, and how much worse the strongest one is."""
    return [
        {
            "size": point.label,
            "tokens": budget_text(point.tokens),
            "alone": point.alone,
            "best": point.best.teacher,
            "gain": point.best.gain,
            "half": point.best.half,
            "worse_than_alone": [t.teacher for t in point.taught if t.gain < 0],
            "strongest_is_worse_by": [point.gap.depth, point.gap.sd] if point.gap else [0.0, 0.0],
        }
        for point in design_points(record)
        if point.best is not None
    ]


def conclusions(record: StudyRecord, folder: Path) -> dict:
    """Verdicts in every cell of the grid, the fitted laws and the controls."""
    verdicts = []
    for size, budget in sorted({(run.params, run.tokens) for run in record.students}):
        answer = dl.plan(size, student_tokens=budget, study=folder)
        verdicts.append(
            {"size": format_count(size), "tokens": budget_text(budget), "sentence": answer.sentence}
        )
    laws = [
        {
            "law": fit.family,
            "status": fit.status.value,
            "rows": fit.nobs,
            "trunks": fit.ngroups,
            "params": fit.params,
        }
        for fit in kept_laws(record).fits.values()
    ]
    controls = [{"control": c.name, "status": c.status, "found": c.found} for c in check_controls(record)]
    return {"verdicts": verdicts, "laws": laws, "controls": controls}


def teacher_table(rows: list[dict]) -> str:
    """Losses and rates of the teachers."""
    lines = [
        f"| {r['teacher']} | {r['rate_before']:.3g} | {r['before']:.3f} | {r['rate_after']:.3g} | {r['after']:.3f} "
        f"| {r['after'] - r['before']:+.3f} |"
        for r in rows
    ]
    head = (
        "| teacher | rate before | loss | rate now | loss | change |\n| --- | --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *lines])


def cell_table(rows: list[dict]) -> str:
    """Losses now and what they changed by, a line per size and budget, the best teacher in bold."""
    names = list(dict.fromkeys(r["teacher"] for r in rows))
    lines = []
    for size, tokens in dict.fromkeys((r["size"], r["tokens"]) for r in rows):
        own = {r["teacher"]: r for r in rows if (r["size"], r["tokens"]) == (size, tokens)}
        best = min((r["after"] for name, r in own.items() if name), default=None)
        shown = [
            f"{'**' * (own[n]['after'] == best)}{own[n]['after']:.3f}{'**' * (own[n]['after'] == best)} "
            f"({own[n]['after'] - own[n]['before']:+.3f})"
            if n in own
            else ""
            for n in names
        ]
        lines.append(f"| {size}, {tokens} | {' | '.join(shown)} |")
    head = f"| student, tokens | {' | '.join(n or 'no teacher' for n in names)} |\n|{' --- |' * (len(names) + 1)}"
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
