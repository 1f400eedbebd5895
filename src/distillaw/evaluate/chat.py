"""Judged chat of a model: questions, prompts of the judge, answers written once, verdicts asked once.

Questions: .jsonl of question_id, category, turns, and where there is one `reference`, an answer to each turn (Vicuna
bench, MT-Bench, MT-Bench-ZH). Prompts: FastChat's judge_prompts.jsonl; without a file, those of this module, which use
the same names and placeholders (Zheng et al. 2023, arXiv:2306.05685, for the idea; the words are ours).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.judges import ChatModel, Judge, make_judge
from distillaw.evaluate.judging import JudgeLog, judge_grades, judge_pairs, sum_up_grades, sum_up_pairs
from distillaw.models.source import ModelSource, locate
from distillaw.runs.files import append_json_lines, content_hash, file_sha256, read_json_lines
from distillaw.runs.pace import Telling
from distillaw.runs.reading import parse_json, read_text

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


MAX_TOKENS = 512
"""Of an answer; FastChat writes up to 1,024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatWishes:
    """Which questions a model answers, and who judges."""

    questions: Path
    """A .jsonl file in FastChat's format: Vicuna bench, MT-Bench."""
    judge: str
    """http(s)://... or a model on this machine."""
    judge_model: str | None = None
    """What a URL's server calls the model."""
    judge_prompts: Path | None = None
    """FastChat's judge_prompts.jsonl; None: our own words."""
    against: str | None = None
    """Another chat model: pairwise, both orders; None: grades of 1 to 10."""
    max_tokens: int = MAX_TOKENS
    limit: int | None = None
    """Questions at most, the same ones for every model."""

    def check(self) -> list[ChatQuestion]:
        """The questions that are asked; all files are read before a model is loaded."""
        if self.max_tokens < 1 or (self.limit is not None and self.limit < 2):
            raise ConfigError(
                f"--answer-tokens {self.max_tokens}, limit {self.limit}: at least 1 token and 2 questions"
            )
        read_prompts(self.judge_prompts)
        return choose_questions(read_questions(self.questions), self.limit)

    @property
    def name(self) -> str:
        """Under which evaluation.json has it."""
        kind = f"{self.questions.resolve().parent.name}/{self.questions.stem}"
        return kind if self.against is None else f"{kind} against {self.against}"

    def identity(self) -> dict[str, object]:
        """What of it changes a result, models aside."""
        prompts = None if self.judge_prompts is None else file_sha256(self.judge_prompts)
        asked = [[each.question_id, each.turns, each.reference] for each in self.check()]
        return {"questions": content_hash(asked), "prompts": prompts, "max_tokens": self.max_tokens}


def judge_chat(
    source: ModelSource,
    wishes: ChatWishes,
    *,
    out: Path,
    device: str,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, object]:
    """Let a model answer and have it judged.

    Args:
        source: a chat model.
        wishes: questions and judge.
        out: folder of answers and verdicts, both .jsonl; what stands there is not asked again.
        device: where models run, one at a time.
        say: takes a line of progress now and then.

    Raises:
        CacheError: no such model.
        ConfigError: a model without a chat template, or a judge that cannot be.
        DataError: files not of the format, or next to no readable verdict.
        RunError: the judge cannot be reached, or the disk is full.
    """
    questions = wishes.check()
    prompts = read_prompts(wishes.judge_prompts)
    first = _answers(source, questions, wishes.max_tokens, out, device, say)
    second = (
        None
        if wishes.against is None
        else _answers(locate(wishes.against), questions, wishes.max_tokens, out, device, say)
    )
    judge = make_judge(wishes.judge, model=wishes.judge_model, device=device, say=say)
    log = JudgeLog(out / f"verdicts-{content_hash(judge.identity)}.jsonl")
    turns = sum(len(each.turns) for each in questions) * (1 if second is None else 2)
    say(f"{wishes.judge}: {turns} verdicts on {len(questions)} questions")
    progress = Telling(wishes.judge, turns, "verdicts", say)

    def seen(done: int) -> None:
        progress.add()

    if second is None:
        found = sum_up_grades(judge_grades(judge, questions, first, prompts, log, seen=seen))
    else:
        found = sum_up_pairs(judge_pairs(judge, questions, first, second, prompts, log, seen=seen))
    return {"kind": "single" if second is None else "pair", **found, "judge": _named(wishes, judge)}


def _named(wishes: ChatWishes, judge: Judge) -> dict[str, object]:
    return {"name": wishes.judge, **judge.identity}


def _answers(
    source: ModelSource,
    questions: Sequence[ChatQuestion],
    max_tokens: int,
    out: Path,
    device: str,
    say: Callable[[str], None],
) -> dict[str, list[str]]:
    """What a model answers, turn by turn, greedily; appended to its file question by question."""
    from distillaw.models.source import fingerprint

    file = out / f"answers-{fingerprint(source)}-{max_tokens}.jsonl"
    known = {str(row["key"]): row["answers"] for row in read_json_lines(file)}
    keys = {each.question_id: content_hash([each.question_id, each.turns]) for each in questions}
    missing = [each for each in questions if keys[each.question_id] not in known]
    if missing:
        say(f"{source.name}: answering {len(missing)} questions")
        chat = ChatModel.load(source, device=device)
        progress = Telling(source.name, len(missing), "questions", say)
        for question in missing:
            answers = _conversation(chat, question, max_tokens)
            row: dict[str, object] = {
                "key": keys[question.question_id],
                "question_id": question.question_id,
                "model": source.name,
                "turns": question.turns,
                "answers": answers,
            }
            append_json_lines(file, [row])
            known[keys[question.question_id]] = answers
            progress.add()
    return {each.question_id: [str(a) for a in known[keys[each.question_id]]] for each in questions}  # type: ignore[union-attr]


def _conversation(chat: ChatModel, question: ChatQuestion, max_tokens: int) -> list[str]:
    messages: list[dict[str, str]] = []
    answers = []
    for turn in question.turns:
        messages.append({"role": "user", "content": turn})
        answers.append(chat.write(messages, max_tokens=max_tokens))
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers
