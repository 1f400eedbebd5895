"""Who was taught by whom: a teacher named by its run, its loss looked up, and rows that hide a teacher left out."""

from collections.abc import Sequence

from distillaw.errors import DataError
from distillaw.runs.importing.rows import Left, Row


def link_teachers(rows: Sequence[Row], others: Sequence[Row]) -> tuple[list[Row], list[Left]]:
    """Rows with their teacher's loss, size and tokens; distilled rows whose teacher's loss is not known are left out.

    A student without `teacher_loss` counts as trained on data alone in every fit: such a mistake would be silent.

    Args:
        rows: of all sources together, so that teacher and students may come from different ones.
        others: rows of run tables, which are right as they are and may be teachers too.

    Raises:
        DataError: a teacher's name fits several runs.
    """
    known: dict[str, list[Row]] = {}
    for row in (*rows, *others):
        for name in {str(row["run_id"]), *row.get("source_names", ())}:  # type: ignore[misc]
            known.setdefault(name, []).append(row)
    kept, left = [], []
    for row in rows:
        teacher = _teacher(row, known)
        if teacher is not None:
            _copy(teacher, row)
        why = _hidden_teacher(row)
        if why:
            left.append(Left(run=str(row["source_run"]), source=str(row["source"]), reason=why))
        else:
            kept.append(row)
    _mark(kept)
    return kept, left


def _teacher(row: Row, known: dict[str, list[Row]]) -> Row | None:
    named = row.get("teacher_run")
    if not named:
        return None
    fits = [other for other in known.get(str(named), []) if other is not row]
    here = [other for other in fits if other["source"] == row["source"]] or fits
    if len({other["group"] for other in here}) > 1:
        raise DataError(
            f"{row['source_run']}: its teacher {named!r} could be any of {len(here)} runs of that name; name the "
            "teacher by its run id, or give teacher_loss"
        )
    return max(here, key=lambda other: other["tokens"], default=None)  # type: ignore[arg-type,return-value]


def _copy(teacher: Row, row: Row) -> None:
    row["teacher_run"] = teacher["run_id"]
    for name in ("loss", "params", "tokens"):
        if row.get(f"teacher_{name}") is None:
            row[f"teacher_{name}"] = teacher[name]


def _hidden_teacher(row: Row) -> str:
    if row.get("teacher_loss") is not None:
        return ""
    if row.get("teacher_run"):
        return f"its teacher {row['teacher_run']} is not among the runs and no teacher_loss is given"
    if row.get("lambda"):
        return f"lambda is {row['lambda']}, so it was distilled, but no teacher_loss is given"
    if row.get("teacher_params"):
        return "it has teacher_params, but no teacher_loss is given"
    return ""


def _mark(rows: Sequence[Row]) -> None:
    """Roles, and the teacher's run of students that only know its loss: equal losses are one teacher."""
    teachers = {row["teacher_run"] for row in rows if row.get("teacher_run")}
    for row in rows:
        if row["run_id"] in teachers:
            row["role"] = "teacher"
        row["purpose"] = "teacher" if row["role"] == "teacher" else "grid"
        if row.get("teacher_loss") is not None and not row.get("teacher_run"):
            row["teacher_run"] = f"teacher-of-loss-{row['teacher_loss']:.6g}"
