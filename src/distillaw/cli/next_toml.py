"""A study's next batch of runs as a table of its TOML file, and the whole file with it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from distillaw.runs.config import to_table, toml_value
from distillaw.settling.question import Stage
from distillaw.sweep.spec import NONE, DesignSpec, StudentsSpec, StudySpec


def cells_of(stage: Stage) -> DesignSpec:
    """A stage as an entry of [[cells]]; seeds that were run before are not run again."""
    return DesignSpec(params=stage.labels, tokens=stage.tokens, teachers=(NONE, *stage.candidates),
                     seeds=max(stage.seeds) + 1)  # fmt: skip


def snippet(stage: Stage) -> str:
    """What to paste into the study's file."""
    return "\n".join(_lines({"cells": [to_table(cells_of(stage))]}, ""))


def extended(spec: StudySpec, stage: Stage, *, is_first: bool) -> StudySpec:
    """The study with the batch: as its grid if nothing was run yet, else as cells beside it."""
    if is_first:
        return dataclasses.replace(
            spec, students=StudentsSpec(params=stage.labels, tokens=stage.tokens), replicates=()
        )
    return dataclasses.replace(spec, cells=(*spec.cells, cells_of(stage)))


def study_toml(spec: StudySpec) -> str:
    """A study file that says what a study is; settings at their defaults are left out."""
    return "\n".join(_lines(to_table(spec), "")).strip() + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    """A table's own keys, then the tables in it."""
    inner = {key: value for key, value in table.items() if _is_table(value)}
    yield from (f"{key} = {toml_value(value)}" for key, value in table.items() if key not in inner)
    for key, value in inner.items():
        name = f"{path}{key}"
        for entry in value if isinstance(value, list) else [value]:
            yield f"\n[[{name}]]" if isinstance(value, list) else f"\n[{name}]"
            yield from _lines(entry, f"{name}.")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )
