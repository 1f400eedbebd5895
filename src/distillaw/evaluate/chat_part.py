"""Judged chat of a model, as evaluation.json has it: answers written once, verdicts asked once, sums with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import ConfigError
from distillaw.evaluate.judge_local import ChatModel
from distillaw.evaluate.judges import Judge, make_judge
from distillaw.evaluate.judging import JudgeLog, judge_grades, judge_pairs
from distillaw.evaluate.questions import Question, choose_questions, read_prompts, read_questions
from distillaw.evaluate.verdicts import sum_up_grades, sum_up_pairs
from distillaw.models.source import ModelSource, locate
from distillaw.runs.files import append_json_lines, content_hash, file_sha256, read_json_lines
from distillaw.runs.pace import Telling

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

    def check(self) -> list[Question]:
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
    second = None if wishes.against is None else _answers(
        locate(wishes.against), questions, wishes.max_tokens, out, device, say
    )  # fmt: skip
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
    questions: Sequence[Question],
    max_tokens: int,
    out: Path,
    device: str,
    say: Callable[[str], None],
) -> dict[str, list[str]]:
    """What a model answers, turn by turn, greedily; appended to its file question by question."""
    from distillaw.models.fingerprint import fingerprint

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
            row: dict[str, object] = {"key": keys[question.question_id], "question_id": question.question_id,
                   "model": source.name, "turns": question.turns, "answers": answers}  # fmt: skip
            append_json_lines(file, [row])
            known[keys[question.question_id]] = answers
            progress.add()
    return {each.question_id: [str(a) for a in known[keys[each.question_id]]] for each in questions}  # type: ignore[union-attr]


def _conversation(chat: ChatModel, question: Question, max_tokens: int) -> list[str]:
    messages: list[dict[str, str]] = []
    answers = []
    for turn in question.turns:
        messages.append({"role": "user", "content": turn})
        answers.append(chat.write(messages, max_tokens=max_tokens))
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers
