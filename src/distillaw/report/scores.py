"""What several models scored, side by side, with errors and the level of chance."""

import math
from collections.abc import Mapping
from typing import Any

from distillaw.pareto.frontier import Point
from distillaw.report.content import Table, Value


def score_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per measure, a column per model."""
    rows = [
        _row("held-out loss, nats/token", models, lambda m: (m["heldout"]["loss"], m["heldout"]["loss_se"]), 3),
        _row("bits per byte", models, lambda m: (m["heldout"]["bits_per_byte"], m["heldout"]["bits_per_byte_se"]), 3),
        _row("calibration error against the text, %", models,
             lambda m: (100 * m["calibration"]["ece_data"], 100 * m["calibration"]["ece_data_se"]), 2),
        _row("calibration error against the teacher, %", models,
             lambda m: (100 * m["calibration"]["ece_teacher"], 100 * m["calibration"]["ece_teacher_se"]), 2),
    ]  # fmt: skip
    for task in _tasks(models):
        rows.append(_row(f"{task}, %", models, lambda m, task=task: (
            100 * m["scores"][task]["score"], 100 * (m["scores"][task]["se"] or math.nan)), 1))  # fmt: skip
    return Table(columns=["", *models], rows=rows)


def score_notes(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which scores say nothing: their interval holds what guessing gives."""
    found = ["Losses on documents that no model was trained on here, each scored from its beginning; questions are the "
             "same for every model."]  # fmt: skip
    for task in _tasks(models):
        at_chance = [
            name for name, m in models.items() if task in m["scores"] and m["scores"][task]["near_chance"]
        ]
        if at_chance:
            found.append(
                f"{task}: {', '.join(at_chance)} cannot be told from guessing; read no difference there."
            )
    return found


def own_frontier(
    costs: Mapping[str, tuple[str, float]], models: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Point], str]:
    """Points of the recipe's own models: the mean of the tasks they all have, else minus the bits per byte.

    Args:
        costs: point -> (model, FLOP).
        models: model -> its evaluation.
    """
    tasks = _tasks(models)
    points = []
    for label, (name, compute) in costs.items():
        scores = [models[name]["scores"][task] for task in tasks if task in models[name]["scores"]]
        if tasks and len(scores) == len(tasks):
            score = 100 * sum(s["score"] for s in scores) / len(scores)
            se = 100 * math.hypot(*(s["se"] or 0.0 for s in scores)) / len(scores)
        else:
            heldout = models[name]["heldout"]
            score, se = -heldout["bits_per_byte"], heldout["bits_per_byte_se"]
        points.append(Point(name=label, compute=compute, score=score, se=se, is_own=True,
                            is_chat=name == "chat"))  # fmt: skip
    return points, f"mean of {', '.join(tasks)}, %" if tasks else "minus bits per byte (higher is better)"


def _tasks(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(set.intersection(*(set(m["scores"]) for m in models.values()))) if models else []


def _row(what: str, models: Mapping[str, Mapping[str, Any]], read, digits: int) -> list[Value]:
    values = [Value(text=what, kind="text")]
    for model in models.values():
        try:
            value, se = read(model)
        except KeyError:
            value = se = None
        text = (
            "-"
            if value is None
            else f"{value:.{digits}f}" + (f" ± {se:.{digits}f}" if se is not None and se == se else "")
        )
        values.append(Value(text=text, sort=value if value is not None else ""))
    return values
