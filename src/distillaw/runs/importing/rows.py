"""A log becomes rows of the run table: units converted, what cannot be used left out with its reason."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from distillaw.errors import ConfigError, UnitError
from distillaw.quantities import format_count, parse_count
from distillaw.runs.files import content_hash
from distillaw.runs.importing.log import Log, number
from distillaw.runs.importing.names import Names
from distillaw.runs.importing.params import Convention
from distillaw.runs.importing.points import (
    At,
    NotUsableError,
    Timeline,
    choose_points,
    counts_steps,
    schedule_before_end,
    timeline,
    unfinished,
)
from distillaw.runs.importing.units import Unit

_NUMBERS = ("teacher_tokens", "lambda", "temperature", "layers", "width", "seed", "peak_lr", "batch_tokens",
            "unique_tokens", "vocab_size", "train_flops", "seconds")  # fmt: skip
_TEXTS = ("init", "device", "teacher_run")
Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A run that was left out."""

    run: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for all runs of a source."""

    names: Names
    unit: Unit
    convention: Convention
    at: At | None
    tokens_per_step: float | None
    keep_unfinished: bool


@dataclass(slots=True)
class Harvest:
    """Rows of a source, what was left out, and what was noticed on the way."""

    rows: list[Row] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """How many rows lie before the end of their run, by what is known of the learning rate there."""
    short: list[str] = field(default_factory=list)
    """Runs whose last loss lies well before their end."""
    several: int = 0
    """Runs that have more than one measurement."""


def harvest(logs: tuple[Log, ...], rules: Rules) -> Harvest:
    """The rows of a source's runs."""
    found = Harvest()
    for log in logs:
        try:
            _add(found, log, rules)
        except (NotUsableError, UnitError) as error:
            found.left.append(Left(run=log.name, source=str(log.source), reason=str(error)))
    return found


def _add(found: Harvest, log: Log, rules: Rules) -> None:
    why = unfinished(log, rules.names)
    if why and not rules.keep_unfinished:
        raise NotUsableError(why)
    line = timeline(log, rules.names, rules.tokens_per_step)
    chosen = choose_points(line, rules.at)
    found.several += len(line.loss) > 1
    rows = [_row(log, rules, line, i) for i in chosen]
    if len(rows) > 1:
        for row in rows:
            row["run_id"] = f"{row['run_id']}-{format_count(float(row['tokens']), digits=4)}"  # type: ignore[arg-type]
    _keep_apart(rows)
    for i in chosen:
        state = schedule_before_end(log, rules.names, line, i)
        if state is None:
            continue
        if rules.at in (None, "last"):
            found.short.append(f"{log.name} (at {format_count(line.tokens[i])} of {format_count(line.end)})")
        else:
            found.seen[state] += 1
    found.rows += rows


def _keep_apart(rows: list[Row]) -> None:
    """Token counts that read alike must not give one id to two rows."""
    if len(rows) == 1:
        return
    seen: Counter[object] = Counter(row["run_id"] for row in rows)
    for row in rows:
        if seen[row["run_id"]] > 1:
            row["run_id"] = f"{str(row['run_id']).rsplit('-', 1)[0]}-{row['tokens']}"


def _row(log: Log, rules: Rules, line: Timeline, index: int) -> Row:
    get = _Reader(log, rules.names, float(_own_position(log, rules, line, index)))
    width = get.number("width")
    params, total = rules.convention.counts(get.needed("params"), get.number("total_params"), width)
    loss = float(line.loss[index])
    identity = content_hash(list(log.identity))
    group = f"{_slug(log.name)}-{identity}"
    row: Row = {
        "run_id": group, "group": get.text("group") or group,
        "role": "student", "params": round(params), "total_params": None if total is None else round(total),
        "params_convention": rules.convention.written, "tokens": round(float(line.tokens[index])),
        "loss": rules.unit.convert(loss), "steps": _steps(log, rules, line, index),
        "source_kind": log.kind, "source": str(log.source), "source_run": log.name, "source_sha256": log.sha256,
        "source_id": identity, "source_names": (log.name, *log.aliases),
    }  # fmt: skip
    row |= {name: get.number(name) for name in _NUMBERS} | {name: get.text(name) for name in _TEXTS}
    for name in ("teacher_loss", "supervised_loss"):
        value = get.number(name)
        row[name] = None if value is None else rules.unit.convert(value)
    error = get.number("loss_se")
    row["loss_se"] = None if error is None else error * rules.unit.slope(loss)
    row["teacher_params"] = _teacher_params(get, rules.convention)
    return row


def _steps(log: Log, rules: Rules, line: Timeline, index: int) -> int | None:
    if not log.in_time:  # rows of a table, which have their step beside them
        value = _Reader(log, rules.names, float(line.at[index])).number("step")
        return None if value is None else round(value)
    return round(float(line.at[index])) if counts_steps(log, rules.names) else None


def _teacher_params(get: "_Reader", convention: Convention) -> float | None:
    """In the students' convention; None where it cannot be brought there."""
    params = get.number("teacher_params")
    if params is None or convention.vocab is None:
        return params
    width = get.number("teacher_width")
    return None if width is None else convention.counts(params, None, width)[0]


def _own_position(log: Log, rules: Rules, line: Timeline, index: int) -> float:
    series = log.history.get(rules.names["loss"].column)
    return float(series.at[index]) if series is not None else float("inf")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Values of one run at one moment."""

    log: Log
    names: Names
    at: float

    def number(self, name: str) -> float | None:
        """A finite number, or None; the last one logged up to the moment, of a rate the highest."""
        if name not in self.names:
            return None
        column = self.names[name].column
        series = self.log.history.get(column)
        if series is None:
            value = _count(self.log.constants.get(column))
        elif name == "peak_lr":
            value = float(np.nanmax(series.value))
        else:
            value = float(series.value[max(0, int(np.searchsorted(series.at, self.at, side="right")) - 1)])
        return value if value is not None and np.isfinite(value) else None

    def needed(self, name: str) -> float:
        value = self.number(name)
        if value is None or value <= 0:
            raise NotUsableError(f"no {self.names[name].column}" if value is None else f"{name} is {value:g}")
        return value

    def text(self, name: str) -> str | None:
        if name not in self.names:
            return None
        value = self.log.constants.get(self.names[name].column)
        return None if value in (None, "") or value != value else str(value)


def _count(value: object) -> float | None:
    """A number, also one written as `124M`."""
    plain = number(value)
    if plain is None and isinstance(value, str):
        try:
            return parse_count(value)
        except ConfigError:
            return None
    return plain


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:40] or "run"


def number_repeats(rows: list[Row]) -> int:
    """Give rows without a seed one of their own within their cell; returns how many repeat a cell.

    Repeats of a cell must not look like one run. The numbers do not say that two arms shared a seed.
    """
    unknown = [row for row in rows if row.get("seed") is None]
    taken: dict[tuple, set[int]] = {}
    free: dict[tuple, int] = {}
    for row in rows:
        if row.get("seed") is not None:
            taken.setdefault(_cell(row), set()).add(int(row["seed"]))  # type: ignore[call-overload]
    for row in unknown:
        cell = _cell(row)
        seed, seeds = free.get(cell, 0), taken.get(cell, ())
        while seed in seeds:
            seed += 1
        row["seed"], free[cell] = seed, seed + 1
    return sum(row["seed"] != 0 for row in unknown)


def _cell(row: Mapping[str, object]) -> tuple:
    return row["params"], row["tokens"], row.get("teacher_run"), row.get("teacher_loss"), row.get("lambda")
