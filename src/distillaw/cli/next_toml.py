"""A study's next batch of runs as a table of its TOML file, and the whole file with it."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from distillaw.settling.question import Stage
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.tables import NONE, CellsSpec, StudentsSpec


def cells_of(stage: Stage) -> CellsSpec:
    """A stage as an entry of [[cells]]; seeds that were run before are not run again."""
    return CellsSpec(params=stage.labels, tokens=stage.tokens, teachers=(NONE, *stage.candidates),
                     seeds=max(stage.seeds) + 1)  # fmt: skip


def snippet(stage: Stage) -> str:
    """What to paste into the study's file."""
    return "\n".join(_lines({"cells": [_changed(cells_of(stage))]}, ""))


def extended(spec: StudySpec, stage: Stage, *, is_first: bool) -> StudySpec:
    """The study with the batch: as its grid if nothing was run yet, else as cells beside it."""
    if is_first:
        return dataclasses.replace(
            spec, students=StudentsSpec(params=stage.labels, tokens=stage.tokens), replicates=()
        )
    return dataclasses.replace(spec, cells=(*spec.cells, cells_of(stage)))


def study_toml(spec: StudySpec) -> str:
    """A study file that says what a study is; settings at their defaults are left out."""
    return "\n".join(_lines(_changed(spec), "")).strip() + "\n"


def _changed(value: Any) -> Any:
    """Dataclasses as tables, without fields that have their default."""
    if isinstance(value, tuple):
        return [_changed(entry) for entry in value]
    if not dataclasses.is_dataclass(value):
        return value
    kept = {}
    for field in dataclasses.fields(value):
        default = (
            field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        )
        own = getattr(value, field.name)
        if own is not None and own != default:
            kept[field.name] = _changed(own)
    return kept


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    """A table's own keys, then the tables in it."""
    inner = {key: value for key, value in table.items() if _is_table(value)}
    yield from (f"{key} = {_value(value)}" for key, value in table.items() if key not in inner)
    for key, value in inner.items():
        name = f"{path}{key}"
        for entry in value if isinstance(value, list) else [value]:
            yield f"\n[[{name}]]" if isinstance(value, list) else f"\n[{name}]"
            yield from _lines(entry, f"{name}.")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
