"""A study in three arms as docs/capacity-gap.md quotes it: losses by teacher, and the best teacher of each curve.

    distillaw study run studies/capacity-gap.toml --corpus BOOKS --out out/gap
    python -m benchmarks.capacity_gap.study out/gap --out benchmarks/results/capacity_gap_study.json

`--ship` copies the run table into the package, where `distillaw fit --law capacity-gap` gives the same optima, and
`--figure` draws the arms. Seconds; the study itself takes hours.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shutil import copyfile

import numpy as np

from benchmarks import SHIPPED
from benchmarks.result_file import save, typed
from distillaw.figures.starts import StartCell, StartPoint, at_equal_seeds, draw_starts, start_cells
from distillaw.fitting.api import fit_arms
from distillaw.runs.files import read_json, write_with
from distillaw.runs.record import budget_text, read_study
from distillaw.runs.spec import ARMS

SHIP = SHIPPED / "capacity_gap_runs.parquet"


def found(cells: Sequence[StartCell]) -> list[dict[str, object]]:
    """A row per student, budget and arm."""
    return [
        {
            "student_params": cell.params,
            "tokens": cell.tokens,
            "arm": arm,
            "alone": [_point(point) for point in cell.alone.get(arm, ())],
            "taught": [_point(point) for point in cell.taught[arm]],
            "best_teacher_params": cell.best[arm].params,
            "interval": cell.best[arm].interval,
            "problem": cell.best[arm].problem,
        }
        for cell in cells
        for arm in ARMS
        if cell.taught.get(arm)
    ]


def _point(point: StartPoint) -> dict[str, object]:
    return {"model_params": point.teacher_params, "model_loss": point.teacher_loss, "loss_by_seed": point.losses}


def compared(*arms: Sequence[StartPoint]) -> list[dict[float, float]]:
    """Losses by teacher, at equal seeds."""
    return [
        dict(zip((point.teacher_params for point in points), losses, strict=True))
        for points, losses in zip(arms, at_equal_seeds(*arms), strict=True)
    ]


def larger_teacher(cells: Sequence[StartCell]) -> list[str]:
    """What the largest teacher costs over the middle one: an arm and budget a row, nats at equal seeds."""
    sizes = sorted({p.teacher_params for cell in cells for points in cell.taught.values() for p in points})
    small, large = sizes[len(sizes) // 2], sizes[-1]
    found: dict[tuple[int, str], dict[int, float]] = {}
    for cell in cells:
        for arm, points in cell.taught.items():
            [losses] = compared(points)
            if {small, large} <= losses.keys():
                found.setdefault((cell.tokens, arm), {})[cell.params] = losses[large] - losses[small]
    students = sorted({params for row in found.values() for params in row})
    lines = [f"| arm | tokens | {' | '.join(f'{params / 1e3:.0f}k' for params in students)} |"]
    lines.append(f"| --- | --- | {' | '.join('---' for _ in students)} |")
    for (tokens, arm), row in sorted(found.items(), key=lambda one: (one[0][0], ARMS.index(one[0][1]))):
        cells_of = " | ".join(f"{row[params]:+.3f}" if params in row else "" for params in students)
        lines.append(f"| {arm} | {budget_text(tokens)} | {cells_of} |")
    return lines


def deeper_cut(cells: Sequence[StartCell]) -> list[str]:
    """What it costs to be cut out of the largest teacher and not out of the reference, taught by that teacher."""
    found: dict[int, dict[int, float]] = {}
    for cell in cells:
        if {"pruned", "fixed"} <= cell.taught.keys():
            pruned, fixed = compared(cell.taught["pruned"], cell.taught["fixed"])
            if (largest := max(fixed)) in pruned and len(fixed) > 1:
                found.setdefault(cell.tokens, {})[cell.params] = pruned[largest] - fixed[largest]
    return [
        f"pruned less fixed, {budget_text(tokens)}: {', '.join(f'{x:+.3f}' for x in row.values())}; "
        f"mean {np.mean([*row.values()]):+.3f}"
        for tokens, row in sorted(found.items())
    ]


def seed_noise(cells: Sequence[StartCell]) -> dict[str, float]:
    """Standard deviation between seeds of a design point, nats, by student and arm, alone and taught."""
    return {
        f"{cell.label} {arm} {name}": float(np.std([*point.losses.values()], ddof=1))
        for cell in cells
        for name, by_arm in (("alone", cell.alone), ("taught", cell.taught))
        for arm, points in by_arm.items()
        for point in points
        if len(point.losses) > 1
    }


def run_noise(folder: Path) -> dict[str, dict[int, float]]:
    """By arm and budget: standard deviation of a run about its student's curve, seeds' common luck apart, nats."""
    fits = fit_arms(folder, family="capacity-gap", bootstrap=0)
    return {
        arm: {round(budget["budget"]): budget["noise"] for budget in fit.details["budgets"] if budget.get("noise")}
        for arm, fit in fits.items()
    }


def table(cells: Sequence[StartCell]) -> list[str]:
    """The page's table: losses by teacher, and its best teacher."""
    sizes = sorted({p.teacher_params for cell in cells for points in cell.taught.values() for p in points})
    heads = ["student, tokens", "arm", "alone", *(f"{size / 1e6:.2f}M" for size in sizes), "best teacher"]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for cell in cells:
        for arm, points in cell.taught.items():
            taught, lone = compared(points, cell.alone.get(arm, ()))
            losses = {params: f"{loss:.3f}" for params, loss in taught.items()}
            alone = list(lone.values())
            of = f"{min(alone):.3f}" + (f" to {max(alone):.3f}" if len(alone) > 1 else "") if alone else ""
            cut = [losses.get(size, "") for size in sizes]
            row = [f"{cell.label}, {budget_text(cell.tokens)}", arm, of, *cut, _best(cell, arm)]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def _best(cell: StartCell, arm: str) -> str:
    best = cell.best[arm]
    if best.params is None:
        return best.problem
    low, high = (f"{end / 1e3:.0f}k" if end else "" for end in best.interval)
    return f"{best.params / 1e3:.0f}k ({low} to {high})"


def main() -> None:
    """Read the study, print the table, keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--ship", action="store_true", help=f"copy the run table to {SHIP.name}")
    given = parser.parse_args()
    cells = start_cells(read_study(given.folder))
    print("\n".join(table(cells)), *larger_teacher(cells), *deeper_cut(cells), sep="\n", end="\n\n")
    seeds, noise = seed_noise(cells), run_noise(given.folder)
    print(f"between seeds: {seeds}\nabout the curves: {noise}")
    if given.out:
        searched = [
            {name: search[name] for name in ("arm", "size", "learning_rate", "horizon") if name in search}
            for search in read_json(given.folder / "tuning.json")["arms"]
        ]
        rates = [
            {"arm": one["arm"], "size": one["size"], "at": at, "best": one[at]["best"], "interior": one[at]["interior"]}
            for one in searched
            for at in ("learning_rate", "horizon")
            if at in one
        ]
        save(given.out, typed(), seed_noise=seeds, run_noise=noise, cells=found(cells), rates=rates)
    if given.figure:
        draw_starts(cells, against="size").savefig(given.figure, dpi=110)
    if given.ship:
        write_with(SHIP, partial(copyfile, given.folder / "runs.parquet"), known=True)


if __name__ == "__main__":
    main()
