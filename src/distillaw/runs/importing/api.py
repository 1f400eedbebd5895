"""`import_runs`: other people's runs, from files of any tool, as rows of the run table."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError, DataError
from distillaw.quantities import did_you_mean
from distillaw.runs.importing.log import At, parse_at
from distillaw.runs.importing.names import (
    RUN_NAMES,
    ColumnChoice,
    Names,
    check_level,
    check_told,
    choose_names,
    find_column,
    find_convention,
    first_of,
    loss_unit,
    require,
)
from distillaw.runs.importing.rows import Harvest, Left, Rules, harvest, link_teachers, number_repeats
from distillaw.runs.importing.sources import RunSource, open_source, with_details
from distillaw.runs.importing.table import ImportedRows, Merged, Target, check_conventions, save
from distillaw.runs.table import read_columns
from distillaw.version import __version__

_SHOWN = 5
"""Names listed in a message before it says how many more there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user says about the sources; nothing said is guessed with a reason, or asked for."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """{our name: column}; the column `none` turns a guess off."""
    where: Mapping[str, str] = field(default_factory=dict)
    """{column: value}: only these runs, or rows of a table."""
    at: str | None = None
    """Which losses of a run become rows: last, all, or token counts such as 1B,2B; by default the last of a log."""
    fixed: Mapping[str, object] = field(default_factory=dict)
    """{our name: value} of all runs, for what no log holds."""
    details: Path | None = None
    """A table with one row per run, named in its column `run`, for what the logs do not hold."""
    tokens_per_step: float | None = None
    """Tokens of one optimiser step, where only steps were logged."""
    unit: str | None = None
    """Of the losses; converted to nats per token."""
    bytes_per_token: float | None = None
    """Of the held-out text, for --unit bits-per-byte."""
    params_convention: str | None = None
    """What the params column counts."""
    vocab: float | None = None
    """Vocabulary size; turns total parameters into non-embedding ones (total - vocab x width)."""
    matrices: int = 1
    """Vocabulary x width matrices in the totals: 2 with a head of its own."""
    keep_unfinished: bool = False
    """Take runs too that crashed or stopped early."""
    layout: str = "auto"
    """Of tables: rows are runs (or checkpoints of named runs), or the file is the log of one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What was understood of one source."""

    path: Path
    kind: str
    taken_for: str
    columns: Names
    loss_unit: str
    params_count: str
    rows: int

    def to_json(self) -> dict[str, object]:
        """For --json and the record."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Rows ready to be written, and everything that was assumed or left out on the way."""

    table: ImportedRows
    sources: Sequence[SourceReport]
    left_out: Sequence[Left]
    notes: Sequence[str]

    @property
    def rows(self) -> list[dict[str, object]]:
        """The rows as they will be written, one object each."""
        return self.table.to_arrow().to_pylist()

    def save(self, out: Path, *, command: str = "") -> Merged:
        """Write or extend the table at `out` (a folder or a .parquet file) with its record.

        Raises:
            ConfigError: something else has written there.
            UnitError: the table counts parameters otherwise.
            RunError: not writable.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"command": command, "version": __version__, "when": when, **self.to_json()}
        return save(Target.of(out), self.table, record)

    def to_json(self) -> dict[str, object]:
        """Sources, what was left out and why, notes."""
        sources, left = [source.to_json() for source in self.sources], [asdict(one) for one in self.left_out]
        return {"sources": sources, "left_out": left, "notes": list(self.notes)}


def import_runs(paths: Sequence[Path], options: Options) -> Import:
    """Read runs from files and folders of any known kind.

    Args:
        paths: CSV, TSV, JSON lines and Parquet files, W&B offline folders, trackio databases, TensorBoard folders,
            study folders; their runs are put together.

    Returns:
        Rows with the keys of the run table (losses in nats per token), not yet written.

    Raises:
        DataError: a path or a needed column is missing, or no run can be used.
        ConfigError: two columns could be one quantity, rows of unfinished moments were not asked for, or an option is
            not valid.
        UnitError: the unit of losses or the meaning of params is not clear.
    """
    told = _told(options)
    at = None if options.at is None else parse_at(options.at)
    details = _read_details(options.details)
    opening = {"told": told, "where": options.where, "layout": options.layout}
    opened = [open_source(Path(os.path.realpath(path)), **opening) for path in dict.fromkeys(paths)]
    sources = [with_details(source, details, options.fixed) for source in opened]
    _check_known(told, sources)
    runs = [run for source in sources for run in source.runs]
    if details and not set(runs) & set(details):
        raise DataError(f"--details: none of its runs ({_some(list(details))}) is among those read ({_some(runs)})")
    own = ImportedRows.joined([source.rows for source in sources if source.rows is not None])
    parts: list[ImportedRows] = []
    left: list[Left] = []
    notes: list[str] = []
    reports = []
    for source in sources:
        if source.rows is not None:
            stated = {"loss_unit": "nats per token", "params_count": "as in that table"}
            reports.append(_report(source, {}, len(source.rows), **stated))
            continue
        report, harvested, found = _take(source, told, at, options, alone=len(sources) == 1)
        reports.append(report)
        parts, left, notes = [*parts, harvested.rows], left + harvested.left, notes + found
    rows, copies = _without_copies(ImportedRows.joined(parts))
    rows, repeats = number_repeats(rows)
    if repeats:
        notes.append(f"{repeats} rows repeat a cell and name no seed: they are numbered 1, 2, ...")
    rows, untold = link_teachers(rows, own)
    everything = ImportedRows.joined([rows, own])
    everything = everything.take([*{key: i for i, key in enumerate(everything.keys)}.values()])
    if not len(everything):
        raise DataError(f"no run can be used: {_reasons([*left, *copies, *untold])}")
    check_conventions(everything)
    if len(reports) > 1:
        named = sorted({r.columns["loss"].column for r in reports if r.kind not in ("study", "table")})
        columns = f" (columns {', '.join(named)})" if len(named) > 1 else ""
        only = "losses of several sources compare only where they are of the same held-out text and tokenizer"
        notes.append(only + columns)
    return Import(table=everything, sources=reports, left_out=[*left, *copies, *untold], notes=notes)


def _told(options: Options) -> dict[str, str]:
    both = options.columns.keys() & options.fixed.keys()
    if both:
        raise ConfigError(f"{', '.join(sorted(both))}: given by --columns and by --set; keep one of them")
    return check_told({**options.columns, **{name: name for name in options.fixed}})


def _take(
    source: RunSource, told: Mapping[str, str], at: At | None, options: Options, *, alone: bool
) -> tuple[SourceReport, Harvest, list[str]]:
    """The rows of one source."""
    where, columns = str(source.path), source.columns
    if not columns:
        broken = [Left(run=log.name, source=where, reason=log.trouble or "empty") for log in source.logs]
        raise DataError(f"{where}: no run can be used: {_reasons(broken)}")
    finished_rows = source.lone is not None or not all(log.in_time for log in source.logs)
    names = dict(choose_names(columns, told, where=where, table=finished_rows, told_elsewhere=not alone))
    if options.tokens_per_step is not None:
        names["tokens"] = ColumnChoice("steps", f"steps x {options.tokens_per_step:g} tokens")
    require(names, columns, where=where)
    unit = loss_unit(names["loss"].column, options.unit, options.bytes_per_token)
    counted = {"told": options.params_convention, "vocab": options.vocab, "matrices": options.matrices}
    convention = find_convention(names["params"], names, **counted)
    if at is None:
        _ask_for_moment(source, names)
    rules = Rules(
        names=names,
        unit=unit,
        convention=convention,
        at=at,
        tokens_per_step=options.tokens_per_step,
        keep_unfinished=options.keep_unfinished,
    )
    found = harvest(source, rules)
    if not len(found.rows):
        raise DataError(f"{where}: no run can be used: {_reasons(found.left)}")
    check_level(found.rows["loss"], names["loss"].column, options.unit)
    stated = {"loss_unit": unit.stated, "params_count": convention.stated}
    report = _report(source, names, len(found.rows), **stated)
    return report, found, [f"{where}: {text}" for text in _moment_notes(found, at, names)]


def _report(source: RunSource, names: Names, rows: int, **stated: str) -> SourceReport:
    about = {"path": source.path, "kind": source.kind, "taken_for": source.taken_for}
    return SourceReport(**about, columns=names, rows=rows, **stated)  # type: ignore[arg-type]


def _ask_for_moment(source: RunSource, names: Names) -> None:
    """A table with several rows a run: its author knows whether they are checkpoints, the file does not."""
    for log in source.logs:
        tokens = log.history.get(names["tokens"].column)
        if not log.in_time and tokens is not None and len(np.unique(tokens.value)) > 1:
            raise ConfigError(
                f"{source.path}: {source.taken_for}, e.g. {len(tokens.value)} of {log.name}. Say --at last (the end of "
                "each run), --at all (every row, kept together by run: for cooled branches, or checkpoints at one "
                "constant rate), or --at 10B,20B. If that column names no runs: --columns run=COLUMN or run=none"
            )


_BEFORE_END = {
    "decaying": (
        "where the learning rate ({rate}) still had to fall: their losses are higher than those of runs that end "
        "there, and a law fitted to them is wrong. Use --at last"
    ),
    "constant": "at a constant learning rate: they compare with each other, not with cooled runs",
    "unknown": ("and no learning rate is logged: if it decayed, they are no finished runs and only --at last is right"),
}
"""What to know of rows before the end of their run, by what is known of the learning rate there."""


def _moment_notes(found: Harvest, at: At | None, names: Names) -> list[str]:
    notes = []
    if found.short:
        notes.append(
            f"the last held-out loss of {len(found.short)} runs lies before the end of training: {_some(found.short)}. "
            "With a decaying learning rate that is no finished run"
        )
    for kind, count in found.seen.items():
        rows = f"{count} of {len(found.rows)} rows lie before the end of their run"
        rate = names["rate"].column if "rate" in names else "none"
        notes.append(f"{rows}, {_BEFORE_END[kind].format(rate=rate)}")
    unique = found.rows["unique_tokens"]
    repeated = int(((unique != 0) & (unique < found.rows["tokens"])).sum())
    if repeated:
        notes.append(f"{repeated} of {len(found.rows)} rows saw text more than once; the laws are of fresh text")
    if at in (None, "last") and found.several:
        notes.append(f"{found.several} runs have several losses; the last of each is taken")
    return notes


def _without_copies(rows: ImportedRows) -> tuple[ImportedRows, list[Left]]:
    """Each source run once: of two states of one run the one that went further."""
    parts: dict[tuple[str, str, str], float] = {}
    keys = list(zip(rows["source_id"], rows["source"], rows["source_run"], strict=True))
    for key, tokens in zip(keys, rows["tokens"].tolist(), strict=True):
        parts[key] = max(parts.get(key, tokens), tokens)
    best: dict[str, tuple[str, str, str]] = {}
    for key, reach in parts.items():
        known = best.setdefault(key[0], key)
        if reach > parts[known]:
            best[key[0]] = key
    copies = [key for key in parts if best[key[0]] != key]
    left = [Left(run=run, source=source, reason="a copy of another run here") for _, source, run in copies]
    return rows.take(np.array([best[key[0]] == key for key in keys], dtype=bool)), left


def _read_details(path: Path | None) -> dict[str, dict[str, object]]:
    """{run: {column: value}} of the table of details."""
    if path is None:
        return {}
    columns = read_columns(path)
    key = first_of(RUN_NAMES, columns)
    if key is None:
        raise DataError(f"--details {path}: no column `run` that names the runs; it has: {', '.join(columns)}")
    found: dict[str, dict[str, object]] = {}
    for i, run in enumerate(columns[key]):
        if str(run) in found:
            raise DataError(f"--details {path}: run {run!r} stands there twice")
        row = {name: values[i] for name, values in columns.items() if name != key}
        found[str(run)] = {name: value for name, value in row.items() if value not in ("", None)}
    return found


def _check_known(told: Mapping[str, str], sources: Sequence[RunSource]) -> None:
    """A told column must exist somewhere."""
    if len(sources) == 1:
        return  # `choose_names` says it with the source's name
    columns = list(dict.fromkeys(name for source in sources for name in source.columns))
    for column in told.values():
        if column.lower() != "none" and find_column(column, columns) is None:
            raise DataError(f"--columns: no source has a column {column!r}{did_you_mean(column, columns)}")


def _reasons(left: Sequence[Left]) -> str:
    more = f"; and {len(left) - 2} more runs" if len(left) > 2 else ""
    return "; ".join(f"{x.run}: {x.reason}" for x in left[:2]) + more


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
