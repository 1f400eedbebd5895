"""Chat answers put before a judge, every verdict written down as it comes and never asked for twice. Torch-free.

Pairwise, both orders are asked: a verdict that flips with the order is a tie. Graded, each answer gets 1 to 10. An
answer of the judge without a verdict is asked for once more; what then has none is counted, never guessed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillaw.evaluate.judges import Judge, Messages
from distillaw.evaluate.questions import JudgePrompt, Question, prompt_name
from distillaw.runs.files import append_json_lines, content_hash, read_json_lines

PAIR = ("[[A]]", "[[B]]", "[[C]]")
GRADES = tuple(f"[[{grade}]]" for grade in range(1, 11))
_AGAIN = "That holds no verdict that I can read. Reply with exactly one of {} and nothing else."

Answers = Mapping[str, Sequence[str]]
"""question_id -> an answer per turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
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
            self._write({"key": key, "verdict": parse_verdict(replies[-1], verdicts), "replies": replies,
                         "messages": messages, "judge": judge.identity})  # fmt: skip
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
    questions: Sequence[Question],
    first: Answers,
    second: Answers,
    prompts: Mapping[str, JudgePrompt],
    log: JudgeLog,
    *,
    seen: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
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
                    Verdict(question_id=question.question_id, category=question.category, turn=turn, swapped=swapped,
                            value=-value if swapped and value else value)
                )  # fmt: skip
                seen(len(verdicts))
    return verdicts


def judge_grades(
    judge: Judge,
    questions: Sequence[Question],
    answers: Answers,
    prompts: Mapping[str, JudgePrompt],
    log: JudgeLog,
    *,
    seen: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
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
                Verdict(question_id=question.question_id, category=question.category, turn=turn, swapped=False,
                        value=None if said is None else float(said.strip("[]")))
            )  # fmt: skip
            seen(len(verdicts))
    return verdicts


def _common(question: Question, turn: int) -> dict[str, str]:
    values = {"question": question.turns[turn]}
    for number, text in enumerate(question.turns, 1):
        values[f"question_{number}"] = text
    for number, text in enumerate(question.reference, 1):
        values[f"ref_answer_{number}"] = text
    return values


def _pair_values(question: Question, turn: int, a: Sequence[str], b: Sequence[str]) -> dict[str, str]:
    values = _common(question, turn) | {"answer_a": a[turn], "answer_b": b[turn]}
    for side, answers in (("a", a), ("b", b)):
        values |= {f"answer_{side}_{number}": text for number, text in enumerate(answers, 1)}
    return values


def _single_values(question: Question, turn: int, answers: Sequence[str]) -> dict[str, str]:
    numbered = {f"answer_{number}": text for number, text in enumerate(answers, 1)}
    return _common(question, turn) | {"answer": answers[turn], **numbered}
