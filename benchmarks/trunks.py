"""Trunks to train and tables of trained ones, as several benchmarks want them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks import RESULTS
from distillaw.accounting.architecture import count_params
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.table import read_table
from distillaw.shapes import Shape
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, Progress
from distillaw.sweep.spec import StudentsSpec, StudySpec, TuningSpec


def trunk_of(shape: Shape, recipe: Recipe, *, rate: float, batch_tokens: int, **more: Any) -> TrunkSpec:
    """A student of a shape at a rate; `more`: fields that are not the plain ones."""
    counts = count_params(shape)
    plain = {"role": "student", "purpose": "grid", "label": "", "split": "student", "seed": 0, "data_hash": ""}
    return TrunkSpec(
        layers=shape.layers,
        width=shape.width,
        ffn=shape.ffn,
        heads=shape.heads,
        params=counts.non_embedding,
        total_params=counts.total,
        vocab_size=shape.vocab,
        peak_lr=rate,
        batch_tokens=batch_tokens,
        recipe=recipe,
        **(plain | more),
    )


def planned_trunk(
    size: str, *, rate: float, batch_tokens: int, vocab_size: int, tokens: int = 10**6, data_hash: str = "", **more: Any
) -> TrunkSpec:
    """The trunk that a study without tuning trains first; `more`: its other settings."""
    students = StudentsSpec(params=(size,), tokens=(tokens,))
    spec = StudySpec(name="b", students=students, batch_tokens=batch_tokens, tuning=TuningSpec(enabled=False), **more)
    facts = Facts(vocab_size=vocab_size, data_hash=data_hash, fingerprints={})
    return replace(Planner(spec, facts, Progress(losses={}, failures={})).ready_jobs().jobs[0].trunk, peak_lr=rate)


def world_students(*sets: str) -> Iterator[dict[str, Any]]:
    """Rows of benchmarks/worlds_study: students of the teacher's plain targets alone, or of the text alone."""
    table = read_table(RESULTS / "worlds_study.csv")
    for row in (dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)):
        is_plain = float(row["lambda"]) in (0, 1) and float(row["temperature"]) == float(row["rescaled"]) == 1
        if row["role"] == "student" and row["set"] in sets and is_plain:
            yield row
