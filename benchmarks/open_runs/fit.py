"""The laws on the open runs: which form fits, in which convention, and how far it reaches beyond its runs."""

from collections.abc import Mapping

import numpy as np

from benchmarks.open_runs.data import OpenRuns
from distillaw.errors import DistillawError
from distillaw.fitting.api import fit
from distillaw.fitting.result import FitResult

FAMILIES = ("supervised", "chinchilla", "distillation-reduced", "distillation-kappa", "distillation")
CONVENTIONS = {"non-embedding": "params", "total": "total_params"}
BOOTSTRAP = 400


def fits(runs: OpenRuns) -> dict[str, dict]:
    """Every family in both conventions: fitted to all runs, and to all but the held-out ones, which it predicts."""
    return {
        f"{family}, {convention}": one(runs, family, convention) for convention in CONVENTIONS for family in FAMILIES
    }


def one(runs: OpenRuns, family: str, convention: str) -> dict:
    """One law: coefficients, residuals on what it was fitted to, errors on what it was not."""
    found: dict = {}
    for part, purposes in (("all", ("grid", "teacher", "holdout")), ("before", ("grid", "teacher"))):
        table = columns(runs, purposes, convention)
        try:
            result = fit(table, family=family, bootstrap=BOOTSTRAP, params_convention=convention)
        except DistillawError as error:
            found[part] = {"refused": str(error)}
            continue
        found[part] = {
            "status": result.status.name,
            "rows": result.nobs,
            "params": result.params,
            "conf_int": result.conf_int(),
            "condition_number": result.condition_number,
            "derived": result.derived,
            "in_sample": errors(result, table),
        }
        if part == "before":
            found[part]["held_out"] = errors(result, columns(runs, ("holdout",), convention))
    return found


def columns(runs: OpenRuns, purposes: tuple[str, ...], convention: str) -> dict[str, np.ndarray]:
    """The columns that a fit needs of the runs of some purposes; a student's supervised loss is the measured one."""
    rows = [row for row in runs.rows if row["purpose"] in purposes]
    alone = {(r["params"], r["tokens"]): [] for r in runs.rows}
    for row in runs.rows:
        if row["role"] == "student" and row["teacher_run"] is None and row["purpose"] in ("grid", "holdout"):
            alone[row["params"], row["tokens"]].append(row["loss"])
    supervised = [np.mean(found) if (found := alone[r["params"], r["tokens"]]) else np.nan for r in rows]
    names = {"params": CONVENTIONS[convention], "tokens": "tokens", "loss": "loss", "loss_se": "loss_se"}
    table = {ours: np.array([row[theirs] for row in rows], dtype=float) for ours, theirs in names.items()}
    taught = [np.nan if row["teacher_loss"] is None else row["teacher_loss"] for row in rows]
    return table | {
        "teacher_loss": np.array(taught, dtype=float),
        "group": np.array([row["group"] for row in rows]),
        "supervised_loss": np.array(supervised),
    }


def errors(result: FitResult, table: Mapping[str, np.ndarray]) -> dict[str, float] | str:
    """Of predictions in ln loss: root mean square, mean, largest, and the share inside the 90 % intervals."""
    is_taught = np.isfinite(table["teacher_loss"])
    keep = is_taught if result.family.startswith("distillation") else ~is_taught
    part = {name: column[keep] for name, column in table.items()}
    if not keep.any():
        return "none"
    if result.family.startswith("distillation"):
        at = {
            "student_params": part["params"],
            "student_tokens": part["tokens"],
            "teacher_loss": part["teacher_loss"],
            "supervised_loss": part["supervised_loss"],
        }
    else:
        at = {"params": part["params"], "tokens": part["tokens"]}
    try:
        predicted = result.predict(**at)
    except DistillawError as error:
        return str(error)
    residual = np.log(part["loss"] / predicted.mean)
    inside = (part["loss"] >= predicted.lower) & (part["loss"] <= predicted.upper)
    return {
        "rows": int(keep.sum()),
        "rms": float(np.sqrt(np.mean(residual**2))),
        "mean": float(residual.mean()),
        "worst": float(np.abs(residual).max()),
        "inside_90": float(np.mean(inside)),
    }
