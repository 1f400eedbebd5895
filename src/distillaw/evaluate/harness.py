"""Benchmarks through lm-evaluation-harness, on local files alone.

The harness builds the prompts, asks the model and judges each answer; which questions are asked and what a score means
(benchmarks.py) and running generated code (sandbox.py) are ours. Nothing is fetched. Beside every score lie the exact
prompts and the raw answers.
"""

import gzip
import json
import logging
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.benchmarks import JUDGES, BenchmarkScore, Row, TaskRows, TaskSpec, interval_of, mean_and_se
from distillaw.evaluate.sandbox import check_sample, pass_at_k
from distillaw.evaluate.wishes import Way
from distillaw.models.parallel import ALONE, Ranks
from distillaw.runs.files import as_read, write_with
from distillaw.runs.pace import Telling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRUNCATED_NOTE = "{} of {} prompts are longer than the model's context; their beginning was cut off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question as it was asked and answered."""

    row: Row
    prompt: str
    continuations: list[str]
    answers: list[Any]
    """(ln p, whether greedy) of each continuation, or what the model wrote."""
    target: Any
    metrics: dict[str, float]
    judged: Any = None
    """What of the answers was scored, or how each program ended."""


def run_benchmark(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    spec: TaskSpec,
    rows: TaskRows,
    way: Way,
    *,
    memory: Path,
    samples: Path,
    say: Callable[[str], None] = lambda message: None,
    ranks: Ranks = ALONE,
) -> BenchmarkScore:
    """Ask a model the questions of a benchmark.

    Args:
        memory: file of the answers so far; an interrupted evaluation continues behind them.
        samples: .jsonl.gz of prompts and raw answers, written at the end.
        ranks: processes that share the questions, each with the whole model; all call this.
    """
    if way.chat and not tokenizer.chat_template:
        raise ConfigError("its tokenizer has no chat template; evaluate without --chat")
    answered, truncated = _ask(model, tokenizer, spec, rows, way, memory, say, ranks)
    notes = []
    if spec.executed:
        answered, notes = ranks.told(lambda: _execute(spec, answered, say))
    ranks.first(lambda: _write_samples(samples, answered))
    return _score(spec, rows, answered, truncated, notes)


def _ask(
    model, tokenizer, spec: TaskSpec, rows: TaskRows, way: Way, memory: Path, say, ranks: Ranks
) -> tuple[list[Answered], int]:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise ConfigError('benchmarks need lm-evaluation-harness; pip install "distillaw[evaluate]"') from None
    with _quiet():
        from lm_eval.evaluator import evaluate

        from distillaw.evaluate.lm_eval_parts import RememberingLM, SharedContextLM, require_metrics, sandboxed

        if "process_results" not in spec.harness:
            require_metrics(spec.task, {each["metric"] for each in spec.harness.get("metric_list", [])})
        inner = SharedContextLM(pretrained=model, tokenizer=tokenizer, batch_size=way.batch)  # type: ignore[arg-type]
        lm = RememberingLM(inner, memory, name=spec.task, say=say, ranks=ranks)
        with sandboxed(spec.task):
            tasks = {name: _task(spec, name, rows, way) for name in rows.test}
            found = evaluate(
                lm,
                {"tasks": tasks, "groups": {}, "group_map": {}},
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=way.chat,
                fewshot_as_multiturn=way.chat,
            )
    assert found is not None, "one process"
    parts = found["samples"].items()
    answered = [each for name, samples in parts for each in _answers(spec, samples, rows.test[name])]
    contexts = {each.prompt for each in answered}
    return answered, sum(each in contexts for each in lm.truncated)


def _task(spec: TaskSpec, name: str, rows: TaskRows, way: Way):
    """The harness's task of one subtask, over rows in memory."""
    from datasets import Dataset

    from distillaw.evaluate.lm_eval_parts import QuietTask

    test, shots = rows.test[name], rows.shots[name]
    for row in test:
        _check_row(spec, row)
    try:
        tables = {"test": Dataset.from_list(test), "shots": Dataset.from_list(shots or test[:1])}
    except (ValueError, TypeError) as error:  # of Arrow
        raise DataError(
            f"{spec.task}: a field is of one kind in one question, of another in another ({error}). Expected: "
            f"{spec.layout}"
        ) from None
    config: dict[str, Any] = {
        **as_read(spec.harness),
        "task": name,
        "test_split": "test",
        "num_fewshot": len(shots),
        "custom_dataset": lambda **_: tables,
        "fewshot_split": "shots",
        "fewshot_config": {"sampler": "first_n"},
    }
    if "process_results" in config:
        config["process_results"] = _JUDGES[config["process_results"]]
    if spec.executed and way.samples > 1:
        config["repeats"] = way.samples
        config["generation_kwargs"] |= {"do_sample": True, "temperature": way.temperature, "top_p": 0.95}
    task = QuietTask(config=config)
    task.set_fewshot_seed(seed=0)
    return task


def _check_row(spec: TaskSpec, row: Row) -> None:
    """Refuse a question that the task's templates cannot put, e.g. one whose right answer is no option.

    The harness asks and scores it: as never right.
    """
    from jinja2 import UndefinedError

    try:
        asked, options, target = (_filled(spec, f"doc_to_{part}", row) for part in ("text", "choice", "target"))
        if isinstance(asked, str) and not asked.strip() and spec.harness.get("doc_to_text"):
            raise ValueError("nothing is asked")
        if options := literal_eval(options) if isinstance(options, str) and options else options:
            if blank := [each for each in options if not str(each).strip()]:
                raise ValueError(f"an option is {blank[0]!r}")
            # as the harness: a number, or digits that a template rendered, count options; other words are one of them
            is_rendered = spec.harness.get("doc_to_target") not in row
            right = asked if str(asked).isdigit() else target  # where options are the contexts
            if str(right).isdigit() and (is_rendered or right is asked):
                right = int(right)
            for one in right if isinstance(right, list) else [right]:
                if one not in (options if isinstance(one, str) else range(len(options))):
                    raise ValueError(f"the right one is {one!r} of {len(options)} options")
    except (ValueError, IndexError, KeyError, TypeError, SyntaxError, UndefinedError) as error:
        raise DataError(
            f"{spec.task}, question {row['id']} counted from 0: it cannot be asked and judged ({error}). Expected: "
            f"{spec.layout}"
        ) from None


def _filled(spec: TaskSpec, key: str, row: Row) -> Any:
    """What a template of the task gives for a question: the field of that name, or the text as rendered."""
    from lm_eval.utils import apply_template

    template = spec.harness.get(key, "")
    if isinstance(template, str):
        return row[template] if template in row else apply_template(template, row)
    return template


def _answers(spec: TaskSpec, samples: list[dict[str, Any]], rows: list[Row]) -> list[Answered]:
    """The harness has one sample per question and filter; further filters become further metrics."""
    main = [each for each in samples if spec.filter in (None, each["filter"])]
    further: dict[int, dict[str, float]] = {}
    for each in samples:
        if spec.filter not in (None, each["filter"]):
            named = {f"{key} ({each['filter']})": value for key, value in _metrics(each).items()}
            further.setdefault(each["doc_id"], {}).update(named)
    return [
        Answered(
            row=rows[each["doc_id"]],
            prompt=str(each["arguments"][0][0]),
            continuations=[argument[1] for argument in each["arguments"]],
            answers=[reply[0] if len(reply) == 1 else list(reply) for reply in each["resps"]],
            target=each["target"],
            metrics=_metrics(each) | further.get(each["doc_id"], {}),
            judged=each["filtered_resps"],
        )
        for each in main
    ]


def _metrics(sample: dict[str, Any]) -> dict[str, float]:
    return {key: float(sample[key]) for key in sample["metrics"] if isinstance(sample[key], int | float)}


def _execute(spec: TaskSpec, answered: list[Answered], say) -> tuple[list[Answered], list[str]]:
    """Run what was written; pass@1 of each problem, and pass@k for the powers of ten that the samples allow."""
    written = [each.answers[0] if isinstance(each.answers[0], list) else each.answers for each in answered]
    say(f"{spec.task}: running {sum(map(len, written))} programs in the sandbox")
    progress = Telling(spec.task, len(written), "problems", say)
    judged, walls = [], set()
    for each, completions in zip(answered, written, strict=True):
        outcomes = [check_sample(each.row, completion) for completion in completions]
        correct, count = sum(one.passed for one in outcomes), len(outcomes)
        metrics = {f"pass@{k}": pass_at_k(count, correct, k) for k in (1, 10, 100) if k <= count}
        ended = [{"verdict": one.verdict, "output": one.output} for one in outcomes]
        judged.append(replace(each, metrics=metrics, judged=ended))
        walls |= {wall for one in outcomes for wall in one.walls}
        progress.advance()
    return judged, [f"programs ran behind: {', '.join(sorted(walls))}"]


def _score(
    spec: TaskSpec, rows: TaskRows, answered: list[Answered], truncated: int, notes: list[str]
) -> BenchmarkScore:
    values = [each.metrics[spec.metric] for each in answered]
    shared = [each.row.get(spec.cluster) if spec.cluster else None for each in answered]
    groups = [group or i for i, group in enumerate(shared)]
    clusters = len(set(groups))
    score, se = mean_and_se(values, groups)
    interval, chance = interval_of(score, se, values, clusters), _chance(spec, rows, answered)
    if truncated:
        notes = [*notes, TRUNCATED_NOTE.format(truncated, len({each.prompt for each in answered}))]
    other = {}
    for key in sorted({key for each in answered for key in each.metrics} - {spec.metric}):
        mean = np.mean([each.metrics[key] for each in answered])
        other[key] = float(np.exp(-mean)) if key == "perplexity" else float(mean)
    subtasks: dict[str, list[float]] = {}
    for each, value in zip(answered, values, strict=True):
        subtasks.setdefault(each.row["subtask"], []).append(value)
    sums = {name: {"score": float(np.mean(each)), "n": float(len(each))} for name, each in subtasks.items()}
    return BenchmarkScore(
        score=score,
        se=se,
        interval=interval,
        n=len(answered),
        available=rows.available,
        shots=rows.num_shots,
        metric=spec.metric,
        chance=chance,
        near_chance=interval[0] <= chance,
        clusters=clusters,
        truncated=truncated,
        other=other,
        subtasks=sums if len(sums) > 1 else {},
        notes=tuple(notes),
    )


def _chance(spec: TaskSpec, rows: TaskRows, answered: list[Answered]) -> float:
    if spec.chance == "majority":
        assert rows.majority is not None
        return rows.majority
    if spec.chance == "choices":
        return float(np.mean([1 / len(each.continuations) for each in answered]))
    if spec.chance == "mass":
        return float(np.mean([len(each.row["right"]) / len(each.continuations) for each in answered]))
    return float(spec.chance)


def _write_samples(file: Path, answered: list[Answered]) -> None:
    """Prompts and raw answers, one question per line."""
    names = ("prompt", "continuations", "answers", "judged", "target", "metrics")

    def write(path: Path) -> None:
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            for each in answered:
                line = {"id": each.row["id"]} | {name: getattr(each, name) for name in names}
                stream.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    write_with(file, write)


def _mass(doc: Row, results: list[tuple[float, bool]]) -> dict[str, float]:
    """Share of probability of the true answers, which come first (Lin et al. 2021, MC2)."""
    logp = np.array([value for value, _ in results])
    share = np.exp(logp - logp.max())
    return {"mass": float(share[: len(doc["right"])].sum() / share.sum())}


def _drop(doc: Row, results: list[str]) -> dict[str, float]:
    """F1 and exact match by the harness's own rules."""
    from lm_eval.tasks.drop.utils import process_results

    found = process_results(doc, [results[0].strip()])
    return {"em": float(found["em"]), "f1": float(found["f1"])}


_JUDGES = dict(zip(JUDGES, (_mass, _drop), strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness logs settings of its own choosing at warning level; its errors still come through."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
