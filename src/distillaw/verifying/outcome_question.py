"""The question that a published outcome asks of the planner, and the answer in one row.

A question is made of sizes, tokens, budgets and the recipe, never of a row's values. What the planner has no option for
(a text of another distribution) is left out of it; where nothing would be left of the comparison, the row is not asked,
with the reason. Where only total parameters were published, they stand for those without embeddings. A score follows
the loss loosely, so that what is said of one is less sure than of the other. A row that tells its noise has a winner
only beyond it, so that is the margin it is asked with, and its difference errs by as much.
"""

import math
from dataclasses import asdict, dataclass, replace
from shlex import quote
from typing import Any

import numpy as np
from scipy.special import ndtr

from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.errors import DistillawError
from distillaw.outcomes.table import LOSSES, Outcome, loss_of
from distillaw.planning.api import plan
from distillaw.planning.decision import MARGIN, SURE, tempered
from distillaw.planning.learnt import SEEDS, learnt
from distillaw.planning.question import PlanQuestion, situation_of
from distillaw.planning.situation import forward_flop
from distillaw.planning.verdict import Verdict
from distillaw.quantities import format_count

NOT_ASKED = {
    "distil-vs-pretrain-own-budgets": "the budgets of A and B are not comparable",
    "distil-vs-finetune": "no option for a student that is trained already",
    "tokens-a-vs-b": "no question about tokens alone",
    "recipe-a-vs-b": "no option for the recipe",
}
"""Comparisons that `plan` has no question for, and why."""


SCORE_SD = 0.012
"""What a task average moves beside the loss, as a share of the loss: a point or so of a hundred, which is what one per
cent of the loss is worth. Judged before the doubt was learnt; learnt beside it, it came out at 0.013."""
SLACK = 0.05
"""Share by which the teacher's passes may cost more time than FLOP and still be asked as FLOP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the planner says of one outcome."""

    id: str
    question: str = ""
    """As a command line; empty where there was none."""
    status: str = "refused"
    """`answered`, `unknown` (no law reaches the question) or `refused`."""
    call: str = ""
    """`A`, `B` or `too-close`; empty where it was not asked."""
    probability_a: float | None = None
    """That A wins by more than the planner's margin."""
    gain: float | None = None
    """Of A over B, nats/token, with a 90 % interval where A distils and B does not."""
    gain_lower: float | None = None
    gain_upper: float | None = None
    inside_range: bool | None = None
    why: str = ""
    """Of a refusal."""
    loss: float | None = None
    """Of B, nats/token."""

    def cells(self) -> dict[str, str]:
        """The row as text; probabilities and nats with four decimals."""
        return {name: _text(value) for name, value in asdict(self).items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


class NotAskedError(Exception):
    """The planner has no question for this row; its text says why."""


def ask(row: Outcome) -> Answer:
    """Put the question of a row to the planner."""
    blank = Answer(id=row.id)
    try:
        asked = question_of(row)
    except NotAskedError as no:
        return replace(blank, why=str(no))
    blank = replace(blank, question=_command(asked))
    try:
        verdict = plan(**asked, with_flips=False, unlearnt=row.source)
    except DistillawError as no:
        return replace(blank, why=str(no))
    if row.start_b:
        return _of_starts(blank, verdict, row)
    return (_of_teachers if row.teacher_b else _of_verdict)(blank, verdict, row)


def noise_of(row: Outcome) -> float:
    """Published noise of one loss, as a share of it; 0 where none was told."""
    if not row.is_loss or row.value_noise is None or row.value_b is None:
        return 0.0
    unit = LOSSES.get(row.metric_kind)
    noise = row.value_noise / row.value_b if unit is None else unit * row.value_noise
    return noise / loss_of(row, row.value_b)


def _of_verdict(blank: Answer, verdict: Verdict, row: Outcome) -> Answer:
    """Distil (A) or pretrain (B)."""
    gain, pretrain, headline = verdict.gain, verdict.headline.pretrain, verdict.headline
    found = replace(
        blank,
        status="answered" if headline.is_decisive else "unknown",
        call={"distil": "A", "pretrain": "B"}.get(verdict.verdict, "too-close"),
        probability_a=verdict.call.distil,
        gain=gain.mean,
        gain_lower=gain.lower,
        gain_upper=gain.upper,
        inside_range=verdict.inside_range,
        loss=None if pretrain is None else pretrain.loss.mean,
    )
    if pretrain is None or not headline.is_decisive or (row.is_loss and not noise_of(row)):
        return found
    beside = 0.0 if row.is_loss else learnt(row.source).points
    return _called(found, headline.gain_draws / pretrain.loss.mean + beside, row)


def _called(found: Answer, gain: np.ndarray, row: Outcome) -> Answer:
    """With the call that draws of A's gain over B make, shares of the loss; scores and noisy losses err more."""
    noise = noise_of(row)
    sd = math.sqrt(max(2 * noise**2 - SEEDS**2, 0.0)) if row.is_loss else SCORE_SD
    ahead, behind = (sign * gain - max(MARGIN, noise) for sign in (1, -1))
    a, b = (tempered(float((ndtr(x / sd) if sd else x > 0).mean())) for x in (ahead, behind))
    return replace(found, probability_a=a, call="A" if a >= SURE else "B" if b >= SURE else "too-close")


def _of_teachers(blank: Answer, verdict: Verdict, row: Outcome) -> Answer:
    """Teacher A or teacher B: the first or the second one of the question."""
    headline, rows = verdict.headline, verdict.headline.alternatives
    distils = {each.teacher: j for j, each in enumerate(rows) if each.kind == "distil"}
    ours = [distils.get(teacher) for teacher in verdict.asked.teachers]
    a, b = ours
    if a is None or b is None or a == b:
        return replace(blank, why="the planner does not tell the two teachers apart")
    if not headline.is_decisive:
        return replace(blank, status="unknown", call="too-close", probability_a=0.5, inside_range=False)
    assert headline.posterior is not None
    gain = headline.posterior.draws[:, a] - headline.posterior.draws[:, b]
    answered = replace(blank, status="answered", gain=float(gain.mean()), inside_range=verdict.inside_range)
    return _called(answered, gain / rows[b].loss.mean, row)


def _of_starts(blank: Answer, verdict: Verdict, row: Outcome) -> Answer:
    """A cut that learns from its teacher (A) against random weights with or without one (B)."""
    headline, alone = verdict.headline, row.says_of_distilling
    a = next((j for j, s in enumerate(headline.alternatives) if s.cut_of is not None and s.teacher), None)
    b = next((j for j, s in enumerate(headline.alternatives) if s.kind == "distil"), None)
    if a is None or b is None:
        return replace(blank, why="the law of starts does not reach this cut")
    if not headline.judges_starts:
        return replace(blank, status="unknown", call="too-close", probability_a=0.5, inside_range=False)
    assert headline.posterior is not None and headline.pretrain is not None
    draws, loss = headline.posterior.draws, headline.pretrain.loss.mean
    gain = (draws[:, a] - (0.0 if alone else draws[:, b])) / loss
    answered = replace(blank, status="answered", gain=float(gain.mean() * loss), inside_range=False)
    return _called(answered, gain, row)


def _sized(row: Outcome) -> Outcome:
    """With total parameters where no others are known."""
    names = {name: name.replace("params", "total_params") for name in ("student_params", "teacher_params")}
    names["teacher_b_params"] = "teacher_b_total_params"
    return replace(row, **{n: getattr(row, t) for n, t in names.items() if getattr(row, n) is None})


def _without_question(row: Outcome) -> str:
    """Why nothing could be asked, whatever was published; empty where something could."""
    if row.comparison in NOT_ASKED:
        return NOT_ASKED[row.comparison]
    if row.comparison == "start-a-vs-b" and (row.start, row.start_b) != ("pruned", "random"):
        return "no law compares these starts"
    if row.text_of == "chosen":
        return "no option for text that a teacher chose"
    return "no law says what a pretrained start is worth" if row.start == "pretrained" else ""


def question_of(row: Outcome) -> dict[str, Any]:
    """The fields of `plan` for a row.

    Raises:
        NotAskedError: the comparison has no question, or what every question needs is not known.
    """
    if why := _without_question(row):
        raise NotAskedError(why)
    row = _sized(row)
    needed = [
        "student_params",
        "tokens_b" if "equal-flop" in row.comparison else "tokens_a",
        "teacher_params",
    ]
    needed += ["teacher_b_params"] if row.teacher_b else []
    if missing := [name for name in needed if getattr(row, name) is None]:
        raise NotAskedError(f"not known: {', '.join(missing)}")
    teachers = [(row.teacher_params, row.teacher_tokens, row.teacher_loss)]
    if row.teacher_b:
        teachers.append((row.teacher_b_params, row.teacher_b_tokens, row.teacher_b_loss))
    params, tokens, losses = (list(column) for column in zip(*teachers, strict=True))
    asked: dict[str, Any] = {"student_params": row.student_params, "teacher_params": params}
    if None not in tokens:
        asked["teacher_tokens"] = tokens
    if None not in losses and row.metric_kind == "nats_per_token":
        asked["teacher_loss"] = losses
    for name in ("vocab", "context"):
        if getattr(row, name) is not None:
            asked[name] = int(getattr(row, name))
    if row.start == "pruned" and not row.start_b:
        asked["start"] = row.start
    if row.unique_tokens is not None:
        asked["unique_tokens"] = row.unique_tokens
    return asked | _budget(row, asked) | _recipe(row) | {"may_train_teacher": False}


def _recipe(row: Outcome) -> dict[str, Any]:
    """What the row says of its recipe and `plan` has an option for."""
    given = {
        "distill_weight": "tuned" if row.is_tuned else row.distill_weight or None,
        "temperature": row.temperature,
        "top_k": None if row.top_k is None else int(row.top_k),
        "schedule": row.schedule or None,
        "policy": "on" if row.on_policy else "sequence" if row.text_of == "teacher" else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _budget(row: Outcome, asked: dict[str, Any]) -> dict[str, Any]:
    """Tokens, or FLOP with the share of the teacher's passes that takes A from its tokens to B's."""
    if row.comparison not in ("distil-vs-pretrain-equal-flop", "distil-vs-pretrain-equal-time"):
        return {"student_tokens": row.tokens_a}
    assert row.student_params is not None and row.teacher_params is not None
    if row.tokens_b is None:
        raise NotAskedError("not known: tokens_b")
    sizes = situation_of(PlanQuestion(**asked, student_tokens=row.tokens_b))
    student, teacher = forward_flop(sizes, row.student_params), forward_flop(sizes, row.teacher_params)
    compute = TRAINING_FACTOR * student * row.tokens_b
    if row.comparison == "distil-vs-pretrain-equal-flop":
        return {"compute": compute}
    if row.tokens_a is None:
        raise NotAskedError("not known: tokens_a")
    share = TRAINING_FACTOR * student * (row.tokens_b - row.tokens_a) / (teacher * row.tokens_a)
    if share > 1 + SLACK:
        raise NotAskedError(f"the teacher took {share:.2g} times what its FLOP say: no option for that")
    return {"compute": compute, "delta_lgt": min(max(share, 0.0), 1.0)}


_OPTIONS = {"student_params": "student", "student_tokens": "tokens"}


def _command(asked: dict[str, Any]) -> str:
    """The question as somebody would type it."""
    words = ["distillaw plan"]
    for name, value in asked.items():
        if name == "may_train_teacher":
            words.append("--only-existing")
            continue
        values = value if isinstance(value, list) else [value]
        words.append(
            f"--{_OPTIONS.get(name, name).replace('_', '-')} {' '.join(_number(name, v) for v in values)}"
        )
    return " ".join(words)


def _number(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name in ("vocab", "context", "teacher_loss", "top_k"):
        return str(value)
    if name in ("distill_weight", "temperature"):
        return f"{value:g}"
    return f"{value:.4g}" if name in ("compute", "delta_lgt") else quote(format_count(value))
