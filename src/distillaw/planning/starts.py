"""What students begin from: random weights, a cut of a teacher, or a model trained before.

A cut stands where a random start stands later: the law of starts (`laws/starts.py`) gives the tokens between, its head
start, and every law of random starts is then asked at that many tokens more. With `--start pruned` all strategies begin
from one cut, that of the teacher whose cut has the most of a head start; else cuts are shown beside random starts.
Nothing is known here of a start from another model (`--start pretrained`).
"""

import math
from dataclasses import replace

import numpy as np

from distillaw.planning.situation import Situation, Teacher


def cut_problem(teacher: Teacher, student_params: float | None, situation: Situation) -> str:
    """The phrase that says why the law of starts does not reach a cut of this teacher; empty where it does."""
    if student_params is None:
        return "cut of free size"
    if not teacher.exists:
        return "cut of none"
    if situation.cost_shares.delta_pre > 0:
        return "cut is billed"
    if teacher.params is None or teacher.tokens is None:
        return "cut of unknown"
    if teacher.params <= student_params:
        return "cut is no cut"
    inside = situation.start_law.inside(student_params=student_params, source_params=teacher.params)
    return "" if inside else "cut too small"


def log_head_start(situation: Situation, teacher: Teacher, *, taught: bool) -> tuple[float, float]:
    """Ln of the head start of a cut, tokens, and its standard deviation.

    Args:
        situation: the student, of known size.
        teacher: one without a `cut_problem`.
        taught: whether the student learns from a teacher.
    """
    assert teacher.params and teacher.tokens and situation.student_params
    coords = (np.log(x) for x in (situation.student_params, teacher.params, teacher.tokens))
    members = situation.start_law.log_head_start(*coords, taught=taught)
    return float(members.mean()), math.hypot(situation.start_law.spread, float(members.std()))


def cut_source(situation: Situation) -> Teacher | None:
    """The teacher that students are cut out of: of those that the law reaches, the one of the largest head start."""
    reached = [t for t in situation.teachers if not cut_problem(t, situation.student_params, situation)]
    return max(reached, key=lambda t: log_head_start(situation, t, taught=True)[0], default=None)


def begins_from(situation: Situation, teacher: Teacher, student_params: float) -> Situation:
    """The question with students of this size that are cut out of this teacher."""
    return replace(situation, start="pruned", teachers=(teacher,), student_params=student_params)


def start_problem(situation: Situation) -> str:
    """The phrase that says why no law covers the start that was asked for; empty where one does."""
    if situation.start == "pretrained":
        return "pretrained unknown"
    if situation.start == "random" or cut_source(situation) is not None:
        return ""
    if not situation.teachers:
        return "cut of none"
    return cut_problem(situation.teachers[0], situation.student_params, situation)
