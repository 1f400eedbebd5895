"""Your own models as points: what they scored (evaluation.json) and what they cost (result.json), read from folders.

A folder is a run of a study or recipe, or any that `distillaw evaluate` wrote; a CSV or other table with the columns
name, compute, score and, if known, se does as well.
"""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillaw.accounting.conventions import ParamConvention, Params
from distillaw.accounting.pareto import distillation_axis, training_axis
from distillaw.errors import ConfigError, DataError
from distillaw.pareto.frontier import Point
from distillaw.pareto.published import SCORES
from distillaw.runs.files import read_json
from distillaw.runs.table import read_table

TEACHER_COSTS = ("none", "forward", "training")
"""What of the teacher is on the axis: nothing, its forward passes (as published), its training as well."""
HELDOUT = "bits_per_byte"


def own_points(
    path: Path, *, task: str, teacher_cost: str = "forward", teacher_tokens: float = 0.0
) -> list[Point]:
    """The points of a folder or a table.

    Args:
        path: a folder with evaluation.json, or a table of points.
        task: a task of evaluation.json, `mean6`, or `bits_per_byte` (minus it: larger is better).
        teacher_cost: one of `TEACHER_COSTS`.
        teacher_tokens: tokens that the teacher was trained on, for `training`.

    Raises:
        ConfigError: an unknown teacher cost, or its training wanted without its tokens.
        DataError: no evaluation there, no such score, or no compute known.
    """
    if teacher_cost not in TEACHER_COSTS:
        raise ConfigError(f"--teacher-cost {teacher_cost}: one of {', '.join(TEACHER_COSTS)}")
    if teacher_cost == "training" and not teacher_tokens > 0:
        raise ConfigError(
            "--teacher-cost training needs --teacher-tokens, those that the teacher was trained on"
        )
    if not path.exists():
        raise DataError(
            f"{path}: no such folder or table; give a folder with evaluation.json, or a CSV with the columns "
            "name, compute, score"
        )
    if path.is_file():
        return _table_points(path)
    evaluation = _evaluation(path)
    result = _result(path)
    score, se = score_of(evaluation, task, str(path))
    return [
        Point(
            name=str(result.get("name") or result.get("run_id") or path.name),
            score=score,
            se=se,
            is_own=True,
            compute=axis_compute(
                result, teacher_cost=teacher_cost, teacher_tokens=teacher_tokens, where=str(path)
            ),
            source=str(path),
        )
    ]


def score_of(evaluation: Mapping[str, Any], task: str, where: str) -> tuple[float, float | None]:
    """(score, standard error): per cent of a task, or minus the bits per byte.

    Raises:
        DataError: it was not measured.
    """
    scores = evaluation.get("scores") or {}
    if task == HELDOUT and (heldout := evaluation.get("heldout")):
        return -heldout["bits_per_byte"], heldout["bits_per_byte_se"]
    if task == "mean6" and (six := evaluation.get("mean_of_six")):
        return 100 * six["score"], 100 * six["se"]
    if task in scores:
        se = scores[task]["se"]
        return 100 * scores[task]["score"], None if se is None else 100 * se
    missing = ", ".join(name for name in SCORES if name not in scores) if task == "mean6" else task
    raise DataError(
        f"{where}: no score of {missing}; measured are {', '.join(sorted(scores)) or 'no tasks'}. "
        "`distillaw evaluate` measures them, or choose another --score"
    )


def axis_compute(
    result: Mapping[str, Any], *, teacher_cost: str, teacher_tokens: float = 0.0, where: str = "result.json"
) -> float:
    """FLOP of a run on the published axis: 6 N D of all weights, the teacher's part as asked, what went before added.

    Raises:
        DataError: sizes or tokens are not recorded.
    """
    if result.get("total_params") is None or result.get("tokens") is None:
        raise DataError(f"{where}: total_params or tokens are not recorded, so its compute is not known")
    student = Params(float(result["total_params"]), ParamConvention.ALL_WEIGHTS)
    tokens, before = float(result["tokens"]), float(result.get("compute_before") or 0.0)
    teacher = result.get("teacher_total_params")
    if teacher_cost == "none" or not teacher:
        return training_axis(student, tokens).flop + before
    compute = distillation_axis(
        student,
        Params(float(teacher), ParamConvention.ALL_WEIGHTS),
        tokens,
        teacher_tokens=teacher_tokens if teacher_cost == "training" else 0.0,
    )
    return compute.flop + before


def _evaluation(folder: Path) -> dict[str, Any]:
    file = folder / "evaluation.json"
    if not file.exists():
        file = folder / "evaluation" / "evaluation.json"  # where `distillaw evaluate RUN` puts it
    if not file.exists() and (folder / "study.json").exists():
        raise DataError(f"{folder}: a study, not a model: name a folder under {folder / 'runs'}")
    if not file.exists():
        place = shlex.quote(str(folder))
        raise DataError(
            f"{folder}: no evaluation.json; `distillaw evaluate {place} --text YOUR_TEXT --out {place}` makes it"
        )
    return read_json(file)


def _result(folder: Path) -> dict[str, Any]:
    file = folder / "result.json"
    if not file.exists() and folder.name == "evaluation":
        file = folder.parent / "result.json"
    if not file.exists():
        raise DataError(
            f"{folder}: no result.json, so its training compute is not known; give a table with the columns name, "
            "compute, score instead"
        )
    return read_json(file)


def _table_points(path: Path) -> list[Point]:
    table = read_table(path)
    if missing := {"name", "compute", "score"} - table.keys():
        raise DataError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(table)}")
    errors = table.get("se", [None] * len(table["name"]))
    rows = zip(table["name"], table["compute"], table["score"], errors, strict=True)
    return [_table_point(path, *row) for row in rows]


def _table_point(path: Path, name: object, compute: object, score: object, se: Any) -> Point:
    where = f"{path}: {name}:"
    return Point(
        name=str(name),
        compute=_number(compute, f"{where} compute"),
        score=_number(score, f"{where} score"),
        is_own=True,
        source=str(path),
        se=None if se is None or se != se else _number(se, f"{where} se"),
    )


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{where} is {str(value)!r}, which is no number; write one such as 4.0e21, with a decimal point, not a "
            "comma"
        )
    return number
