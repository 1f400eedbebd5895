"""The distillation law's forms on the students of windows: what `distillaw fit worlds_study.csv` finds."""

from pathlib import Path

import numpy as np

from distillaw.errors import FitError
from distillaw.fitting.api import fit
from distillaw.runs.table import read_table

FAMILIES = ("distillation-reduced", "distillation-kappa", "distillation")
SET = "windows"
BOOTSTRAP = 200
COMMAND = f"distillaw fit benchmarks/results/worlds_study.csv --law distillation-reduced --where set={SET}"


def fits(study, table: Path) -> dict:
    """Each form: status, coefficients, residuals, a hold-out of the largest budget of each size."""
    columns = read_table(table)
    alone = {(c.size, c.budget): study.loss(c) for c in study.cells if c.teacher == "none" and c == type(c)(*c[:3])}
    columns["supervised_loss"] = np.array(
        [alone.get((s, b), np.nan) for s, b in zip(columns["size"], columns["budget"], strict=True)]
    )
    used = (columns["set"] == SET) & (columns["role"] == "student")
    largest = np.zeros(len(used), bool)
    for size in set(columns["size"][used]):
        mine = used & (columns["size"] == size)
        largest |= mine & (columns["budget"] == columns["budget"][mine].max())
    taught = used & (columns["teacher"] != "none")
    document = {
        "command": COMMAND,
        "rows": int(used.sum()),
        "held_out_rows": int((largest & taught).sum()),
        "forms": {family: form(family, columns, used, taught, largest) for family in FAMILIES},
    }
    return document | {"plain": plain(columns, taught, largest)}


def form(family: str, columns, used, taught, largest) -> dict:
    """One form, fitted to all rows, and to all but the largest budgets."""
    result = fit(part(columns, used), family=family, bootstrap=BOOTSTRAP)
    found = {"status": result.status.name, "params": result.params}
    try:
        residual = residuals(result, columns, taught)
    except FitError as error:
        return found | {"refused": str(error)}
    found |= {"in_sample": error_of(residual), "by_teacher": by_teacher(columns, taught, residual)}
    others = (columns["set"] == "ways") & (columns["role"] == "student") & (columns["world"] == columns["world"][0])
    found["others"] = by_teacher(columns, others, residuals(result, columns, others))
    return found | {"held_out": held_out(family, columns, used & ~largest, taught & largest)}


def held_out(family: str, columns, seen, unseen) -> dict:
    """Error on the largest budgets of a law fitted without them."""
    result = fit(part(columns, seen), family=family, bootstrap=BOOTSTRAP)
    try:
        residual = residuals(result, columns, unseen)
    except FitError as error:
        return {"status": result.status.name, "refused": str(error)}
    found = {"status": result.status.name, **error_of(residual), "by_teacher": by_teacher(columns, unseen, residual)}
    return found | {
        "chosen": [chosen(columns, unseen, residual, size) for size in sorted(set(columns["size"][unseen]))]
    }


def chosen(columns, rows, residual, size: str) -> dict:
    """The teacher that the law would choose for one size at its largest budget, and what that costs."""
    mine = columns["size"][rows] == size
    names, measured = columns["teacher"][rows][mine], columns["loss"][rows][mine].astype(float)
    predicted = measured - residual[mine]
    mean = {n: (float(predicted[names == n].mean()), float(measured[names == n].mean())) for n in set(names)}
    first, best = min(mean, key=lambda n: mean[n][0]), min(mean, key=lambda n: mean[n][1])
    return {"size": size, "law": first, "best": best, "regret": mean[first][1] - mean[best][1]}


def part(columns, rows) -> dict[str, np.ndarray]:
    """The columns that a fit needs, of some rows."""
    names = ("params", "tokens", "loss", "teacher_loss", "loss_se", "group")
    return {name: columns[name][rows] for name in names}


def residuals(result, columns, rows) -> np.ndarray:
    """Measured less predicted, nats per token; the student's own supervised loss is the measured one."""
    predicted = result.predict(
        student_params=columns["params"][rows].astype(float),
        student_tokens=columns["tokens"][rows].astype(float),
        teacher_loss=columns["teacher_loss"][rows].astype(float),
        supervised_loss=columns["supervised_loss"][rows],
    )
    return columns["loss"][rows].astype(float) - predicted.mean


def error_of(residual: np.ndarray) -> dict[str, float]:
    """Root mean square, mean and largest, nats per token."""
    return {
        "rms": float(np.sqrt(np.mean(residual**2))),
        "mean": float(residual.mean()),
        "worst": float(np.abs(residual).max()),
    }


def by_teacher(columns, rows, residual) -> dict[str, float]:
    """Mean residual of the students of each teacher."""
    names = columns["teacher"][rows]
    return {name: float(residual[names == name].mean()) for name in sorted(set(names))}


def plain(columns, taught, largest) -> dict:
    """What needs no law: each student's loss at its last budget but one, and a line in ln D through its last two."""
    same, line = [], []
    for i in np.flatnonzero(taught & largest):
        mine = taught & (columns["group"] == columns["group"][i])
        at = np.flatnonzero(mine)[np.argsort(columns["tokens"][mine])]
        x, y = np.log(columns["tokens"][at].astype(float)), columns["loss"][at].astype(float)
        if len(at) > 2:
            same.append(y[-1] - y[-2])
            line.append(y[-1] - y[-2] - (y[-2] - y[-3]) / (x[-2] - x[-3]) * (x[-1] - x[-2]))
    return {"unchanged": error_of(np.array(same)), "line": error_of(np.array(line))}
