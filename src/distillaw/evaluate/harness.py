"""Benchmarks through lm-evaluation-harness, on local files alone.

The harness builds the prompts, asks the model and judges each answer; which questions are asked (benchmarks.py), what a
score means (scores.py) and running generated code (sandbox.py) are ours. Nothing is fetched. Beside every score lie the
exact prompts and the raw answers.

    run_benchmark(model, tokenizer, spec, rows, Way(), memory=Path("answers.jsonl"), samples=Path("samples.jsonl.gz"))
"""

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillaw.errors import ConfigError
from distillaw.evaluate.benchmarks import JUDGES, Row, TaskRows, TaskSpec
from distillaw.evaluate.sandbox import check_all, pass_at_k
from distillaw.evaluate.scores import BenchmarkScore, interval_of, mean_and_se
from distillaw.runs.files import write_with
from distillaw.runs.pace import Telling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 8
"""Prompts of a forward pass unless said otherwise: a choice for memory, answers do not depend on it."""
TRUNCATED_NOTE = "{} of {} prompts are longer than the model's context; their beginning was cut off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How questions are put to a model."""

    chat: bool = False
    """Through the tokenizer's chat template, examples as turns."""
    batch: int = BATCH
    samples: int = 1
    """Programs written per problem; above 1 they are drawn at `temperature`, else written greedily."""
    temperature: float = 0.8
    """As in Chen et al. 2021 for large k."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question as it was asked and answered."""

    subtask: str
    row: Row
    prompt: str
    continuations: list[str]
    answers: list[Any]
    """(ln p, whether greedy) of each continuation, or what the model wrote."""
    target: Any
    metrics: dict[str, float]
    filtered: Any = None


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
) -> BenchmarkScore:
    """Ask a model the questions of a benchmark.

    Args:
        model: in eval mode.
        tokenizer: its own.
        spec: the benchmark.
        rows: what is asked.
        way: how.
        memory: file of the answers so far; an interrupted evaluation continues behind them.
        samples: .jsonl.gz of prompts and raw answers, written at the end.
        say: takes a line of progress now and then.

    Raises:
        ConfigError: lm-evaluation-harness is not installed, or a chat template is asked for that the model lacks.
        RunError: the disk is full.
    """
    if way.chat and not tokenizer.chat_template:
        raise ConfigError("its tokenizer has no chat template; evaluate without --chat")
    answered, truncated = _ask(model, tokenizer, spec, rows, way, memory, say)
    notes = []
    if spec.executed:
        answered, notes = _execute(spec, answered, say)
    _write_samples(samples, answered)
    return _score(spec, rows, answered, truncated, notes)


def _ask(
    model, tokenizer, spec: TaskSpec, rows: TaskRows, way: Way, memory: Path, say
) -> tuple[list[Answered], int]:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise ConfigError(
            'benchmarks need lm-evaluation-harness; pip install "distillaw[evaluate]"'
        ) from None
    with _quiet():
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        from distillaw.evaluate.lm_eval_parts import RememberingLM, require_metrics, sandboxed

        if "process_results" not in spec.harness:
            require_metrics(spec.task, {each["metric"] for each in spec.harness.get("metric_list", [])})
        inner = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=way.batch)  # type: ignore[arg-type]
        lm = RememberingLM(inner, memory, name=spec.task, say=say)
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
    answered = [
        each
        for name, samples in found["samples"].items()
        for each in _answers(spec, samples, rows.test[name])
    ]
    contexts = {each.prompt for each in answered}
    return answered, sum(each in contexts for each in lm.truncated)


def _task(spec: TaskSpec, name: str, rows: TaskRows, way: Way):
    """The harness's task of one subtask, over rows in memory."""
    from datasets import Dataset

    from distillaw.evaluate.lm_eval_parts import QuietTask

    test, shots = rows.test[name], rows.shots[name]
    config: dict[str, Any] = {
        **json.loads(json.dumps(spec.harness)),
        "task": name,
        "test_split": "test",
        "num_fewshot": len(shots),
        "custom_dataset": lambda **_: {
            "test": Dataset.from_list(test),
            "shots": Dataset.from_list(shots or test[:1]),
        },
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


def _answers(spec: TaskSpec, samples: list[dict[str, Any]], rows: list[Row]) -> list[Answered]:
    """The harness has one sample per question and filter; further filters become further metrics."""
    main = [each for each in samples if spec.filter in (None, each["filter"])]
    further: dict[int, dict[str, float]] = {}
    for each in samples:
        if spec.filter not in (None, each["filter"]):
            named = {f"{key} ({each['filter']})": value for key, value in _metrics(each).items()}
            further.setdefault(each["doc_id"], {}).update(named)
    return [_answered(each, rows[each["doc_id"]], further.get(each["doc_id"], {})) for each in main]


def _metrics(sample: dict[str, Any]) -> dict[str, float]:
    return {key: float(sample[key]) for key in sample["metrics"] if isinstance(sample[key], int | float)}


def _answered(sample: dict[str, Any], row: Row, further: dict[str, float]) -> Answered:
    arguments = [list(each) for each in sample["arguments"]]
    responses = [each[0] if len(each) == 1 else list(each) for each in sample["resps"]]
    return Answered(
        subtask=row["subtask"],
        row=row,
        prompt=str(arguments[0][0]),
        continuations=[each[1] for each in arguments],
        answers=responses,
        target=sample["target"],
        metrics=_metrics(sample) | further,
        filtered=sample["filtered_resps"],
    )


def _execute(spec: TaskSpec, answered: list[Answered], say) -> tuple[list[Answered], list[str]]:
    """Run what was written; pass@1 of each problem, and pass@k for the powers of ten that the samples allow."""
    written = [each.answers[0] if isinstance(each.answers[0], list) else each.answers for each in answered]
    say(f"{spec.task}: running {sum(map(len, written))} programs in the sandbox")
    progress = Telling(spec.task, len(written), "problems", say)
    verdicts = check_all([each.row for each in answered], written, seen=lambda done: progress.add())
    judged = []
    for each, verdict in zip(answered, verdicts, strict=True):
        count = len(verdict.outcomes)
        metrics = {f"pass@{k}": pass_at_k(count, verdict.correct, k) for k in (1, 10, 100) if k <= count}
        outcomes = [{"verdict": o.verdict, "output": o.output} for o in verdict.outcomes]
        judged.append(replace(each, metrics=metrics, filtered=outcomes))
    walls = sorted({wall for verdict in verdicts for outcome in verdict.outcomes for wall in outcome.walls})
    return judged, [f"programs ran behind: {', '.join(walls)}"]


def _score(
    spec: TaskSpec, rows: TaskRows, answered: list[Answered], truncated: int, notes: list[str]
) -> BenchmarkScore:
    values = [each.metrics[spec.metric] for each in answered]
    groups = [_group(spec, each, i) for i, each in enumerate(answered)]
    clusters = len(set(groups))
    score, se = mean_and_se(values, groups)
    interval, chance = interval_of(score, se, values, clusters), _chance(spec, rows, answered)
    if truncated:
        notes = [*notes, TRUNCATED_NOTE.format(truncated, len({each.prompt for each in answered}))]
    metrics = sorted({key for each in answered for key in each.metrics} - {spec.metric})
    names = list(dict.fromkeys(each.subtask for each in answered))
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
        other={key: _aggregate(key, [each.metrics[key] for each in answered]) for key in metrics},
        subtasks={name: _subtask(spec, name, answered) for name in names} if len(names) > 1 else {},
        notes=tuple(notes),
    )


def _aggregate(metric: str, values: list[float]) -> float:
    return float(np.exp(-np.mean(values))) if metric == "perplexity" else float(np.mean(values))


def _subtask(spec: TaskSpec, name: str, answered: list[Answered]) -> dict[str, float]:
    values = [each.metrics[spec.metric] for each in answered if each.subtask == name]
    return {"score": float(np.mean(values)), "n": float(len(values))}


def _group(spec: TaskSpec, each: Answered, index: int) -> object:
    shared = each.row.get(spec.cluster) if spec.cluster else None
    return shared or index


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

    def write(path: Path) -> None:
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            for each in answered:
                line = {
                    "id": each.row["id"],
                    "prompt": each.prompt,
                    "continuations": each.continuations,
                    "answers": each.answers,
                    "judged": each.filtered,
                    "target": each.target,
                    "metrics": each.metrics,
                }
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
