"""A source's runs become rows of the run table: units converted, what cannot be used left out with its reason.

Two readers, one for logs and one for a table whose rows are runs, give the same columns of values as they were found;
everything after is arithmetic on columns.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distillaw.errors import ConfigError, DataError
from distillaw.quantities import format_count, parse_count
from distillaw.runs.files import content_hash
from distillaw.runs.importing.log import (
    At,
    Log,
    NotUsableError,
    Timeline,
    choose_points,
    counts_steps,
    number,
    schedule_before_end,
    timeline,
    unfinished,
)
from distillaw.runs.importing.names import Convention, Names, Unit
from distillaw.runs.importing.sources import LoneRuns, RunSource
from distillaw.runs.importing.table import Array, ImportedRows, numbers, objects, texts

_TEXTS = ("group", "arm", "init", "start_run", "device", "teacher_run")
_READ = (
    "teacher_tokens lambda temperature layers width seed peak_lr batch_tokens unique_tokens vocab_size train_flops "
    "seconds params total_params teacher_loss supervised_loss loss_se teacher_params teacher_width start_params"
).split()
"""Numbers that are looked up by name; loss, tokens and steps belong to a moment of a run."""
Found = dict[str, NDArray]
"""Columns as a source has them: `_READ`, `_TEXTS`, loss, tokens, steps, and whose; `place` counts runs."""


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


@dataclass(slots=True, kw_only=True)
class Harvest:
    """Rows of a source, what was left out, and what was noticed on the way."""

    rows: ImportedRows
    left: list[Left]
    seen: Counter[str] = field(default_factory=Counter)
    """How many rows lie before the end of their run, by what is known of the learning rate there."""
    short: list[str] = field(default_factory=list)
    """Runs whose last loss lies well before their end."""
    several: int = 0
    """Runs that have more than one measurement."""


def harvest(source: RunSource, rules: Rules) -> Harvest:
    """The rows of a source's runs, and those that cannot be used, in the order in which the source has them."""
    left: dict[int, Left] = {}
    chosen: dict[int, Moments] = {}
    for place, log in source.placed_logs():
        try:
            chosen[place] = _moments(log, rules)
        except NotUsableError as error:
            left[place] = Left(run=log.name, source=str(log.source), reason=str(error))
    parts = [_of_logs(chosen, rules)] if chosen else []
    if source.lone is not None:
        parts.append(_of_lone(source.lone, rules, left))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    several = sum(len(moments.line.loss) > 1 for moments in chosen.values())
    if not found or not len(found["place"]):
        everyone = [left[place] for place in sorted(left)]
        return Harvest(rows=ImportedRows.of(0, {}), left=everyone, several=several)
    found = _taken(found, np.argsort(found["place"], kind="stable"))
    rows, refused = _converted(found, rules)
    for i, reason in sorted(refused.items()):
        run = Left(run=found["source_run"][i], source=found["source"][i], reason=reason)
        left.setdefault(int(found["place"][i]), run)
    keep = ~np.isin(found["place"], list(left))
    rows, everyone = _named(rows.take(keep), found["place"][keep]), [left[place] for place in sorted(left)]
    result = Harvest(rows=rows, left=everyone, several=several)
    for place in sorted(chosen.keys() - left.keys()):
        _note_moments(result, chosen[place], rules)
    return result


def _taken(found: Found, index: NDArray) -> Found:
    return {name: column[index] for name, column in found.items()}


@dataclass(frozen=True, slots=True)
class Moments:
    """A logged run and its measurements that become rows."""

    log: Log
    line: Timeline
    indices: Sequence[int]


def _moments(log: Log, rules: Rules) -> Moments:
    why = unfinished(log, rules.names)
    if why and not rules.keep_unfinished:
        raise NotUsableError(why)
    line = timeline(log, rules.names, rules.tokens_per_step)
    return Moments(log, line, choose_points(line, rules.at))


def _note_moments(result: Harvest, moments: Moments, rules: Rules) -> None:
    log, line = moments.log, moments.line
    for i in moments.indices:
        state = schedule_before_end(log, rules.names, line, i)
        if state is None:
            continue
        if rules.at in (None, "last"):
            result.short.append(f"{log.name} (at {format_count(line.tokens[i])} of {format_count(line.end)})")
        else:
            result.seen[state] += 1


def _of_logs(chosen: Mapping[int, Moments], rules: Rules) -> Found:
    """The chosen moments of logged runs, one row each."""
    rows = []
    for place, moments in chosen.items():
        log = moments.log
        whose = {
            "source_kind": log.kind,
            "source": str(log.source),
            "source_run": log.name,
            "source_id": content_hash(list(log.identity)),
            "source_sha256": log.sha256,
            "aliases": (log.name, *log.aliases),
        }
        rows += [{"place": place, **whose, **_at_moment(moments, rules, i)} for i in moments.indices]
    found: Found = {"place": np.array([row["place"] for row in rows], dtype=np.int64)}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in (*_READ, "loss", "tokens", "steps"):
            found[name] = np.array(values, dtype=np.float64)
        elif name != "place":
            found[name] = objects(values)
    return found


def _at_moment(moments: Moments, rules: Rules, index: int) -> dict[str, object]:
    log, line, names = moments.log, moments.line, rules.names
    loss = log.history.get(names["loss"].column)
    get = _Reader(log, names, float(loss.at[index]) if loss is not None else np.inf)
    steps = np.nan
    if not log.in_time:  # rows of a table, which have their step beside them
        steps = _Reader(log, names, float(line.at[index])).number("step")
    elif counts_steps(log, names):
        steps = float(line.at[index])
    return {
        "loss": line.loss[index],
        "tokens": line.tokens[index],
        "steps": steps,
        **{name: get.number(name) for name in _READ},
        **{name: get.text(name) for name in _TEXTS},
    }


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
            value = count(self.log.constants.get(column))
        elif name == "peak_lr":
            value = float(np.nanmax(series.value))
        else:
            value = float(series.value[max(0, int(np.searchsorted(series.at, self.at, side="right")) - 1)])
        return value if value is not None and np.isfinite(value) else None

    def text(self, name: str) -> str | None:
        return texts([self.log.constants.get(self.names[name].column)])[0] if name in self.names else None


def count(value: object) -> float | None:
    """A number, also one written as `124M`."""
    plain = number(value)
    if plain is None and isinstance(value, str):
        try:
            return parse_count(value)
        except ConfigError:
            return None
    return plain


def _of_lone(runs: LoneRuns, rules: Rules, left: dict[int, Left]) -> Found:
    """The rows of a table, each of them a finished run; what gives no row is left out."""
    names, size, stem = rules.names, len(runs), runs.source.stem
    loss, has_loss = numbers(runs.column(names["loss"].column))
    tokens, has_tokens = np.zeros(size), np.ones(size, dtype=bool)
    if rules.tokens_per_step is None:
        tokens, has_tokens = numbers(runs.column(names["tokens"].column))
    reasons = [""] * size if rules.keep_unfinished else list(runs.troubles)
    for name, has in (("loss", has_loss), ("tokens", has_tokens)):
        for i in np.flatnonzero(~has):
            reasons[i] = reasons[i] or f"no {names[name].column}"
    for i, reason in _not_chosen(tokens, loss, rules.at).items():
        reasons[i] = reasons[i] or reason
    source, lost = str(runs.source), np.array([reason != "" for reason in reasons], dtype=bool)
    for i in np.flatnonzero(lost).tolist():
        left[int(runs.places[i])] = Left(run=runs.names[i], source=source, reason=reasons[i])
    found: Found = {
        "place": runs.places,
        "source_kind": np.full(size, "table", dtype=object),
        "source": np.full(size, source, dtype=object),
        "source_run": objects(runs.names),
        "source_id": objects([content_hash(["table", digest]) for digest in runs.digests]),
        "source_sha256": np.full(size, runs.sha256, dtype=object),
        "aliases": objects([(name, f"{stem}/{name}") for name in runs.names]),
        "loss": loss,
        "tokens": tokens,
    }
    for name in ("steps", *_READ):
        column = names.get("step" if name == "steps" else name)
        values = np.full(size, np.nan) if column is None else numbers(runs.column(column.column), count)[0]
        found[name] = np.where(np.isfinite(values), values, np.nan)
    for name in _TEXTS:
        found[name] = texts(runs.column(names[name].column) if name in names else [None] * size)
    return _taken(found, ~lost)


def _not_chosen(tokens: Array, loss: Array, at: At | None) -> dict[int, str]:
    """Rows that are no measurement to take, and why."""
    is_plain = (loss > 0) & (tokens > 0) & np.isfinite(loss) & np.isfinite(tokens)
    reasons = {}
    for i in range(len(loss)) if isinstance(at, tuple) else np.flatnonzero(~is_plain).tolist():
        try:
            alone = {"at": np.zeros(1), "tokens": tokens[[i]], "loss": loss[[i]], "end": tokens[i]}
            choose_points(Timeline(**alone, in_time=False), at)
        except NotUsableError as error:
            reasons[i] = str(error)
    return reasons


def _converted(found: Found, rules: Rules) -> tuple[ImportedRows, dict[int, str]]:
    """Rows in our units and convention, and what cannot be brought there: {row: why}."""
    unit, convention, column = rules.unit, rules.convention, rules.names["params"].column
    params, total, refused = convention.counts(found["params"], found["total_params"], found["width"])
    for i in np.flatnonzero(~(found["params"] > 0)):
        value = found["params"][i]
        refused[int(i)] = f"no {column}" if np.isnan(value) else f"params is {value:g}"
    teachers, width = found["teacher_params"], found["teacher_width"]
    if convention.vocab is not None:  # in the students' convention; missing where it cannot be brought there
        teachers, _, wrong = convention.counts(teachers, teachers, width)
        refused = {**{i: why for i, why in wrong.items() if not np.isnan(width[i])}, **refused}
        for i in np.flatnonzero(~np.isnan(found["start_params"])):
            why = "start_params counts the embedding, and no width of that model converts it"
            refused.setdefault(int(i), f"{why} (--columns start_params=none leaves the size to start_run)")
    size = len(params)
    with np.errstate(invalid="ignore", divide="ignore"):
        converted = {name: unit.convert(found[name]) for name in ("loss", "teacher_loss", "supervised_loss")}
        converted["loss_se"] = found["loss_se"] * unit.slope(found["loss"])
    slugs = [_NOT_PLAIN.sub("-", name).strip("-.")[:40] or "run" for name in found["source_run"]]
    run_id = [f"{slug}-{own}" for slug, own in zip(slugs, found["source_id"], strict=True)]
    group = [told or own for told, own in zip(found["group"], run_id, strict=True)]
    ours = {
        "run_id": objects(run_id),
        "group": objects(group),
        "role": np.full(size, "student", dtype=object),
        "params": params,
        "total_params": total,
        "params_convention": np.full(size, convention.written, dtype=object),
        "teacher_params": teachers,
    }
    return ImportedRows.of(size, {**found, **converted, **ours}), refused


_NOT_PLAIN = re.compile(r"[^A-Za-z0-9.]+")


def _named(rows: ImportedRows, place: NDArray) -> ImportedRows:
    """Rows of one run named by their tokens too; by every digit where these read alike."""
    run_id = rows["run_id"].copy()
    for run in np.flatnonzero(np.bincount(place) > 1):  # rows lie by place
        mine = range(*np.searchsorted(place, [run, run + 1]))
        tokens = rows["tokens"][mine]
        ends = [format_count(float(x), digits=4) for x in tokens]
        alike = Counter(ends)
        for i, end, exact in zip(mine, ends, tokens, strict=True):
            run_id[i] = f"{run_id[i]}-{end if alike[end] == 1 else int(exact)}"
    return rows.with_columns(run_id=run_id)


def number_repeats(rows: ImportedRows) -> tuple[ImportedRows, int]:
    """Rows that lack a seed get one of their own within their cell; how many of these repeat a cell.

    Repeats of a cell must not look like one run. The numbers do not say that two arms shared a seed.
    """
    seed = rows["seed"].copy()
    unknown = np.isnan(seed)
    if not unknown.any():
        return rows, 0
    cells = list(zip(*(rows.plain(name) for name in _CELL), strict=True))
    taken: dict[tuple, set[int]] = {}
    for i in np.flatnonzero(~unknown):
        taken.setdefault(cells[i], set()).add(int(seed[i]))
    free: dict[tuple, int] = {}
    for i in np.flatnonzero(unknown):
        number, seeds = free.get(cells[i], 0), taken.get(cells[i], ())
        while number in seeds:
            number += 1
        seed[i], free[cells[i]] = number, number + 1
    return rows.with_columns(seed=seed), int(np.count_nonzero(seed[unknown]))


_CELL = ("params", "tokens", "arm", "start_run", "teacher_run", "teacher_loss", "lambda")


def link_teachers(rows: ImportedRows, others: ImportedRows) -> tuple[ImportedRows, list[Left]]:
    """Rows with what is known of their teacher and of what they were cut out of.

    Distilled rows whose teacher's loss is not known are left out.

    A student without `teacher_loss` counts as trained on data alone in every fit: such a mistake would be silent.

    Args:
        rows: of all sources together, so that teacher and students may come from different ones.
        others: rows of run tables, which are right as they are and may be teachers too.
    """
    every = ImportedRows.joined([rows, others])
    wanted = {name for column in _MODELS for name in rows[column] if name}
    known = _by_name(every, wanted)
    linked = {name: rows[name].copy() for column, also in _MODELS.items() for name in (column, *also)}
    for column, also in _MODELS.items():
        for i in np.flatnonzero([bool(name) for name in rows[column]]):
            model = _model(every, int(i), column, known)
            if model is None:
                continue
            linked[column][i] = every["run_id"][model]
            for name, own in also.items():
                values = linked[name]
                values[i] = every[own][model] if np.isnan(values[i]) else values[i]
    rows = rows.with_columns(**linked)
    reasons = _hidden_teachers(rows)
    runs, sources = rows["source_run"], rows["source"]
    left = [Left(run=runs[i], source=sources[i], reason=reason) for i, reason in reasons.items()]
    return _marked(rows.take(np.setdiff1d(np.arange(len(rows)), list(reasons)))), left


_MODELS = {
    "teacher_run": {"teacher_loss": "loss", "teacher_params": "params", "teacher_tokens": "tokens"},
    "start_run": {"start_params": "params"},
}
"""Columns that name another run, and what is known of that run where the row does not say it."""


def _by_name(rows: ImportedRows, wanted: set[str]) -> dict[str, list[int]]:
    """Rows by the names that may stand for them, of those names that are wanted."""
    known: dict[str, list[int]] = {}
    if wanted:
        for i, (run_id, aliases) in enumerate(zip(rows["run_id"], rows["aliases"], strict=True)):
            for name in wanted.intersection((run_id, *aliases)):
                known.setdefault(name, []).append(i)
    return known


def _model(rows: ImportedRows, student: int, column: str, known: Mapping[str, Sequence[int]]) -> int | None:
    """The row of the run that a student names there; None where it is not among these."""
    named, source = rows[column][student], rows["source"]
    fits = [i for i in known.get(named, ()) if i != student]
    here = [i for i in fits if source[i] == source[student]] or fits
    if len({rows["group"][i] for i in here}) > 1:
        raise DataError(
            f"{rows['source_run'][student]}: {column} {named!r} could be any of {len(here)} runs of that name; name "
            "it by its run id"
        )
    return max(here, key=lambda i: rows["tokens"][i], default=None)


def _hidden_teachers(rows: ImportedRows) -> dict[int, str]:
    """Rows that had a teacher whose loss nobody gives: {row: how one knows}."""
    weight, size = np.nan_to_num(rows["lambda"]), np.nan_to_num(rows["teacher_params"])
    is_named = np.array([bool(name) for name in rows["teacher_run"]], dtype=bool)
    is_hidden = np.isnan(rows["teacher_loss"]) & (is_named | (weight != 0) | (size != 0))
    reasons = {}
    for i in np.flatnonzero(is_hidden).tolist():
        if is_named[i]:
            teacher = rows["teacher_run"][i]
            reasons[i] = f"its teacher {teacher} is not among the runs and no teacher_loss is given"
        elif weight[i]:
            reasons[i] = f"lambda is {weight[i]}, so it was distilled, but no teacher_loss is given"
        else:
            reasons[i] = "it has teacher_params, but no teacher_loss is given"
    return reasons


def _marked(rows: ImportedRows) -> ImportedRows:
    """Roles, and the teacher's run of students that only know its loss: equal losses are one teacher."""
    named = rows["teacher_run"]
    teachers = set(filter(None, (*named, *rows["start_run"])))
    pairs = zip(rows["run_id"], rows["role"], strict=True)
    role = ["teacher" if run in teachers else own for run, own in pairs]
    purpose = ["teacher" if own == "teacher" else "grid" for own in role]
    losses = rows.plain("teacher_loss")
    by_loss = [None if loss is None else f"teacher-of-loss-{loss:.6g}" for loss in losses]
    run = [name or other for name, other in zip(named, by_loss, strict=True)]
    return rows.with_columns(role=objects(role), purpose=objects(purpose), teacher_run=objects(run))
