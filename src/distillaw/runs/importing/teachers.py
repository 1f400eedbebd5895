"""Who was taught by whom: a teacher named by its run, its loss looked up, and rows that hide a teacher left out."""

from collections.abc import Mapping, Sequence

import numpy as np

from distillaw.errors import DataError
from distillaw.runs.importing.columns import Rows, objects
from distillaw.runs.importing.rows import Left


def link_teachers(rows: Rows, others: Rows) -> tuple[Rows, list[Left]]:
    """Rows with their teacher's loss, size and tokens; distilled rows whose teacher's loss is not known are left out.

    A student without `teacher_loss` counts as trained on data alone in every fit: such a mistake would be silent.

    Args:
        rows: of all sources together, so that teacher and students may come from different ones.
        others: rows of run tables, which are right as they are and may be teachers too.

    Raises:
        DataError: a teacher's name fits several runs.
    """
    every = Rows.joined([rows, others])
    students = np.flatnonzero([bool(name) for name in rows["teacher_run"]])
    known = _named(every, {rows["teacher_run"][i] for i in students})
    linked = {
        name: rows[name].copy()
        for name in ("teacher_run", "teacher_loss", "teacher_params", "teacher_tokens")
    }
    for i in students:
        teacher = _teacher(every, int(i), known)
        if teacher is None:
            continue
        linked["teacher_run"][i] = every["run_id"][teacher]
        for name in ("loss", "params", "tokens"):
            column = linked[f"teacher_{name}"]
            column[i] = every[name][teacher] if np.isnan(column[i]) else column[i]
    rows = rows.with_columns(**linked)
    reasons = _hidden_teachers(rows)
    left = [
        Left(run=rows["source_run"][i], source=rows["source"][i], reason=reason)
        for i, reason in reasons.items()
    ]
    return _marked(rows.take(np.setdiff1d(np.arange(len(rows)), list(reasons)))), left


def _named(rows: Rows, wanted: set[str]) -> dict[str, list[int]]:
    """Rows by the names that may stand for them, of those names that are wanted."""
    known: dict[str, list[int]] = {}
    if wanted:
        for i, (run_id, aliases) in enumerate(zip(rows["run_id"], rows["aliases"], strict=True)):
            for name in wanted.intersection((run_id, *aliases)):
                known.setdefault(name, []).append(i)
    return known


def _teacher(rows: Rows, student: int, known: Mapping[str, Sequence[int]]) -> int | None:
    named, source = rows["teacher_run"][student], rows["source"]
    fits = [i for i in known.get(named, ()) if i != student]
    here = [i for i in fits if source[i] == source[student]] or fits
    if len({rows["group"][i] for i in here}) > 1:
        raise DataError(
            f"{rows['source_run'][student]}: its teacher {named!r} could be any of {len(here)} runs of that name; name "
            "the teacher by its run id, or give teacher_loss"
        )
    return max(here, key=lambda i: rows["tokens"][i], default=None)


def _hidden_teachers(rows: Rows) -> dict[int, str]:
    """Rows that had a teacher whose loss nobody gives: {row: how one knows}."""
    weight, size = np.nan_to_num(rows["lambda"]), np.nan_to_num(rows["teacher_params"])
    is_named = np.array([bool(name) for name in rows["teacher_run"]], dtype=bool)
    is_hidden = np.isnan(rows["teacher_loss"]) & (is_named | (weight != 0) | (size != 0))
    reasons = {}
    for i in np.flatnonzero(is_hidden).tolist():
        if is_named[i]:
            teacher = rows["teacher_run"][i]
            reasons[i] = f"its teacher {teacher} is not among the runs and no teacher_loss is given"
        elif weight[i]:
            reasons[i] = f"lambda is {weight[i]}, so it was distilled, but no teacher_loss is given"
        else:
            reasons[i] = "it has teacher_params, but no teacher_loss is given"
    return reasons


def _marked(rows: Rows) -> Rows:
    """Roles, and the teacher's run of students that only know its loss: equal losses are one teacher."""
    named = rows["teacher_run"]
    teachers = set(filter(None, named))
    role = [
        "teacher" if run in teachers else own for run, own in zip(rows["run_id"], rows["role"], strict=True)
    ]
    teacher_run = [
        name or (None if loss is None else f"teacher-of-loss-{loss:.6g}")
        for name, loss in zip(named, rows.plain("teacher_loss"), strict=True)
    ]
    return rows.with_columns(
        role=objects(role), purpose=objects(["teacher" if own == "teacher" else "grid" for own in role]),
        teacher_run=objects(teacher_run),
    )  # fmt: skip
