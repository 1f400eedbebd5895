"""Judged chat: answers written once, verdicts asked once and kept as they come, sums with intervals.

Questions: .jsonl of question_id, category, turns, and where there is one `reference`, an answer to each turn (Vicuna
bench, MT-Bench, MT-Bench-ZH). Prompts: FastChat's judge_prompts.jsonl; without a file, ours with the same names and
placeholders (Zheng et al. 2023, arXiv:2306.05685, for the idea). Pairwise, both orders are asked: a verdict that flips
with the order is a tie. Graded, each answer gets 1 to 10. A reply without a verdict is asked for once more; what then
has none is counted, never guessed, and so is a judge that stays silent (asked again by the next call).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillaw.data.corpus import json_lines
from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.judges import ChatModel, Judge, Messages, SilentJudgeError, check_judge, make_judge
from distillaw.evaluate.verdicts import (
    Answers,
    JudgeVerdict,
    compare_judges,
    count_answers,
    sum_up_grades,
    sum_up_pairs,
)
from distillaw.evaluate.wishes import ChatWishes
from distillaw.models.source import ModelSource, fingerprint, locate
from distillaw.runs.files import append_json_lines, content_hash, file_sha256, read_json_lines
from distillaw.runs.pace import Telling

OUR_PROMPTS = Path(__file__).with_name("judge_prompts.jsonl")
_TURNS = ("", "-multi-turn")
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
    """Questions of a file."""
    questions = []
    for where, row in _objects(file, "chat questions"):
        try:
            turns, reference = _texts(row["turns"]), _texts(row.get("reference") or [])
            named = {"question_id": str(row["question_id"]), "category": str(row.get("category", ""))}
            question = ChatQuestion(**named, turns=turns, reference=reference)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{where}: no chat question ({type(error).__name__} {error}); it has question_id, "
                "category and turns, a list of what the user says"
            ) from None
        if not 1 <= len(turns) <= 2 or not all(map(str.strip, turns)):
            raise DataError(
                f"{where}: {len(turns)} turns{', one of them empty' * (0 < len(turns) < 3)}; judging is "
                "defined for one and two that say something"
            )
        if reference and len(reference) != len(turns):
            raise DataError(
                f"{where}: {len(reference)} reference answers to {len(turns)} turns; give one to each, or none"
            )
        questions.append(question)
    if len({each.question_id for each in questions}) < len(questions):
        raise DataError(f"{file}: a question_id appears twice; verdicts are kept by it")
    if len(questions) < 2:
        raise DataError(f"{file}: {len(questions)} questions; an error bar needs at least two")
    return questions


def _texts(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise TypeError(f"where a list of texts belongs: {str(found)[:60]!r}")
    return tuple(found)


def choose_questions(questions: list[ChatQuestion], limit: int | None) -> list[ChatQuestion]:
    """The questions with the lowest hashes, in the file's order; None: all."""
    if limit is None:
        return questions
    lowest = sorted(questions, key=lambda each: content_hash([each.question_id, each.turns], digits=64))[:limit]
    return [each for each in questions if each in lowest]


def read_prompts(file: Path | None) -> dict[str, JudgePrompt]:
    """Prompts by name: those of a file, or ours.

    Raises:
        ConfigError: no such file.
        DataError: not of the format, or a prompt is missing.
    """
    try:
        found = {
            str(row["name"]): JudgePrompt(system=str(row["system_prompt"]), template=str(row["prompt_template"]))
            for _, row in _objects(file or OUR_PROMPTS, "judge prompts")
        }
    except KeyError as error:
        raise DataError(
            f"{file}: no judge prompts; {error} is missing. FastChat's judge_prompts.jsonl is the format"
        ) from None
    kinds = ("pair-v2", "pair-math-v1", "single-v1", "single-math-v1")
    if missing := sorted({kind + turns for kind in kinds for turns in _TURNS} - found.keys()):
        raise DataError(f"{file}: prompts missing: {', '.join(missing)}")
    return found


def prompt_name(kind: str, question: ChatQuestion, turn: int) -> str:
    """Which prompt judges a turn, 0 or 1, of a question; kind: `pair` or `single`."""
    shown = bool(question.reference) and question.category in WITH_REFERENCE
    plain = "v2" if kind == "pair" else "v1"
    return f"{kind}-{'math-v1' if shown else plain}{_TURNS[turn > 0]}"


def _objects(file: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; {what} are a .jsonl file in FastChat's format (docs/evaluate.md)")
    for where, row in json_lines(file):
        if not isinstance(row, dict):
            raise DataError(f"{where}: a {type(row).__name__} where an object belongs")
        yield where, row


PAIR = ("[[A]]", "[[B]]", "[[C]]")
GRADES = tuple(f"[[{grade}]]" for grade in range(1, 11))
_AGAIN = "That holds no verdict that I can read. Reply with exactly one of {} and nothing else."

PATIENCE = 3
"""Questions in a row to which a judge says nothing before it counts as gone; a choice."""


class JudgeLog:
    """The file of verdicts: one JSON line each, with the exact messages and the judge's words."""

    def __init__(self, file: Path, say: Callable[[str], None] = lambda message: None) -> None:
        self._file, self._say = file, say
        self._known = {str(row["key"]): row for row in read_json_lines(file)}
        self._silent_in_a_row = 0

    def verdict(self, judge: Judge, messages: Messages, verdicts: Sequence[str]) -> str | None:
        """What the judge says of this, from the file if it was asked before; None: nothing that can be read.

        Raises:
            RunError: the judge cannot be reached, refuses, or was silent `PATIENCE` times in a row.
        """
        key = content_hash([judge.identity, messages, list(verdicts)], digits=20)
        if key not in self._known:
            try:
                replies = self._replies(judge, messages, verdicts)
            except SilentJudgeError as error:
                self._silent_in_a_row += 1
                if self._silent_in_a_row >= PATIENCE:
                    raise
                self._say(f"{error}. Counted as no verdict")
                return None
            self._silent_in_a_row = 0
            verdict = parse_verdict(replies[-1], verdicts)
            row: dict[str, object] = {"key": key, "verdict": verdict, "replies": replies}
            self._known[key] = row | {"messages": messages, "judge": judge.identity}
            append_json_lines(self._file, [self._known[key]])
        verdict = self._known[key]["verdict"]
        return None if verdict is None else str(verdict)

    def _replies(self, judge: Judge, messages: Messages, verdicts: Sequence[str]) -> list[str]:
        replies = [judge.ask(messages, verdicts)]
        if parse_verdict(replies[0], verdicts) is None:
            again = _AGAIN.format(", ".join(verdicts))
            said = {"role": "assistant", "content": replies[0] or "(nothing)"}
            replies.append(judge.ask([*messages, said, {"role": "user", "content": again}], verdicts))
        return replies


def parse_verdict(reply: str, verdicts: Sequence[str]) -> str | None:
    """The one verdict that a reply holds; None where it holds none, or different ones.

    A grade may have decimals, e.g. [[7.5]]; it must lie in 1 to 10.
    """
    if "[[A]]" in verdicts:
        found = set(re.findall(r"\[\[([ABC])\]\]", reply))
        return f"[[{found.pop()}]]" if len(found) == 1 else None
    grades = {float(each) for each in re.findall(r"\[\[(\d+(?:\.\d+)?)\]\]", reply)}
    return f"[[{grade:g}]]" if len(grades) == 1 and 1 <= (grade := grades.pop()) <= 10 else None


def ask_judge(
    judge: Judge,
    questions: Sequence[ChatQuestion],
    first: Answers,
    second: Answers | None,
    prompts: Mapping[str, JudgePrompt],
    log: JudgeLog,
    *,
    seen: Callable[[], None] = lambda: None,
) -> list[JudgeVerdict]:
    """Ask of every turn which model answered better, in both orders; or, without a second, for a grade."""
    verdicts = []
    for question in questions:
        one = first[question.question_id]
        if second is None:
            kind, choices, sides = "single", GRADES, [{"": one}]
        else:
            two = second[question.question_id]
            kind, choices, sides = "pair", PAIR, [{"a": one, "b": two}, {"a": two, "b": one}]
        for turn in range(len(question.turns)):
            prompt = prompts[prompt_name(kind, question, turn)]
            for swapped, answers in zip((False, True), sides, strict=False):
                said = log.verdict(judge, prompt.messages(_values(question, turn, answers)), choices)
                if said is None:
                    value = None
                elif second is None:
                    value = float(said.strip("[]"))
                else:
                    value = {"[[A]]": 1.0, "[[B]]": -1.0, "[[C]]": 0.0}[said] * (-1 if swapped else 1)
                about = {"question_id": question.question_id, "category": question.category, "turn": turn}
                verdicts.append(JudgeVerdict(**about, swapped=swapped, value=value))
                seen()
    return verdicts


def _values(question: ChatQuestion, turn: int, answers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What a prompt's placeholders stand for; `answers` by side: a and b, or one without a letter."""
    texts = {"question": question.turns, "ref_answer": question.reference}
    texts |= {f"answer_{side}" if side else "answer": each for side, each in answers.items()}
    values = {name: each[turn] for name, each in texts.items() if name != "ref_answer"}
    return values | {f"{name}_{i}": text for name, each in texts.items() for i, text in enumerate(each, 1)}


def questions_of(wishes: ChatWishes) -> list[ChatQuestion]:
    """The questions that are asked; all files are read before a model is loaded."""
    if wishes.max_tokens < 1 or (wishes.limit is not None and wishes.limit < 2):
        raise ConfigError(
            f"--answer-tokens {wishes.max_tokens}, limit {wishes.limit}: at least 1 token and 2 questions"
        )
    if not 0 < wishes.judge_seconds < float("inf"):
        raise ConfigError(f"--judge-seconds {wishes.judge_seconds}: above 0, 120 is usual")
    read_prompts(wishes.judge_prompts)
    return choose_questions(read_questions(wishes.questions), wishes.limit)


def check_chat(wishes: ChatWishes) -> None:
    """Refuse what could not be judged, before anything is answered: questions, prompts, judges.

    Raises:
        CacheError: no such model.
        ConfigError: a judge that cannot be asked, or settings that cannot be.
        DataError: a file that is not in its format.
    """
    questions_of(wishes)
    check_judge(wishes.judge, wishes.judge_model)
    if wishes.second_judge is not None:
        check_judge(wishes.second_judge, wishes.second_judge_model)


def identity_of(wishes: ChatWishes) -> dict[str, object]:
    """What of the wishes changes a result, models aside."""
    prompts = None if wishes.judge_prompts is None else file_sha256(wishes.judge_prompts)
    asked = [[each.question_id, each.turns, each.reference] for each in questions_of(wishes)]
    return {"questions": content_hash(asked), "prompts": prompts, "max_tokens": wishes.max_tokens}


def judge_chat(
    source: ModelSource,
    wishes: ChatWishes,
    *,
    out: Path,
    device: str,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, object]:
    """Let a model answer and have it judged; what stands in the .jsonl files of `out` is not asked again.

    Returns:
        kind, what the sums give, judge, `answers` (model, and against: as of `count_answers`); with a second judge
        `second`, the same sums of its verdicts, and `judges`, as of `compare_judges`.
    """
    questions = questions_of(wishes)
    sides = {"model": source} | ({"against": locate(wishes.against)} if wishes.against is not None else {})
    said = {name: _answers(each, questions, wishes.max_tokens, out, device, say) for name, each in sides.items()}
    first, second = said["model"][0], said["against"][0] if "against" in said else None
    lengths = (
        None
        if second is None
        else {
            (name, turn): (len(one), len(other))
            for name in first
            for turn, (one, other) in enumerate(zip(first[name], second[name], strict=True))
        }
    )
    asked, found = [(wishes.judge, wishes.judge_model)], []
    if wishes.second_judge is not None:
        asked.append((wishes.second_judge, wishes.second_judge_model))
    for name, model in asked:
        judge = make_judge(name, model=model, device=device, seconds=wishes.judge_seconds, say=say)
        log = JudgeLog(out / f"verdicts-{content_hash(judge.identity)}.jsonl", say)
        turns = sum(len(each.turns) for each in questions) * (1 if second is None else 2)
        say(f"{name}: {turns} verdicts on {len(questions)} questions")
        seen = Telling(name, turns, "verdicts", say).advance
        prompts = read_prompts(wishes.judge_prompts)
        verdicts = ask_judge(judge, questions, first, second, prompts, log, seen=seen)
        sums = sum_up_grades(verdicts) if second is None else sum_up_pairs(verdicts, lengths)
        found.append((verdicts, {**sums, "judge": {"name": name, **judge.identity}}))
    (verdicts, sums), *other = found
    result = {"kind": "single" if second is None else "pair", **sums}
    result["answers"] = {name: count_answers(*each) for name, each in said.items()}
    for theirs, their_sums in other:
        result |= {"second": their_sums, "judges": compare_judges(verdicts, theirs)}
    return result


def _answer_file(source: ModelSource, max_tokens: str) -> str:
    return f"answers-{fingerprint(source)}-{max_tokens}.jsonl"


def answer_files(out: Path, source: ModelSource) -> list[Path]:
    """What a model has answered in a folder of judged chat, whatever it was that was judged there."""
    return sorted(out.glob(_answer_file(source, "*")))


ANSWERED_AT_ONCE = 8
"""Questions: one at a time a model reads all its weights for every token; more take memory; a choice."""


def _talked(chat: ChatModel, questions: Sequence[ChatQuestion], max_tokens: int) -> list[tuple[list[str], list[bool]]]:
    """Answers to the turns of each question, and which the limit cut; the first turns of all, then the second ones."""
    talks: list[list[dict[str, str]]] = [[] for _ in questions]
    cut: list[list[bool]] = [[] for _ in questions]
    for turn in range(max(len(each.turns) for each in questions)):
        going = [i for i, each in enumerate(questions) if turn < len(each.turns)]
        for i in going:
            talks[i].append({"role": "user", "content": questions[i].turns[turn]})
        for i, (said, ended) in zip(going, chat.write([talks[i] for i in going], max_tokens=max_tokens), strict=True):
            talks[i].append({"role": "assistant", "content": said})
            cut[i].append(not ended)
    return [([each["content"] for each in talk[1::2]], cut[i]) for i, talk in enumerate(talks)]


def _answers(
    source: ModelSource,
    questions: Sequence[ChatQuestion],
    max_tokens: int,
    out: Path,
    device: str,
    say: Callable[[str], None],
) -> tuple[dict[str, list[str]], dict[str, list[bool]]]:
    """What a model answers, turn by turn, greedily, and which the limit cut; kept in its file, a batch at a time."""
    file = out / _answer_file(source, str(max_tokens))
    known: dict[str, dict[str, Any]] = {str(row["key"]): row for row in read_json_lines(file)}
    keys = {each.question_id: content_hash([each.question_id, each.turns]) for each in questions}
    missing = [each for each in questions if keys[each.question_id] not in known]
    if missing:
        say(f"{source.name}: answering {len(missing)} questions")
        chat = ChatModel.load(source, device=device)
        progress = Telling(source.name, len(missing), "questions", say)
        for first in range(0, len(missing), ANSWERED_AT_ONCE):
            batch = missing[first : first + ANSWERED_AT_ONCE]
            for question, (answers, cut) in zip(batch, _talked(chat, batch, max_tokens), strict=True):
                row: dict[str, Any] = {"key": keys[question.question_id], "question_id": question.question_id}
                row |= {"model": source.name, "turns": question.turns, "answers": answers, "cut": cut}
                append_json_lines(file, [row])
                known[row["key"]] = row
                progress.advance()
    rows = {name: known[key] for name, key in keys.items()}
    return (
        {name: [str(each) for each in row["answers"]] for name, row in rows.items()},
        {name: row.get("cut", []) for name, row in rows.items()},  # not known of files from before it was kept
    )
