"""What happens to finished runs when their study changes: the file was edited, or a run is asked for again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from distillaw.errors import ConfigError, DistillawError
from distillaw.quantities import did_you_mean
from distillaw.runs.config import from_table
from distillaw.runs.files import as_read, read_json
from distillaw.runs.places import claim_folder, move
from distillaw.runs.store import StudyFolder
from distillaw.sweep.ready import ReadyJobs
from distillaw.sweep.spec import DesignSpec, ReplicateSpec, StudySpec, TeacherSpec

SUPERSEDED = "superseded"
"""Folder of runs that were asked for again, as they were."""
_TABLES = {"teachers": TeacherSpec, "replicates": ReplicateSpec, "cells": DesignSpec}
"""The records behind the entries of a study's lists of tables."""


def changed_settings(folder: Path, spec: StudySpec) -> list[str]:
    """What the study file says now and said when the folder was last worked on, setting by setting."""
    file = folder / "study.json"
    if not file.exists():
        return []
    return _differences(_settings(read_json(file)["spec"]), as_read(asdict(spec)), "")


def what_belongs(ready: ReadyJobs, finished: Sequence[str]) -> tuple[list[str], list[str]]:
    """Finished runs that the study as it stands wants, and those that it does not, or not yet."""
    wanted = {run_id for job in ready.jobs for run_id in job.run_ids}
    return [run_id for run_id in finished if run_id in wanted], [run_id for run_id in finished if run_id not in wanted]


def change_in_words(lines: Sequence[str], ready: ReadyJobs, finished: Sequence[str]) -> str:
    """One message: what was changed, and what it means for what is finished."""
    belong, others = what_belongs(ready, finished)
    shown = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")
    text = f"the study file has changed since it was last run: {shown}. Of {len(finished)} finished runs {len(belong)} "
    if not others:
        return text + "belong to it: all of them"
    yet = ", as far as is known before its tuning has ended" if ready.waiting else ""
    named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    return (
        f"{text}belong to it and {len(others)} do not{yet} ({named}): those stay on disk, out of the table, and count "
        "again when the file says again what it said"
    )


def set_aside(study: StudyFolder, run_ids: Sequence[str]) -> list[str]:
    """Make room for runs that are wanted again; returns what was done, in words.

    The run's folder goes to superseded/RUN_ID.N and its trunk's checkpoint is deleted, so that it is trained from its
    first step. Other runs, students of a teacher that is done again included, stay as they are.

    Raises:
        ConfigError: there is no such run; nothing has been moved.
    """
    known = sorted(path.name for path in (study.path / "runs").glob("*/"))
    for run_id in run_ids:
        if run_id not in known:
            raise ConfigError(f"--again {run_id}: no such run in {study.path / 'runs'}{did_you_mean(run_id, known)}")
    return [_set_aside(study, run_id) for run_id in dict.fromkeys(run_ids)]


def _set_aside(study: StudyFolder, run_id: str) -> str:
    # here, since it brings torch, which a look at a study does not need
    from distillaw.train.checkpoint import remove_states

    run, home = study.run(run_id), study.path / SUPERSEDED
    claim_folder(home)
    number = 1 + sum(path.name.rpartition(".")[0] == run_id for path in home.iterdir())
    target = home / f"{run_id}.{number}"
    move(run.path, target)
    remove_states(study.trunk(run_id.rpartition("-")[0]) / "state")
    pupils = [r for r in study.results() if run_id in (r["teacher_run"], r["start_run"])]
    text = f"{run_id} is trained again from its first step; what it was is kept in {target}"
    if pupils:
        text += (
            f". {len(pupils)} students learnt from what it was, or were cut out of it, and stay as they are; ask for "
            "them by name if they should follow"
        )
    return text


def compare_again(study: StudyFolder, run_ids: Sequence[str]) -> list[str]:
    """The loss of runs done again beside what it was before, in words."""
    lines = []
    for run_id in dict.fromkeys(run_ids):
        earlier = sorted((study.path / SUPERSEDED).glob(f"{run_id}.*/result.json"))
        result = study.run(run_id).result()
        if result is None or not earlier:
            continue
        old, new = float(read_json(earlier[-1])["loss"]), float(result["loss"])
        same = "the same" if new == old else f"before {old:.6f}, difference {new - old:+.2g}"
        lines.append(f"{run_id} again: loss {new:.6f}, {same}")
    return lines


def _settings(spec: object) -> object:
    """A stored spec; one that an older version wrote has the defaults of what is new since."""
    assert isinstance(spec, Mapping)
    try:
        return as_read(asdict(from_table(StudySpec, dict(spec), "study.json")))
    except DistillawError:
        return spec


def _differences(old: object, new: object, key: str) -> list[str]:
    """Setting by setting, `table.key was 1, now 2`; entries of a list of tables that came or went, whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted(old.keys() | new.keys())
            for line in _differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
        ]
    if _is_tables(old) or _is_tables(new):
        return _entries(old or [], new or [], key)
    if isinstance(old, dict) or isinstance(new, dict):
        return _differences(old or {}, new or {}, key)
    before, now = _word(old), _word(new)
    return [] if before == now else [f"{key} was {before}, now {now}"]


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(entry, dict) for entry in value)


def _entries(old: Any, new: Any, key: str) -> list[str]:
    """A list of tables: as many new entries as are missing are those, changed; else they came or went."""
    gone, come = _without(old, new), _without(new, old)
    if len(gone) == len(come):
        pairs = zip(gone, come, strict=True)
        return [line for (n, was), (_, now) in pairs for line in _differences(was, now, f"{key}.{n}")]
    return [
        f"{key}.{number} was {what}: {_entry(entry, key)}"
        for what, found in (("removed", gone), ("added", come))
        for number, entry in found
    ]


def _without(entries: list[object], others: list[object]) -> list[tuple[int, object]]:
    """The entries, numbered, that the other list lacks."""
    left, found = list(others), []
    for number, entry in enumerate(entries, 1):
        if entry in left:
            left.remove(entry)
        else:
            found.append((number, entry))
    return found


def _entry(entry: object, key: str) -> str:
    """What tells an entry from others: the settings that are neither empty nor those of an entry that says nothing."""
    assert isinstance(entry, dict)
    usual = {f.name: f.default for f in fields(_TABLES[key])} if key in _TABLES else {}
    usual = {name: list(value) if isinstance(value, tuple) else value for name, value in usual.items()}
    return ", ".join(
        f"{name} {json.dumps(value)}"
        for name, value in entry.items()
        if value not in (None, "", [], {}) and value != usual.get(name)
    )


def _word(value: object) -> str:
    return "absent" if value is None or value == [] else json.dumps(value)
