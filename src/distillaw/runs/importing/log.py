"""One run as some tool has logged it, and which of its moments become rows: its end, all, or those at chosen tokens.

A row is (tokens, loss). Tokens and held-out loss are rarely logged together: tokens are taken at the step of the
loss, between two logged values by interpolation in steps (exact while the batch is constant).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError, DataError
from distillaw.quantities import format_count, parse_count
from distillaw.runs.importing.names import Array, Names

_MISSING = {"", "none", "null", "na", "n/a"}
"""Texts of an empty cell. `nan` is not among them: a logged NaN says that a run has diverged."""


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over a run; what was not logged is absent, what was logged as NaN is there."""

    at: Array
    """Where on the log's own axis (steps, or rows of a file), ascending, shape (n,)."""
    value: Array
    """Shape (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One source run."""

    kind: str
    """`wandb`, `trackio`, `tensorboard` or `table`."""
    source: Path
    """The file or folder that holds it."""
    name: str
    identity: tuple[str, ...]
    """What makes it this run wherever its files lie; equal for copies and for later states of the same run."""
    history: Mapping[str, Series]
    constants: Mapping[str, object] = field(default_factory=dict)
    """Settings and summaries, flattened with dots."""
    steps: bool = False
    """The log's own axis is known to count optimiser steps."""
    in_time: bool = True
    """The history is one training, in which of two values at one moment the later counts; else rows of a table."""
    differs: tuple[str, ...] = ()
    """Text columns of a table that differ between the rows of this run."""
    trouble: str = ""
    """Why it is no finished run; empty where nothing says so."""
    sha256: str = ""
    aliases: tuple[str, ...] = ()
    """Other names that may refer to it as a teacher, e.g. the tracker's run id."""

    @property
    def names(self) -> list[str]:
        """All columns, those with a history first."""
        return list(dict.fromkeys([*self.history, *self.constants]))

    def with_constants(self, values: Mapping[str, object]) -> "Log":
        """The same run with these settings, which replace logged quantities of the same name."""
        history = {name: series for name, series in self.history.items() if name not in values}
        return replace(self, history=history, constants={**self.constants, **values})

    def followed_by(self, later: "Log") -> "Log":
        """A run that was resumed in another file: the later file counts from where it begins."""
        starts = [series.at[0] for series in later.history.values() if len(series.at)]
        start = min(starts) if starts else np.inf
        joined = dict.fromkeys([*self.history, *later.history], _EMPTY)
        for name in joined:
            old, new = self.history.get(name, _EMPTY), later.history.get(name, _EMPTY)
            keep = old.at < start
            at, value = np.concatenate([old.at[keep], new.at]), np.concatenate([old.value[keep], new.value])
            joined[name] = Series(at, value)
        sha256 = sha256_of_parts([self.sha256, later.sha256])
        return replace(later, history=joined, constants={**self.constants, **later.constants}, sha256=sha256)


_EMPTY = Series(np.empty(0), np.empty(0))


def number(value: object) -> float | None:
    """A number, NaN and infinity included; None for what is empty or is no number."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    if isinstance(value, str) and value.strip().lower() not in _MISSING:
        try:
            return float(value)
        except ValueError:
            return None
    return None


def gather(rows: Iterable[tuple[float, Mapping[str, object]]]) -> dict[str, Series]:
    """The numbers of logged rows as one series a name, in order of position; of equal positions the last counts."""
    found: dict[str, dict[float, float]] = {}
    for position, row in rows:
        for name, value in row.items():
            x = number(value)
            if x is not None:
                found.setdefault(name, {})[position] = x
    return {name: series_of(points) for name, points in found.items()}


def series_of(points: Mapping[float, float]) -> Series:
    """A series of {position: value}."""
    at = np.array(sorted(points), dtype=np.float64)
    return Series(at, np.array([points[x] for x in at], dtype=np.float64))


_DEEPEST = 40
"""Levels of settings that are looked into; nobody nests theirs so deeply."""


def flatten(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as `model.n_layer`; lists are kept as they are."""
    flat: dict[str, object] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping) and prefix.count(".") < _DEEPEST:
            flat |= flatten(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat


def sha256_of_parts(hashes: list[str]) -> str:
    """One hash for several; a single one stays as it is."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


At = str | tuple[float, ...]
NEAR = 0.05
"""A measurement counts as one at the tokens asked for within this share of them."""
_DECAYED = 0.5
"""A schedule decays if its last rate is below this share of the highest."""


class NotUsableError(DataError):
    """A run that gives no row; the message is the reason."""


def parse_at(text: str) -> At:
    """`last`, `all`, or token counts such as `1B,2B,5B`."""
    if text in ("last", "all"):
        return text
    try:
        return tuple(sorted(parse_count(part, name="--at") for part in text.split(",")))
    except ConfigError:
        raise ConfigError(f"--at: got {text!r}; give last, all, or token counts such as 1B,2B,5B") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Where each held-out loss of a run was measured."""

    at: Array
    """Position on the log's axis (steps where known), shape (n,)."""
    tokens: Array
    """Training tokens, NaN where not known, shape (n,)."""
    loss: Array
    """As logged, shape (n,)."""
    end: float
    """Tokens at which the log ends."""
    in_time: bool
    """Of several losses at the same tokens the later one counts."""
    differs: str = ""
    """What tells rows at the same tokens apart, for a message."""


def timeline(log: Log, names: Names, tokens_per_step: float | None) -> Timeline:
    """Losses with their tokens."""
    loss = log.history.get(names["loss"].column)
    if loss is None:  # a summary value stands for the end of the run
        value = number(log.constants.get(names["loss"].column))
        if value is None:
            raise NotUsableError(f"no {names['loss'].column}")
        loss = Series(np.array([_last(log)]), np.array([value]))
    at = steps_of(log, names, loss.at) if log.in_time else loss.at
    tokens, end = _tokens(log, names, loss, at, tokens_per_step)
    differs = f" that differ in {', '.join(log.differs)}" if log.differs else ""
    return Timeline(at=at, tokens=tokens, loss=loss.value, end=end, in_time=log.in_time, differs=differs)


def _tokens(log: Log, names: Names, loss: Series, at: Array, tokens_per_step: float | None) -> tuple[Array, float]:
    """Tokens at each loss, and at the end of the log."""
    if tokens_per_step is not None:
        return at * tokens_per_step, _end(log, names) * tokens_per_step
    column = names["tokens"].column
    series = log.history.get(column)
    if series is None:  # a setting: the whole run's
        value = number(log.constants.get(column))
        if value is None:
            raise NotUsableError(f"no {column}")
        return np.where(at == at[-1], value, np.nan), value
    end = float(np.nanmax(series.value))
    if not log.in_time:
        known = dict(zip(series.at, series.value, strict=True))
        return np.array([known.get(x, np.nan) for x in loss.at]), end
    where = steps_of(log, names, series.at)
    tokens = np.interp(at, where, series.value, left=np.nan)
    gap = np.median(np.diff(where)) if len(where) > 1 else 0.0
    tokens[at > where[-1] + max(gap, 1.0)] = np.nan  # further on than one interval: not known
    return tokens, end


def steps_of(log: Log, names: Names, at: Array) -> Array:
    """Positions in steps where the log names its step, between named ones by interpolation."""
    step = log.history.get(names["step"].column) if "step" in names else None
    if step is None or not len(step.at):
        return at
    return np.interp(at, step.at, step.value)


def counts_steps(log: Log, names: Names) -> bool:
    """Whether positions are optimiser steps: by the tracker's nature, or because the log names its step."""
    return log.steps or ("step" in names and names["step"].column in log.history)


def _last(log: Log) -> float:
    return max((float(s.at[-1]) for s in log.history.values() if len(s.at)), default=0.0)


def _end(log: Log, names: Names) -> float:
    return float(steps_of(log, names, np.array([_last(log)]))[0])


def unfinished(log: Log, names: Names) -> str:
    """Why the run is no finished one; empty where nothing says so."""
    if log.trouble:
        return log.trouble
    if "planned_steps" not in names or not log.in_time or not counts_steps(log, names):
        return ""
    planned = number(log.constants.get(names["planned_steps"].column))
    end = _end(log, names)
    if planned is None or planned <= 0 or end >= 0.98 * planned - 1:
        return ""
    return f"stopped at step {end:.0f} of {planned:.0f} ({names['planned_steps'].column})"


def choose_points(line: Timeline, at: At | None) -> list[int]:
    """Indices of the measurements that become rows, in order of tokens."""
    usable = np.flatnonzero(np.isfinite(line.tokens) & (line.tokens > 0))
    if not len(usable):
        raise NotUsableError("no loss with its tokens was logged")
    order = usable[np.argsort(line.tokens[usable], kind="stable")]
    if line.in_time:
        order = order[np.append(np.diff(line.tokens[order]) > 0, True)]
    if at == "all":
        chosen = [int(i) for i in order]
    elif at is None or at == "last":
        chosen = [int(i) for i in order[line.tokens[order] == line.tokens[order[-1]]]]
    else:
        chosen = _nearest(line.tokens, order, [float(x) for x in at])
    bad = [i for i in order if i <= max(chosen) and not (np.isfinite(line.loss[i]) and line.loss[i] > 0)]
    if bad:
        text = "diverged: " if np.isnan(line.loss[bad[0]]) else ""
        raise NotUsableError(f"{text}its loss is {line.loss[bad[0]]:g} at {format_count(line.tokens[bad[0]])} tokens")
    counts = line.tokens[chosen]
    if len(np.unique(counts)) < len(counts):
        twice = next(x for x in counts if (counts == x).sum() > 1)
        raise NotUsableError(
            f"{int((counts == twice).sum())} losses at the same {format_count(twice)} tokens{line.differs}: several "
            "measurements or runs under one name? Choose with --where COLUMN=VALUE, or name the runs with --columns "
            "run=COLUMN"
        )
    return chosen


def _nearest(tokens: Array, order: np.ndarray, wanted: Sequence[float]) -> list[int]:
    found = []
    for count in wanted:
        i = int(order[np.argmin(np.abs(tokens[order] - count))])
        if abs(tokens[i] / count - 1) <= NEAR and i not in found:
            found.append(i)
    if not found:
        spoken = ", ".join(format_count(x) for x in wanted)
        raise NotUsableError(f"no loss within {NEAR:.0%} of {spoken} tokens")
    return sorted(found, key=lambda i: tokens[i])


def schedule_before_end(log: Log, names: Names, line: Timeline, index: int) -> str | None:
    """What the learning rate was doing at a row before the end of its run.

    Returns:
        `decaying` (it still had to fall), `constant`, `unknown` (not logged), or None for a row at the end.
    """
    if line.tokens[index] >= 0.98 * line.end:
        return None
    rate = log.history.get(names["rate"].column) if "rate" in names else None
    if rate is None or len(rate.value) < 3:
        return "unknown"
    if log.in_time:
        end, here = rate.value[-1], np.interp(line.at[index], steps_of(log, names, rate.at), rate.value)
    else:  # rows of a table, in any order
        known = dict(zip(rate.at, rate.value, strict=True))
        end, here = (known.get(line.at[i], np.nan) for i in (int(np.nanargmax(line.tokens)), index))
        if not here > 1.5 * end:  # also one rate for all rows, which may be the peak's
            return "unknown"
    if end >= _DECAYED * rate.value.max():
        return "constant"
    return "decaying" if here > 1.5 * end else None
