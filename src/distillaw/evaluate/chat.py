"""Judged chat of a model, as evaluation.json has it: answers written once, verdicts asked once, sums with intervals.

The turns of a question are not independent, so the question is the unit: clustered standard errors, and percentile
intervals of a bootstrap that draws questions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.judges import ChatModel, Judge, make_judge
from distillaw.evaluate.judging import (
    ChatQuestion,
    JudgeLog,
    JudgeVerdict,
    choose_questions,
    judge_grades,
    judge_pairs,
    read_prompts,
    read_questions,
)
from distillaw.evaluate.scores import interval_of, mean_and_se
from distillaw.models.source import ModelSource, fingerprint, locate
from distillaw.runs.files import append_json_lines, content_hash, file_sha256, read_json_lines
from distillaw.runs.pace import Telling

DRAWS = 10_000
"""Of the bootstrap; Efron and Tibshirani (1993, section 13.3) want a thousand, and more cost nothing here."""


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
