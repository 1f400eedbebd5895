"""Chat questions and the prompts of a judge, from files in FastChat's formats or our own words. Torch-free.

Questions: .jsonl of question_id, category, turns, and where there is one `reference`, an answer to each turn (Vicuna
bench, MT-Bench, MT-Bench-ZH). Prompts: FastChat's judge_prompts.jsonl; without a file, those of this module, which use
the same names and placeholders (Zheng et al. 2023, arXiv:2306.05685, for the idea; the words are ours).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import ConfigError, DataError
from distillaw.runs.files import content_hash, parse_json, read_text

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories whose reference answers the judge is shown, as in FastChat; elsewhere there is no one right answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
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


def read_questions(file: Path) -> list[Question]:
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
            question = Question(question_id=str(row["question_id"]), category=str(row.get("category", "")), turns=turns,
                                reference=reference if len(reference) == len(turns) else ())  # fmt: skip
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


def choose_questions(questions: list[Question], limit: int | None) -> list[Question]:
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


def prompt_name(kind: str, question: Question, turn: int) -> str:
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


def _answers(side: str, name: str) -> str:
    turns = "\n".join(f"User: {{question_{turn}}}\n{{answer_{side}_{turn}}}" for turn in (1, 2))
    return f"[Assistant {name}]\n{turns}\n[End]"


_REFERENCES = (
    "[Right answers]\nUser: {question_1}\n{ref_answer_1}\nUser: {question_2}\n{ref_answer_2}\n[End]\n\n"
)
_ONE_PAIR = "[Answer A]\n{answer_a}\n[End]\n\n[Answer B]\n{answer_b}\n[End]"
_TWO_PAIRS = f"{_answers('a', 'A')}\n\n{_answers('b', 'B')}"
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
