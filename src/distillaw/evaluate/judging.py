"""Chat answers put before a judge, and what its verdicts come to: win rate or mean grade, with intervals.

Every verdict is written down as it comes and never asked for twice. Pairwise, both orders are asked: a verdict that
flips with the order is a tie. Graded, each answer gets 1 to 10. An answer of the judge without a verdict is asked for
once more; what then has none is counted, never guessed. The turns of a question are not independent, so the question is
the unit: clustered standard errors, and percentile intervals of a bootstrap that draws questions.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillaw.errors import DataError
from distillaw.evaluate.chat import ChatQuestion, JudgePrompt, prompt_name
from distillaw.evaluate.judges import Judge, Messages
from distillaw.evaluate.scores import interval_of, mean_and_se
from distillaw.runs.files import append_json_lines, content_hash, read_json_lines

PAIR = ("[[A]]", "[[B]]", "[[C]]")
GRADES = tuple(f"[[{grade}]]" for grade in range(1, 11))
_AGAIN = "That holds no verdict that I can read. Reply with exactly one of {} and nothing else."

Answers = Mapping[str, Sequence[str]]
"""question_id -> an answer per turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeVerdict:
    """What a judge said of one turn, in one order."""

    question_id: str
    category: str
    turn: int
    swapped: bool
    """Whether the second model's answer stood first."""
    value: float | None
    """A grade; or, pairwise, 1 for the first model, -1 for the second, 0 for a tie; None: no verdict."""


class JudgeLog:
    """The file of verdicts: one JSON line each, with the exact messages and the judge's words."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = {str(row["key"]): row for row in read_json_lines(file)}

    def verdict(self, judge: Judge, messages: Messages, verdicts: Sequence[str]) -> str | None:
        """What the judge says of this, from the file if it was asked before."""
        key = content_hash([judge.identity, messages, list(verdicts)], digits=20)
        if key not in self._known:
            replies = [judge.ask(messages, verdicts)]
            if parse_verdict(replies[0], verdicts) is None:
                again = _AGAIN.format(", ".join(verdicts))
                more = [
                    {"role": "assistant", "content": replies[0] or "(nothing)"},
                    {"role": "user", "content": again},
                ]
                replies.append(judge.ask([*messages, *more], verdicts))
            self._write(
                {
                    "key": key,
                    "verdict": parse_verdict(replies[-1], verdicts),
                    "replies": replies,
                    "messages": messages,
                    "judge": judge.identity,
                }
            )
        verdict = self._known[key]["verdict"]
        return None if verdict is None else str(verdict)

    def _write(self, row: dict[str, object]) -> None:
        append_json_lines(self._file, [row])
        self._known[str(row["key"])] = row


def parse_verdict(reply: str, verdicts: Sequence[str]) -> str | None:
    """The one verdict that a reply holds; None where it holds none, or different ones.

    A grade may have decimals, e.g. [[7.5]]; it must lie in 1 to 10.
    """
    if "[[A]]" in verdicts:
        found = set(re.findall(r"\[\[([ABC])\]\]", reply))
        return f"[[{found.pop()}]]" if len(found) == 1 else None
    grades = {float(each) for each in re.findall(r"\[\[(\d+(?:\.\d+)?)\]\]", reply)}
    return f"[[{grade:g}]]" if len(grades) == 1 and 1 <= (grade := grades.pop()) <= 10 else None


def judge_pairs(
    judge: Judge,
    questions: Sequence[ChatQuestion],
    first: Answers,
    second: Answers,
    prompts: Mapping[str, JudgePrompt],
    log: JudgeLog,
    *,
    seen: Callable[[int], None] = lambda done: None,
) -> list[JudgeVerdict]:
    """Ask of every turn, in both orders, which model answered better.

    Raises:
        RunError: the judge cannot be reached; what was said is kept.
    """
    verdicts = []
    for question in questions:
        for turn in range(len(question.turns)):
            prompt = prompts[prompt_name("pair", question, turn)]
            for swapped in (False, True):
                sides = (second, first) if swapped else (first, second)
                values = _pair_values(question, turn, *(side[question.question_id] for side in sides))
                said = log.verdict(judge, prompt.messages(values), PAIR)
                value = None if said is None else {"[[A]]": 1.0, "[[B]]": -1.0, "[[C]]": 0.0}[said]
                verdicts.append(
                    JudgeVerdict(
                        question_id=question.question_id,
                        category=question.category,
                        turn=turn,
                        swapped=swapped,
                        value=-value if swapped and value else value,
                    )
                )
                seen(len(verdicts))
    return verdicts


def judge_grades(
    judge: Judge,
    questions: Sequence[ChatQuestion],
    answers: Answers,
    prompts: Mapping[str, JudgePrompt],
    log: JudgeLog,
    *,
    seen: Callable[[int], None] = lambda done: None,
) -> list[JudgeVerdict]:
    """Ask for a grade of every turn.

    Raises:
        RunError: the judge cannot be reached; what was said is kept.
    """
    verdicts = []
    for question in questions:
        for turn in range(len(question.turns)):
            prompt = prompts[prompt_name("single", question, turn)]
            values = _single_values(question, turn, answers[question.question_id])
            said = log.verdict(judge, prompt.messages(values), GRADES)
            verdicts.append(
                JudgeVerdict(
                    question_id=question.question_id,
                    category=question.category,
                    turn=turn,
                    swapped=False,
                    value=None if said is None else float(said.strip("[]")),
                )
            )
            seen(len(verdicts))
    return verdicts


def _common(question: ChatQuestion, turn: int) -> dict[str, str]:
    values = {"question": question.turns[turn]}
    for number, text in enumerate(question.turns, 1):
        values[f"question_{number}"] = text
    for number, text in enumerate(question.reference, 1):
        values[f"ref_answer_{number}"] = text
    return values


def _pair_values(question: ChatQuestion, turn: int, a: Sequence[str], b: Sequence[str]) -> dict[str, str]:
    values = _common(question, turn) | {"answer_a": a[turn], "answer_b": b[turn]}
    for side, answers in (("a", a), ("b", b)):
        values |= {f"answer_{side}_{number}": text for number, text in enumerate(answers, 1)}
    return values


def _single_values(question: ChatQuestion, turn: int, answers: Sequence[str]) -> dict[str, str]:
    numbered = {f"answer_{number}": text for number, text in enumerate(answers, 1)}
    return _common(question, turn) | {"answer": answers[turn], **numbered}


DRAWS = 10_000


def sum_up_pairs(verdicts: Sequence[JudgeVerdict], *, seed: int = 0) -> dict[str, object]:
    """Pairwise verdicts in both orders.

    A turn counts as won if both orders say so, and as a tie if they differ (a flip) or both say tie. Turns of which an
    order has no verdict are left out and counted.

        win rate = (wins + ties / 2) / turns

    Returns:
        wins, ties, losses, win_rate with se and interval, agreement of the orders with interval, first_place (share of
        decisive verdicts for the answer that stood first) with se, unparseable share, turns, questions.

    Raises:
        DataError: fewer than two questions have verdicts.
    """
    orders: dict[tuple[str, int], dict[bool, float | None]] = {}
    for each in verdicts:
        orders.setdefault((each.question_id, each.turn), {})[each.swapped] = each.value
    turns = {key: (pair[False], pair[True]) for key, pair in orders.items() if len(pair) == 2}
    whole = {key: pair for key, pair in turns.items() if None not in pair}
    _check_enough(verdicts, {question for question, _ in whole})
    results = {key: a if a == b else 0.0 for key, (a, b) in whole.items()}
    clusters = [question for question, _ in whole]
    points = [0.5 + float(value or 0.0) / 2 for value in results.values()]
    agree = [float(a == b) for a, b in whole.values()]
    decisive = [each for each in verdicts if each.value]
    rate, se = mean_and_se(points, clusters)
    agreement, agreement_se = mean_and_se(agree, clusters)
    few = se == 0  # all questions alike: a bootstrap would claim certainty
    alike = interval_of(rate, se, points, len(set(clusters)))
    spread = alike if few else bootstrap_interval(points, clusters, seed=seed)
    found: dict[str, object] = {
        "wins": sum(value == 1 for value in results.values()),
        "ties": sum(value == 0 for value in results.values()),
        "losses": sum(value == -1 for value in results.values()),
        "win_rate": rate,
        "win_rate_se": se,
        "win_rate_interval": spread,
        "agreement": agreement,
        "agreement_se": agreement_se,
        "agreement_interval": interval_of(agreement, agreement_se, agree, len(set(clusters))),
        "turns": len(whole),
        "questions": len(set(clusters)),
        **_unparseable(verdicts),
    }
    if len({each.question_id for each in decisive}) > 1:
        first = [float((each.value == 1) != each.swapped) for each in decisive]
        share, share_se = mean_and_se(first, [each.question_id for each in decisive])
        found |= {"first_place": share, "first_place_se": share_se}
    return found


def sum_up_grades(verdicts: Sequence[JudgeVerdict], *, seed: int = 0) -> dict[str, object]:
    """Grades of 1 to 10.

    Returns:
        grade with se and interval, by turn and by category (mean and n), unparseable share, turns, questions.

    Raises:
        DataError: fewer than two questions have grades.
    """
    graded = [each for each in verdicts if each.value is not None]
    _check_enough(verdicts, {each.question_id for each in graded})
    values, clusters = [float(each.value or 0.0) for each in graded], [each.question_id for each in graded]
    grade, se = mean_and_se(values, clusters)
    return {
        "grade": grade,
        "grade_se": se,
        "grade_interval": bootstrap_interval(values, clusters, seed=seed),
        "by_turn": _means(
            {f"turn {each.turn + 1}": [] for each in graded}, graded, lambda v: f"turn {v.turn + 1}"
        ),
        "by_category": _means({}, graded, lambda v: v.category or "none"),
        "turns": len(graded),
        "questions": len(set(clusters)),
        **_unparseable(verdicts),
    }


def bootstrap_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int) -> tuple[float, float]:
    """95 % percentile interval of a mean, drawing whole clusters with replacement (Efron 1979).

    Args:
        values: one per turn.
        clusters: the question of each.
        seed: of the draws.
    """
    places = {each: i for i, each in enumerate(dict.fromkeys(clusters))}
    sums, sizes = np.zeros(len(places)), np.zeros(len(places))
    where = [places[each] for each in clusters]
    np.add.at(sums, where, values)
    np.add.at(sizes, where, 1.0)
    drawn = np.random.default_rng(seed).integers(len(places), size=(DRAWS, len(places)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _means(
    groups: dict[str, list[float]], graded: Sequence[JudgeVerdict], name
) -> dict[str, dict[str, float]]:
    for each in graded:
        groups.setdefault(name(each), []).append(float(each.value or 0.0))
    return {key: {"grade": float(np.mean(values)), "n": float(len(values))} for key, values in groups.items()}


def _unparseable(verdicts: Sequence[JudgeVerdict]) -> dict[str, object]:
    missing = sum(each.value is None for each in verdicts)
    return {"verdicts": len(verdicts), "unparseable": missing, "unparseable_share": missing / len(verdicts)}


def _check_enough(verdicts: Sequence[JudgeVerdict], questions: set[str]) -> None:
    if len(questions) < 2:
        missing = sum(each.value is None for each in verdicts)
        raise DataError(
            f"{missing} of {len(verdicts)} verdicts of the judge cannot be read, and {len(questions)} questions are "
            "left; see the replies in the verdicts' .jsonl: is it a chat model that follows instructions?"
        )
