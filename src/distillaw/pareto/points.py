"""Compute against score: models as points, published and your own; their frontier, and the place of one model.

    staircase   the models that no other beats at equal or less compute
    hull        of these, the corners of the upper concave hull over log compute: what mixtures of budgets could reach

Which of the two is drawn is always said. Published frontiers are often smooth lines drawn by eye; these are not. A
folder is a run of a study or recipe, or any that `distillaw evaluate` wrote; a CSV or other table with the columns
name, compute, score and, if known, se does as well.

The axis is the published one: all weights, 6 N D, of distilled models plus the teacher's forward 2 N_T D; what it took
to train the teacher is not in it (accounting/architecture.py). Not comparable with model FLOP.

Published points are of the repository of arXiv 2311.07052 and say how they were obtained:

    exact       the README's table at commit 4842dc0: six scores each, the mean computed from them
    digitised   the first published figure, read off: compute to 0.1, score to 0.2, for models that no table has

Chat models of the table stand beside base models only where they are asked for: tuning moves the scores and is not in
the compute.
"""

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from distillaw.accounting.architecture import ParamConvention, Params, distillation_axis, training_axis
from distillaw.errors import ConfigError, DataError
from distillaw.laws.skill import SkillLaw
from distillaw.runs.files import read_json
from distillaw.runs.table import read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePoint:
    """One model."""

    name: str
    compute: float
    """FLOP on one axis, the same for all points of a picture."""
    score: float
    """Larger is better."""
    se: float | None = None
    """Standard error of the score; None where nothing is known of it."""
    is_own: bool = False
    is_predicted: bool = False
    """Made of the held-out loss by a law (laws/skill.py), not measured."""
    is_chat: bool = False
    """Tuned to follow instructions; scored on the same tests as base models."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPlace:
    """Where a model stands among others."""

    best: ScorePoint | None
    """The best of the others at no more compute; None where all others cost more."""
    ahead: float | None
    """Score minus that of `best`."""
    ahead_se: float | None
    """Standard error of `ahead`, of what is known of both scores."""
    probability: float | None
    """That it is ahead of `best`: the normal distribution of `ahead`; None where no error is known."""
    cheapest: ScorePoint | None
    """The cheapest other that scores at least as much; None where none does."""


def staircase(points: Sequence[ScorePoint]) -> list[ScorePoint]:
    """The points that no other beats: less or equal compute and at least the score; ascending.

    Raises:
        DataError: a compute or score that is not finite, or a compute not above 0.
    """
    _check(points)
    frontier: list[ScorePoint] = []
    for point in sorted(points, key=lambda p: (p.compute, -p.score)):
        if not frontier or point.score > frontier[-1].score:
            frontier.append(point)
    return frontier


def hull(points: Sequence[ScorePoint]) -> list[ScorePoint]:
    """The corners of the upper-left concave hull over the logarithm of compute; ascending. Errors as of `staircase`."""
    corners: list[ScorePoint] = []
    for point in staircase(points):
        while len(corners) >= 2 and _is_below(corners[-1], corners[-2], point):
            corners.pop()
        corners.append(point)
    return corners


FRONTIERS = {"staircase": staircase, "hull": hull}
"""By the name that `--frontier` takes."""


def place(point: ScorePoint, others: Sequence[ScorePoint]) -> FrontierPlace:
    """Where a point stands among others; a point of its own name does not count. Errors as of `staircase`."""
    _check([point, *others])
    others = [other for other in others if other.name != point.name]
    cheaper = [other for other in others if other.compute <= point.compute]
    best = max(cheaper, key=lambda other: other.score, default=None)
    reached = [other for other in others if other.score >= point.score]
    cheapest = min(reached, key=lambda other: other.compute, default=None)
    ahead = se = probability = None
    if best is not None:
        ahead = point.score - best.score
        known = [se for se in (point.se, best.se) if se is not None]
        se = math.hypot(*known) if known else None
        probability = None if not se else 0.5 * math.erfc(-ahead / (se * math.sqrt(2)))
    return FrontierPlace(best=best, ahead=ahead, ahead_se=se, probability=probability, cheapest=cheapest)


def _check(points: Sequence[ScorePoint]) -> None:
    for point in points:
        if not (math.isfinite(point.score) and math.isfinite(point.compute) and point.compute > 0):
            raise DataError(
                f"{point.name}: compute {point.compute:g} FLOP, score {point.score:g}; a point needs a finite score "
                "and a finite compute above 0"
            )


def _is_below(middle: ScorePoint, left: ScorePoint, right: ScorePoint) -> bool:
    """Whether a corner lies on or under the line through its neighbours."""
    share = math.log(middle.compute / left.compute) / math.log(right.compute / left.compute)
    return middle.score <= left.score + share * (right.score - left.score)


def place_words(point: ScorePoint, points: Sequence[ScorePoint]) -> str:
    """Where one model stands, in a sentence with its uncertainty."""
    found = place(point, points)
    if found.best is None:
        return f"{point.name}: no other model here costs as little, so nothing is said of its place"
    assert found.ahead is not None
    side, error, sure = "ahead of" if found.ahead > 0 else "behind", "", ""
    if found.ahead_se is not None and found.probability is not None:
        error, sure = f" ± {found.ahead_se:.2g}", f" (probability to be ahead {_chance(found.probability)})"
    best = f"the best at no more compute, {found.best.name}{sure}"
    said = f"{point.name}: {abs(found.ahead):.3g}{error} {side} {best}"
    if found.cheapest is not None:
        ratio = found.cheapest.compute / point.compute
        said += f"; as good at {_times(ratio)} its compute: {found.cheapest.name}"
    return said


def _times(ratio: float) -> str:
    """A ratio to two digits: 0.35 times, 1/2,000 of, 80,000,000 times."""
    if ratio < 0.01:
        return f"1/{float(f'{1 / ratio:.2g}'):,.0f} of"
    return f"{float(f'{ratio:.2g}'):,.0f} times" if ratio >= 100 else f"{ratio:.2g} times"


def _chance(probability: float) -> str:
    """Per cent; what rounds to certainty is not said to be certain."""
    if 0.005 <= probability <= 0.995:
        return f"{probability:.0%}"
    return "over 99 %" if probability > 0.5 else "under 1 %"


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
    points: list[ScorePoint] = []
    for row in _read("standard_benchmarks_readme.csv"):
        name, scores = row["model"], {k: float(row[column]) for k, column in SCORES.items() if task in ("mean6", k)}
        if chat or name not in CHAT:
            compute, score = float(row["tflops_reported"]) * TERAFLOP, sum(scores.values()) / len(scores)
            exact = ScorePoint(name=name, compute=compute, score=score, se=_sampling(scores), source=row["source"])
            points.append(replace(exact, is_chat=name in CHAT))
    known = {_key(point.name) for point in points}
    for row in _read("pareto_points_v1_digitised.csv") if task == "mean6" else ():
        if row["is_exact_elsewhere"] == "no" and _key(row["model"]) not in known:
            score, compute = float(row["y_mean_of_6_tasks_approx"]), float(row["x_compute_1e9_TFLOPs_approx"])
            # the six scores behind the mean are not known, so each counts as the mean
            se = math.hypot(FIGURE_ERROR, _sampling(dict.fromkeys(SCORES, score)))
            flop, source = 1e9 * TERAFLOP * compute, row["source"]
            points.append(ScorePoint(name=row["model"], compute=flop, score=score, se=se, source=source))
    return points


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
    path: Path, *, task: str, teacher_cost: str = "forward", teacher_tokens: float = 0.0, skill: SkillLaw | None = None
) -> list[ScorePoint]:
    """The points of a folder or a table.

    Args:
        path: a folder with evaluation.json, or a table of points.
        task: a task of evaluation.json, `mean6`, or `bits_per_byte` (minus it: larger is better).
        teacher_cost: one of `TEACHER_COSTS`.
        teacher_tokens: tokens that the teacher was trained on, for `training`.
        skill: predicts the task from the held-out loss where it was not measured.

    Raises:
        ConfigError: an unknown teacher cost, or its training wanted without its tokens.
        DataError: no evaluation there, no such score, or no compute known.
    """
    if teacher_cost not in TEACHER_COSTS:
        raise ConfigError(f"--teacher-cost {teacher_cost}: one of {', '.join(TEACHER_COSTS)}")
    if teacher_cost == "training" and not teacher_tokens > 0:
        raise ConfigError("--teacher-cost training needs --teacher-tokens, those that the teacher was trained on")
    if not path.exists():
        raise DataError(
            f"{path}: no such folder or table; give a folder with evaluation.json, or a CSV with the columns "
            "name, compute, score"
        )
    if path.is_file():
        return _table_points(path)
    evaluation, result, where = _evaluation(path), _result(path), str(path)
    name = str(result.get("name") or result.get("run_id") or path.name)
    heldout = (evaluation.get("heldout") or {}).get("loss")
    is_predicted = skill is not None and task not in (evaluation.get("scores") or {}) and heldout is not None
    score, se = _predicted(skill, heldout) if is_predicted else score_of(evaluation, task, where)
    compute = axis_compute(result, teacher_cost=teacher_cost, teacher_tokens=teacher_tokens, where=where)
    seen = {"is_own": True, "is_predicted": is_predicted, "source": where}
    return [ScorePoint(name=name, score=score, se=se, compute=compute, **seen)]


def _predicted(skill: SkillLaw, loss: float) -> tuple[float, float]:
    """(score, standard error) of a task by its law, per cent; of the interval, which is wide and lopsided, the half."""
    score = skill.score((loss, loss, loss), level=0.6827)
    return 100 * score.median, 50 * (score.upper - score.lower)


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
        return training_axis(student, tokens) + before
    compute = distillation_axis(
        student,
        Params(float(teacher), ParamConvention.ALL_WEIGHTS),
        tokens,
        teacher_tokens=teacher_tokens if teacher_cost == "training" else 0.0,
    )
    return compute + before


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
    return [
        ScorePoint(
            name=str(name),
            compute=_number(compute, f"{path}: {name}: compute"),
            score=_number(score, f"{path}: {name}: score"),
            is_own=True,
            source=str(path),
            se=None if se is None or se != se else _number(se, f"{path}: {name}: se"),
        )
        for name, compute, score, se in rows
    ]


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
