"""Chat questions and answers put before a judge, every verdict written down as it comes and never asked for twice.

Questions: .jsonl of question_id, category, turns, and where there is one `reference`, an answer to each turn (Vicuna
bench, MT-Bench, MT-Bench-ZH). Prompts: FastChat's judge_prompts.jsonl; without a file, those of this module, which use
the same names and placeholders (Zheng et al. 2023, arXiv:2306.05685, for the idea; the words are ours). Pairwise, both
orders are asked: a verdict that flips with the order is a tie. Graded, each answer gets 1 to 10. An answer of the judge
without a verdict is asked for once more; what then has none is counted, never guessed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.judges import Judge, Messages
from distillaw.runs.files import append_json_lines, content_hash, parse_json, read_json_lines, read_text

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose reference answers the judge is shown, as in FastChat; elsewhere there is no one right answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatQuestion:
    """One conversation to be had."""

    question_id: str
    category: str
    turns: tuple[str, ...]
    """What the user says, turn by turn."""
    reference: tuple[str, ...] = ()
    """A right answer to each turn, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePrompt:
    """What a judge is told and asked."""

    system: str
    template: str

    def messages(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """The conversation that puts the question; answers that hold braces stay as they are."""
        asked = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.template)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": asked}]


def read_questions(file: Path) -> list[ChatQuestion]:
    """Questions of a file.

    Raises:
        ConfigError: no such file.
        DataError: not of the format, an id twice, or fewer than two questions.
    """
    questions = []
    for number, row in _lines(file, "chat questions"):
        try:
            turns = tuple(str(turn) for turn in row["turns"])
            reference = tuple(str(each) for each in row.get("reference") or ())
            question = ChatQuestion(
                question_id=str(row["question_id"]),
                category=str(row.get("category", "")),
                turns=turns,
                reference=reference if len(reference) == len(turns) else (),
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: no chat question ({type(error).__name__} {error}); it has question_id, "
                "category and turns, a list of what the user says"
            ) from None
        if not 1 <= len(turns) <= 2:
            raise DataError(f"{file}, line {number}: {len(turns)} turns; judging is defined for one and two")
        questions.append(question)
    if len({each.question_id for each in questions}) < len(questions):
        raise DataError(f"{file}: a question_id appears twice; verdicts are kept by it")
    if len(questions) < 2:
        raise DataError(f"{file}: {len(questions)} questions; an error bar needs at least two")
    return questions


def choose_questions(questions: list[ChatQuestion], limit: int | None) -> list[ChatQuestion]:
    """The questions with the lowest hashes, in the file's order; None: all."""
    if limit is None:
        return questions
    lowest = sorted(questions, key=lambda each: content_hash([each.question_id, each.turns], digits=64))[
        :limit
    ]
    return [each for each in questions if each in lowest]


def read_prompts(file: Path | None) -> dict[str, JudgePrompt]:
    """Prompts by name: those of a file, or ours.

    Raises:
        ConfigError: no such file.
        DataError: not of the format, or a prompt is missing.
    """
    if file is None:
        return dict(_OURS)
    try:
        found = {
            str(row["name"]): JudgePrompt(
                system=str(row["system_prompt"]), template=str(row["prompt_template"])
            )
            for _, row in _lines(file, "judge prompts")
        }
    except KeyError as error:
        raise DataError(
            f"{file}: no judge prompts; {error} is missing. FastChat's judge_prompts.jsonl is the format"
        ) from None
    if missing := sorted(_OURS.keys() - found.keys()):
        raise DataError(f"{file}: prompts missing: {', '.join(missing)}")
    return found


def prompt_name(kind: str, question: ChatQuestion, turn: int) -> str:
    """Which prompt judges a turn.

    Args:
        kind: `pair` or `single`.
        question: with or without references.
        turn: 0 or 1.
    """
    shown = bool(question.reference) and question.category in WITH_REFERENCE
    plain = "v2" if kind == "pair" else "v1"
    return f"{kind}-{'math-v1' if shown else plain}{'-multi-turn' if turn else ''}"


def _lines(file: Path, what: str):
    if not file.is_file():
        raise ConfigError(
            f"{file}: no such file; {what} are a .jsonl file in FastChat's format (docs/evaluate.md)"
        )
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: a {type(row).__name__} where an object belongs")
        yield number, row


_FAIR = (
    "Judge what is said: whether it is right, helps, goes to the point and is as deep as the question wants. Neither "
    "the length of an answer nor its place counts."
)
_PAIR = (
    f"You compare two answers to a user. {_FAIR} Give your reasons in a few sentences, then end with exactly one of "
    "[[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equally good."
)
_SINGLE = (
    f"You grade an answer to a user from 1, useless, to 10, perfect. {_FAIR} Give your reasons in a few sentences, "
    "then end with the grade in double brackets, for example [[5]]."
)
_RIGHT = " A right answer is shown as well: hold what you judge against it."
_SECOND = " Judge the answer to the second question alone; the first is shown because it goes before."


def _both_turns(side: str, name: str) -> str:
    turns = "\n".join(f"User: {{question_{turn}}}\n{{answer_{side}_{turn}}}" for turn in (1, 2))
    return f"[Assistant {name}]\n{turns}\n[End]"


_REFERENCES = (
    "[Right answers]\nUser: {question_1}\n{ref_answer_1}\nUser: {question_2}\n{ref_answer_2}\n[End]\n\n"
)
_ONE_PAIR = "[Answer A]\n{answer_a}\n[End]\n\n[Answer B]\n{answer_b}\n[End]"
_TWO_PAIRS = f"{_both_turns('a', 'A')}\n\n{_both_turns('b', 'B')}"
_TWO = "[Conversation]\nUser: {question_1}\n{answer_1}\nUser: {question_2}\n{answer_2}\n[End]"
_OURS = {
    "pair-v2": JudgePrompt(system=_PAIR, template="[Question]\n{question}\n\n" + _ONE_PAIR),
    "pair-math-v1": JudgePrompt(
        system=_PAIR + _RIGHT,
        template="[Question]\n{question}\n\n[Right answer]\n{ref_answer_1}\n[End]\n\n" + _ONE_PAIR,
    ),
    "pair-v2-multi-turn": JudgePrompt(system=_PAIR + _SECOND, template=_TWO_PAIRS),
    "pair-math-v1-multi-turn": JudgePrompt(
        system=_PAIR + _RIGHT + _SECOND, template=_REFERENCES + _TWO_PAIRS
    ),
    "single-v1": JudgePrompt(system=_SINGLE, template="[Question]\n{question}\n\n[Answer]\n{answer}\n[End]"),
    "single-math-v1": JudgePrompt(
        system=_SINGLE + _RIGHT,
        template="[Question]\n{question}\n\n[Right answer]\n{ref_answer_1}\n[End]\n\n[Answer]\n{answer}\n[End]",
    ),
    "single-v1-multi-turn": JudgePrompt(system=_SINGLE + _SECOND, template=_TWO),
    "single-math-v1-multi-turn": JudgePrompt(system=_SINGLE + _RIGHT + _SECOND, template=_REFERENCES + _TWO),
}


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
