"""Models as points: the published ones, and your own from folders: what they scored, and what they cost.

A folder is a run of a study or recipe, or any that `distillaw evaluate` wrote; a CSV or other table with the columns
name, compute, score and, if known, se does as well.

The axis is the published one: all weights, 6 N D, of distilled models plus the teacher's forward 2 N_T D; what it took
to train the teacher is not in it (accounting/pareto.py). Not comparable with model FLOP.

Published points are of the repository of arXiv 2311.07052 and say how they were obtained:

    exact       the README's table at commit 4842dc0: six scores each, the mean computed from them
    digitised   the first published figure, read off: compute to 0.1, score to 0.2, for models that no table has

Chat models of the table stand beside base models only where they are asked for: tuning moves the scores and is not in
the compute.
"""

import csv
import math
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from distillaw.accounting.conventions import ParamConvention, Params
from distillaw.accounting.pareto import distillation_axis, training_axis
from distillaw.errors import ConfigError, DataError
from distillaw.pareto.frontier import ScorePoint
from distillaw.runs.files import read_json
from distillaw.runs.table import read_table

# --- published: compute and the mean of six benchmarks, from the repository of arXiv 2311.07052 -------------


SCORES = {
    "mmlu": "mmlu_5shot",
    "ceval": "ceval_5shot",
    "drop": "drop_3shot",
    "humaneval": "humaneval_0shot",
    "bbh": "bbh_3shot",
    "gsm8k": "gsm8k_8shot",
}
"""Task -> column of the table."""
QUESTIONS = {"mmlu": 14042, "ceval": 1346, "drop": 9536, "humaneval": 164, "bbh": 6511, "gsm8k": 1319}
"""Test questions: MMLU (arXiv 2009.03300), C-Eval (2305.08322, validation), DROP (1903.00161, development), HumanEval
(2107.03374), BBH (2210.09261), GSM8K (2110.14168); recalled, HumanEval, BBH and GSM8K counted in the files we have."""
FIGURE_ERROR = 0.2
"""Reading error of a digitised score."""
TERAFLOP = 1e12
CHAT = ("MiniChat-3B", "MiniChat-2-3B")
"""Chat models scored on the same tests as base models."""


def published_points(task: str = "mean6", *, chat: bool = False) -> list[ScorePoint]:
    """The published models, each once, the exact table before the figure.

    Args:
        task: mean6, or one of `SCORES`, which only the table has.
        chat: the two chat models of the table as well as the base models.

    Returns:
        Scores in per cent, with the standard error that the number of test questions alone would give (binomial, an
        upper bound for DROP's F1), and of digitised ones that of the reading too; prompts, shots and harness differ
        between models and papers by more than that.
    """
    points = [
        _exact(row, task)
        for row in _read("standard_benchmarks_readme.csv")
        if chat or row["model"] not in CHAT
    ]
    if task != "mean6":
        return points
    known = {_key(point.name) for point in points}
    for row in _read("pareto_points_v1_digitised.csv"):
        if row["is_exact_elsewhere"] == "no" and _key(row["model"]) not in known:
            points.append(_digitised(row))
    return points


def _exact(row: dict[str, str], task: str) -> ScorePoint:
    scores = {name: float(row[column]) for name, column in SCORES.items()}
    if task == "mean6":
        score, se = sum(scores.values()) / len(scores), _sampling(scores)
    else:
        score, se = scores[task], _sampling({task: scores[task]})
    return ScorePoint(
        name=row["model"],
        compute=float(row["tflops_reported"]) * TERAFLOP,
        score=score,
        se=se,
        is_chat=row["model"] in CHAT,
        source=row["source"],
    )


def _digitised(row: dict[str, str]) -> ScorePoint:
    """A point of the figure: the six scores behind its mean are not known, so each counts as the mean."""
    score = float(row["y_mean_of_6_tasks_approx"])
    sampling = _sampling(dict.fromkeys(SCORES, score))
    return ScorePoint(
        name=row["model"],
        compute=1e9 * TERAFLOP * float(row["x_compute_1e9_TFLOPs_approx"]),
        score=score,
        se=math.hypot(FIGURE_ERROR, sampling),
        source=row["source"],
    )


def _sampling(scores: dict[str, float]) -> float:
    """Standard error of the mean of percentages of independent questions, task by task."""
    errors = [math.sqrt(score * (100 - score) / QUESTIONS[task]) for task, score in scores.items()]
    return math.hypot(*errors) / len(errors)


def _key(name: str) -> str:
    return name.lower().replace("-", "").split(" ")[0]


def _read(name: str) -> list[dict[str, str]]:
    text = (files("distillaw.pareto") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


# --- your own: evaluation.json and result.json --------------------------------------------------------------


TEACHER_COSTS = ("none", "forward", "training")
"""What of the teacher is on the axis: nothing, its forward passes (as published), its training as well."""
HELDOUT = "bits_per_byte"


def own_points(
    path: Path, *, task: str, teacher_cost: str = "forward", teacher_tokens: float = 0.0
) -> list[ScorePoint]:
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
        ScorePoint(
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


def _table_points(path: Path) -> list[ScorePoint]:
    table = read_table(path)
    if missing := {"name", "compute", "score"} - table.keys():
        raise DataError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(table)}")
    errors = table.get("se", [None] * len(table["name"]))
    rows = zip(table["name"], table["compute"], table["score"], errors, strict=True)
    return [_table_point(path, *row) for row in rows]


def _table_point(path: Path, name: object, compute: object, score: object, se: Any) -> ScorePoint:
    where = f"{path}: {name}:"
    return ScorePoint(
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
