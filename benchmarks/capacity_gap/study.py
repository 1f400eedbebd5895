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
from distillaw.figures.starts import StartCell, StartPoint, draw_starts, start_cells
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
    return {
        "model_params": point.teacher_params,
        "model_loss": point.teacher_loss,
        "loss": point.loss,
        "seeds": len(point.losses),
    }


def seed_noise(cells: Sequence[StartCell]) -> float:
    """Standard deviation between seeds of one design point, nats, pooled over all that have several."""
    points = [
        point
        for cell in cells
        for by_arm in (cell.taught, cell.alone)
        for points in by_arm.values()
        for point in points
    ]
    several = [[*point.losses.values()] for point in points if len(point.losses) > 1]
    squares = sum(float(np.var(losses, ddof=1)) * (len(losses) - 1) for losses in several)
    return float(np.sqrt(squares / sum(len(losses) - 1 for losses in several)))


def table(cells: Sequence[StartCell]) -> list[str]:
    """The page's table: losses by teacher, and its best teacher."""
    sizes = sorted({p.teacher_params for cell in cells for points in cell.taught.values() for p in points})
    heads = ["student, tokens", "arm", "alone", *(f"{size / 1e6:.2f}M" for size in sizes), "best teacher"]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for cell in cells:
        for arm, points in cell.taught.items():
            losses = {p.teacher_params: f"{p.loss:.3f}" for p in points}
            alone = [p.loss for p in cell.alone.get(arm, ())]
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--ship", action="store_true", help=f"copy the run table to {SHIP.name}")
    given = parser.parse_args()
    cells = start_cells(read_study(given.folder))
    print("\n".join(table(cells)))
    noise = seed_noise(cells)
    print(f"\nbetween seeds of one design point: {noise:.4f} nats")
    if given.out:
        searched = [
            {name: search[name] for name in ("arm", "size", "learning_rate", "horizon") if name in search}
            for search in read_json(given.folder / "tuning.json")["arms"]
        ]
        rates = [
            {
                "arm": one["arm"],
                "size": one["size"],
                "at": at,
                "best": one[at]["best"],
                "interior": one[at]["interior"],
            }
            for one in searched
            for at in ("learning_rate", "horizon")
            if at in one
        ]
        save(given.out, typed(), seed_noise=noise, cells=found(cells), rates=rates)
    if given.figure:
        draw_starts(cells, against="size").savefig(given.figure, dpi=110)
    if given.ship:
        write_with(SHIP, partial(copyfile, given.folder / "runs.parquet"), known=True)


if __name__ == "__main__":
    main()
