"""Along which axis is a distillation law wrong? Leave out an end of each, fit the rest, see what intervals hold.

    python -m benchmarks.fits.by_axis [--out FILE] [--markdown docs/fitting.md]      # two minutes, one core

Tables of this package's own runs: open, pocket, capacity gap (random first weights, and cuts), two worlds. Of each in
turn the strongest and the weakest teacher, the smallest and the largest student, the most tokens and the largest
compute are left out with everything beyond; the law (joint with that of training alone) predicts the distilled ones.
Beside it least squares of ln L on a quadratic in ln N, ln D and ln L_T of the distilled rows.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import t as student_t

import distillaw as dl
from benchmarks import SHIPPED
from benchmarks.fits.extrapolation import interval_score
from benchmarks.fits.peers import LEVEL
from benchmarks.result_file import save, typed
from benchmarks.worlds_study.page import filled
from distillaw.errors import DistillawError
from distillaw.table import Table, number, text

Columns = Mapping[str, np.ndarray]
FAMILY, BOOTSTRAP = "distillation-kappa", 100
WORLDS = Path(__file__).parents[1] / "results" / "worlds_study.csv"
SHARE = 0.15
"""Of the distilled rows, left out at least: whole levels, from the end."""
MOST = 0.5
ENDS = {
    "strongest teacher": ("teacher_loss", -1),
    "weakest teacher": ("teacher_loss", 1),
    "smallest student": ("params", -1),
    "largest student": ("params", 1),
    "most tokens": ("tokens", 1),
    "largest compute": ("compute", 1),
}
"""What is left out: column, and which end of it."""


def tables() -> dict[str, Columns]:
    """Every table: params, tokens, loss, teacher_loss (NaN without), group."""
    found = {}
    for name, file, arms in (
        ("open", "open_runs", None),
        ("pocket", "pocket_runs", None),
        ("capacity gap, random", "capacity_gap_runs", ("fresh",)),
        ("capacity gap, cuts", "capacity_gap_runs", ("pruned", "fresh")),
    ):
        rows = pq.read_table(SHIPPED / f"{file}.parquet").to_pylist()
        rows = [r for r in rows if r["purpose"] in ("grid", "teacher", "holdout") and (not arms or r["arm"] in arms)]
        if arms and arms[0] != "fresh":
            rows = [r for r in rows if r["role"] == "teacher" or r["arm"] == arms[0]]
        found[name] = _columns(rows)
    with WORLDS.open() as file:
        rows = [r for r in csv.DictReader(file) if r["set"] in ("windows", "other", "teachers")]
    for name in sorted({r["world"] for r in rows}):
        found[name] = _columns([r for r in rows if r["world"] == name])
    return found


def _columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    table = {key: np.array([float(r[key]) for r in rows]) for key in ("params", "tokens", "loss")}
    table["teacher_loss"] = np.array([float(r["teacher_loss"] or np.nan) for r in rows])
    table["group"] = np.array([r["group"] for r in rows])
    table["compute"] = table["params"] * table["tokens"]
    return table


def left_out(table: Columns, column: str, end: int) -> np.ndarray | None:
    """Rows of the last levels of a column; None where they would be most of the distilled ones."""
    taught = np.isfinite(table["teacher_loss"])
    value = end * table[column]
    for level in np.unique(value[taught])[::-1]:
        held = value >= level * (1 - np.sign(level) * 1e-6)
        if held[taught].mean() >= SHARE:
            return held if held[taught].mean() <= MOST else None
    return None


def ours(table: Columns, held: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Prediction and ends of the interval of the scored rows, and the status."""
    rest = {name: table[name][~held] for name in ("params", "tokens", "loss", "teacher_loss", "group")}
    fit = dl.fit(rest, family=FAMILY, bootstrap=BOOTSTRAP, check=False)
    if (
        fit.curve is not None and fit.curve.behind is None
    ):  # trunks too few for a supervised law: branches count as runs
        fit = dl.fit(rest, family=FAMILY, bootstrap=BOOTSTRAP, check=False, group="none")
    at = {name: table[name][scored] for name in ("params", "tokens", "teacher_loss")}
    p = fit.predict(
        student_params=at["params"], student_tokens=at["tokens"], teacher_loss=at["teacher_loss"], level=LEVEL
    )
    return p.mean, p.lower, p.upper, fit.status.name


def quadratic(table: Columns, held: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of ln L on a quadratic in ln N, ln D, ln L_T, with its own prediction interval."""
    fitted = ~held & np.isfinite(table["teacher_loss"])
    x = np.log(np.column_stack([table[name] for name in ("params", "tokens", "teacher_loss")]))
    x = x - x[fitted].mean(axis=0)
    pairs = [x[:, i] * x[:, j] for i in range(3) for j in range(i, 3)]
    X = np.column_stack([np.ones(len(x)), x, *pairs])
    y = np.log(table["loss"])
    b, *_ = np.linalg.lstsq(X[fitted], y[fitted], rcond=None)
    spare = max(int(fitted.sum()) - X.shape[1], 1)
    s2 = float(((y - X @ b)[fitted] ** 2).sum() / spare)
    leverage = np.einsum("ij,jk,ik->i", X[scored], np.linalg.pinv(X[fitted].T @ X[fitted]), X[scored])
    half = student_t.ppf(0.5 + LEVEL / 2, spare) * np.sqrt(s2 * (1 + leverage))
    mean = (X @ b)[scored]
    return np.exp(mean), np.exp(mean - half), np.exp(mean + half)


def evaluate(name: str, table: Columns, what: str) -> dict[str, Any] | None:
    """One table with one end left out."""
    column, end = ENDS[what]
    held = left_out(table, column, end)
    if held is None:
        return None
    scored = held & np.isfinite(table["teacher_loss"])
    row: dict[str, Any] = {"table": name, "left out": what, "rows": int(scored.sum())}
    try:
        mean, low, high, row["status"] = ours(table, held, scored)
    except DistillawError as error:
        return row | {"refused": str(error)}
    L = table["loss"][scored]
    curved, below, above = quadratic(table, held, scored)
    row["errors"] = [100 * float(np.sqrt(np.mean(np.log(p / L) ** 2))) for p in (mean, curved)]
    row["bias"] = 100 * float(np.mean(np.log(mean / L)))
    row["inside"] = [float(np.mean((L >= a) & (L <= b))) for a, b in ((low, high), (below, above))]
    row["scores"] = [interval_score(L, a, b) for a, b in ((low, high), (below, above))]
    row["half"] = 100 * float(np.mean(np.log(high / low)) / 2)
    return row


def by_end(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per end: rows pooled over the tables, errors as geometric means."""
    found = []
    for what in ENDS:
        own = [row for row in rows if row["left out"] == what and "refused" not in row]
        if not own:
            continue
        count = [row["rows"] for row in own]
        found.append(
            {
                "left out": what,
                "tables": len(own),
                "rows": sum(count),
                "inside": [float(np.average([r["inside"][k] for r in own], weights=count)) for k in (0, 1)],
                "worst": min(r["inside"][0] for r in own),
                "errors": [float(np.exp(np.mean(np.log([r["errors"][k] for r in own])))) for k in (0, 1)],
                "scores": [float(np.exp(np.mean(np.log([r["scores"][k] for r in own])))) for k in (0, 1)],
            }
        )
    return found


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of `by_end`."""
    columns = [
        text("left out"),
        number("tables"),
        number("rows"),
        text("in 90 % (worst table) / quadratic"),
        text("error %: ours / quadratic"),
        text("interval score: ours / quadratic"),
    ]
    cells = [
        (
            r["left out"],
            r["tables"],
            r["rows"],
            f"{r['inside'][0]:.2f} ({r['worst']:.2f}) / {r['inside'][1]:.2f}",
            " / ".join(f"{x:.2f}" for x in r["errors"]),
            " / ".join(f"{x:.1f}" for x in r["scores"]),
        )
        for r in by_end(rows)
    ]
    return Table(columns, cells).markdown()


def main() -> None:
    """Every table, every end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="replace the table `by_axis` of this page")
    parser.add_argument("--out", type=Path, help="keep the rows")
    args = parser.parse_args()
    rows = []
    for name, table in tables().items():
        for what in ENDS:
            row = evaluate(name, table, what)
            if row is not None:
                rows.append(row)
                sys.stderr.write(f"{row}\n")
    print(summary(rows))
    if args.out:
        save(args.out, typed(), ends=by_end(rows), trials=rows)
    if args.markdown:
        fill: dict[str, Callable[..., str]] = {"by_axis": summary}
        args.markdown.write_text(filled(args.markdown.read_text(), rows, fill))


if __name__ == "__main__":
    main()
