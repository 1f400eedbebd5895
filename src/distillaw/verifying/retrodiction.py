"""The planner held against published outcomes: calls, Brier score against the base rate, intervals of gains.

Brier      mean over rows of (p - w)^2;  p: probability that A wins by the margin, w = 1 where it did, 0 where B did or
           they tied;  p = 1/2 where no law reaches the question
base rate  share of the rows that A won; its Brier score is that of somebody who knows this share and nothing else

The question that a published outcome asks is made of sizes, tokens, budgets and the recipe, never of a row's values.
What the planner has no option for (a text of another distribution) is left out of it; where nothing would be left of
the comparison, the row is not asked, with the reason. Where only total parameters were published, they stand for those
without embeddings. A score follows the loss loosely, so that what is said of one is less sure than of the other. A row
that tells its noise has a winner only beyond it, so that is the margin it is asked with, and its difference errs by as
much.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from scipy.special import ndtr

from distillaw.accounting.flops import TRAINING_FACTOR
from distillaw.errors import DistillawError
from distillaw.outcomes.table import LOSSES, Outcome, loss_of, read_outcomes, read_table_of_outcomes
from distillaw.planning.api import plan
from distillaw.planning.decision import MARGIN, SURE, tempered
from distillaw.planning.learnt import SEEDS, learnt
from distillaw.planning.question import PlanQuestion, situation_of
from distillaw.planning.situation import forward_flop
from distillaw.planning.verdict import Verdict
from distillaw.quantities import format_count
from distillaw.table import Table, number, text

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
    return (_of_two if row.teacher_b or row.start_b else _of_verdict)(blank, verdict, row)


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


def _of_two(blank: Answer, verdict: Verdict, row: Outcome) -> Answer:
    """Teacher A or teacher B, the first or the second one of the question.

    Where starts are compared, a cut that learns from its teacher (A) or random weights with or without one (B).
    """
    headline, rows = verdict.headline, verdict.headline.alternatives
    if row.start_b:
        a = next((j for j, each in enumerate(rows) if each.cut_of is not None and each.teacher), None)
        b = next((j for j, each in enumerate(rows) if each.kind == "distil"), None)
        is_judged, why = headline.judges_starts, "the law of starts does not reach this cut"
    else:
        distils = {each.teacher: j for j, each in enumerate(rows) if each.kind == "distil"}
        a, b = (distils.get(teacher) for teacher in verdict.asked.teachers)
        is_judged, why = headline.is_decisive, "the planner does not tell the two teachers apart"
    if a is None or b is None or a == b:
        return replace(blank, why=why)
    if not is_judged:
        return replace(blank, status="unknown", call="too-close", probability_a=0.5, inside_range=False)
    assert headline.posterior is not None and headline.pretrain is not None
    draws, other = headline.posterior.draws, headline.pretrain if row.start_b else rows[b]
    gain = draws[:, a] - (0.0 if row.start_b and row.says_of_distilling else draws[:, b])
    inside = verdict.inside_range and not row.start_b
    answered = replace(blank, status="answered", gain=float(gain.mean()), inside_range=inside)
    return _called(answered, gain / other.loss.mean, row)


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
    needed = ["student_params", "tokens_b" if "equal-flop" in row.comparison else "tokens_a", "teacher_params"]
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
        words.append(f"--{_OPTIONS.get(name, name).replace('_', '-')} {' '.join(_number(name, v) for v in values)}")
    return " ".join(words)


def _number(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if name in ("vocab", "context", "teacher_loss", "top_k"):
        return str(value)
    if name in ("distill_weight", "temperature"):
        return f"{value:g}"
    return f"{value:.4g}" if name in ("compute", "delta_lgt") else quote(format_count(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrodiction:
    """What the planner says of every row of a table, beside what happened."""

    rows: tuple[tuple[Outcome, Answer], ...]

    @property
    def score(self) -> "Score":
        """Over all rows."""
        [found] = self.by("all")
        return found

    def by(self, what: str) -> list["Score"]:
        """Scores of groups of rows; `what` is a key of `GROUPS`."""
        return scores(self.rows, what)

    def to_json(self) -> dict[str, object]:
        """The object of `distillaw retrodict --json`."""
        score = self.score
        return {
            "brier": score.brier,
            "base_rate": score.share_won,
            "base_rate_brier": score.base,
            "calls": score.right + score.wrong,
            "right": score.right,
            "asked": len(score.rows) - score.refused,
            "refused": score.refused,
            "coverage": {"covered": score.covered, "intervals": score.intervals, "level": 0.9},
            "groups": {name: [_group(one) for one in self.by(name)] for name in GROUPS if name != "all"},
            "rows": [_row(row, answer) for row, answer in self.rows],
        }


def retrodict(path: Path | None = None) -> Retrodiction:
    """Ask the planner about every row of a table of outcomes.

    Args:
        path: CSV of the columns of `distillaw.outcomes.table`; None is the table that ships.

    Raises:
        DataError: a file that is no such table, with one line for each row that breaks a rule.
    """
    rows = read_outcomes() if path is None else read_table_of_outcomes(path)
    return Retrodiction(rows=tuple((row, ask(row)) for row in rows))


def _row(row: Outcome, answer: Answer) -> dict[str, object]:
    names = {"A": "distil", "B": "pretrain"} if row.says_of_distilling else {}
    is_asked = answer.status != "refused"
    probability = probability_of(answer) if is_asked else None
    return {
        "id": row.id,
        "source": row.source,
        "kind": row.kind,
        "comparison": row.comparison,
        "question": answer.question,
        "verdict": names.get(answer.call, answer.call) or None,
        "probability_distil": probability if row.says_of_distilling else None,
        "probability_a": probability,
        "gain": None
        if answer.gain is None
        else {"mean": answer.gain, "lower": answer.gain_lower, "upper": answer.gain_upper},
        "outcome": names.get(row.winner, row.winner),
        "winner": row.winner,
        "published_gain": row.gain,
        "metric_kind": row.metric_kind,
        "score": None if probability is None else (probability - (row.winner == "A")) ** 2,
        "is_right": answer.call == row.winner if answer.call in ("A", "B") else None,
        "inside_range": answer.inside_range,
        "status": answer.status,
        "why": answer.why,
    }


def _group(one: "Score") -> dict[str, object]:
    plain = ("group", "refused", "unknown", "right", "wrong", "too_close", "brier", "covered", "intervals")
    return {name: getattr(one, name) for name in plain} | {
        "rows": len(one.rows),
        "base_rate": one.share_won,
        "base_rate_brier": one.base,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What became of the answers to a group of rows."""

    group: str
    rows: tuple[Outcome, ...]
    refused: int
    """Not asked, or refused."""
    unknown: int
    """Answered that no law reaches the question."""
    right: int
    wrong: int
    """A side was called and the other one won, or nobody did."""
    too_close: int
    """Answered without a call."""
    brier: float | None
    """Mean squared error of the probability that A wins, over the rows that were answered or unknown."""
    share_won: float | None
    """Share of these rows that A won."""
    base: float | None
    """Brier score of that share: of somebody who knows it and nothing else."""
    covered: int
    """Published gains inside the 90 % interval, of `intervals`."""
    intervals: int

    def won(self, side: str) -> int:
        """Rows that `A` or `B` won, or whose sides tie."""
        return sum(row.winner == side for row in self.rows)


GROUPS: Mapping[str, Callable[[Outcome], str]] = {
    "all": lambda row: "all rows",
    "kind": attrgetter("kind"),
    "metric": attrgetter("metric_kind"),
    "comparison": attrgetter("comparison"),
    "source": attrgetter("source"),
    "learnt": lambda row: f"{'' if learnt(row.source) != learnt() else 'not '}learnt from",
}
"""By what rows are put together; `learnt`: by whether their source taught the constants of `planning.learnt`."""


def scores(answered: Iterable[tuple[Outcome, Answer]], by: str) -> list[Score]:
    """Scores of groups of rows with their answers; `by` is a key of `GROUPS`."""
    parts: dict[str, list[tuple[Outcome, Answer]]] = defaultdict(list)
    for row, answer in answered:
        parts[GROUPS[by](row)].append((row, answer))
    return [_score(name, part) for name, part in sorted(parts.items())]


def _score(group: str, rows: Sequence[tuple[Outcome, Answer]]) -> Score:
    pairs = [(row, answer) for row, answer in rows if answer.status != "refused"]
    told = [(row, answer) for row, answer in pairs if answer.status == "answered"]
    called = [(row, answer) for row, answer in told if answer.call in ("A", "B")]
    right = sum(answer.call == row.winner for row, answer in called)
    won = [float(row.winner == "A") for row, _ in pairs]
    base = sum(won) / len(won) if won else None
    squares = [(probability_of(answer) - w) ** 2 for (_, answer), w in zip(pairs, won, strict=True)]
    intervals = [inside for row, answer in told if (inside := _is_inside(row, answer)) is not None]
    return Score(
        group=group,
        rows=tuple(row for row, _ in rows),
        refused=len(rows) - len(pairs),
        unknown=len(pairs) - len(told),
        right=right,
        wrong=len(called) - right,
        too_close=len(told) - len(called),
        brier=sum(squares) / len(squares) if squares else None,
        share_won=base,
        base=None if base is None else base * (1 - base),
        covered=sum(intervals),
        intervals=len(intervals),
    )


def _is_inside(row: Outcome, answer: Answer) -> bool | None:
    """Whether the published gain lies in the interval, as shares of B's loss; None where there is no such gain.

    Losses per byte, word and token then compare. An answer without B's loss counts where its unit is the row's.
    """
    if None in (answer.gain_lower, answer.gain_upper) or row.gain is None or not row.is_loss:
        return None
    unit = 1.0
    if answer.loss is not None:
        unit = loss_of(row, row.value_b or 1.0) / answer.loss
    elif row.metric_kind not in ("nats_per_token", "perplexity"):
        return None
    return float(answer.gain_lower or 0.0) * unit <= row.gain <= float(answer.gain_upper or 0.0) * unit


def probability_of(answer: Answer) -> float:
    """That A wins; one half where no law reaches the question, whatever was made of the teachers."""
    return 0.5 if answer.status == "unknown" or answer.probability_a is None else answer.probability_a


def score_table(found: Sequence[Score]) -> Table:
    """Calls, probabilities and intervals."""
    return Table.of(
        [
            text("rows", of=attrgetter("group")),
            number("n", "d", of=lambda s: len(s.rows)),
            number("refused", "d", of=attrgetter("refused")),
            number("unknown", "d", of=attrgetter("unknown")),
            number("too close", "d", of=attrgetter("too_close")),
            number("right", "d", of=attrgetter("right")),
            number("wrong", "d", of=attrgetter("wrong")),
            number("Brier", ".3f", of=attrgetter("brier")),
            number("base rate's", ".3f", of=attrgetter("base")),
            number("in 90 % interval", of=lambda s: f"{s.covered} of {s.intervals}" if s.intervals else None),
        ],
        found,
    )


def row_table(found: Retrodiction) -> Table:
    """The rows that were asked: what was said, and what happened."""
    asked = [pair for pair in found.rows if pair[1].status != "refused"]
    return Table.of(
        [
            text("row", of=lambda pair: pair[0].id),
            text("comparison", of=lambda pair: pair[0].comparison),
            text("call", of=lambda pair: "unknown" if pair[1].status == "unknown" else pair[1].call),
            number("P(A)", ".2f", of=lambda pair: probability_of(pair[1])),
            text("won", of=lambda pair: pair[0].winner),
            number("score", ".2f", of=lambda pair: (probability_of(pair[1]) - (pair[0].winner == "A")) ** 2),
        ],
        asked,
        note="A distils, or learns from the first of two teachers; score: squared error of P(A)",
    )
