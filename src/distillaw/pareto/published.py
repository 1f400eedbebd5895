"""The published points: training compute and the mean of six benchmarks, from the repository of arXiv 2311.07052.

    exact       the README's table at commit 4842dc0: six scores each, the mean computed from them
    digitised   the first published figure, read off: compute to 0.1, score to 0.2, for models that no table has

Chat models of the table stand beside base models only where they are asked for: tuning moves the scores and is not in
the compute.

The axis is the published one: all weights, 6 N D, of distilled models plus the teacher's forward 2 N_T D; what it took
to train the teacher is not in it (accounting/pareto.py). Not comparable with model FLOP.
"""

import csv
import math
from importlib.resources import files

from distillaw.pareto.frontier import Point

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


def published_points(task: str = "mean6", *, chat: bool = False) -> list[Point]:
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


def _exact(row: dict[str, str], task: str) -> Point:
    scores = {name: float(row[column]) for name, column in SCORES.items()}
    if task == "mean6":
        score, se = sum(scores.values()) / len(scores), _sampling(scores)
    else:
        score, se = scores[task], _sampling({task: scores[task]})
    return Point(
        name=row["model"],
        compute=float(row["tflops_reported"]) * TERAFLOP,
        score=score,
        se=se,
        is_chat=row["model"] in CHAT,
        source=row["source"],
    )


def _digitised(row: dict[str, str]) -> Point:
    """A point of the figure: the six scores behind its mean are not known, so each counts as the mean."""
    score = float(row["y_mean_of_6_tasks_approx"])
    sampling = _sampling(dict.fromkeys(SCORES, score))
    return Point(
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
