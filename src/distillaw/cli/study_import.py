"""`distillaw study import`: runs that exist already, from tables and trackers' logs, into a run table."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.fit import UNTIED, parse_columns, parse_where
from distillaw.cli.options import Number, given, options_of, values_of
from distillaw.cli.output import Output, same_command
from distillaw.errors import ConfigError
from distillaw.quantities import parse_count
from distillaw.runs.importing.api import Import, Options, SourceReport
from distillaw.runs.importing.api import import_runs as read_runs
from distillaw.runs.importing.table import Merged, Target

ImportOptions = options_of(
    Options,
    without=("columns", "where", "fixed", "matrices"),
    typed={
        "tokens_per_step": Number | None,
        "unit": Literal["nats", "bits", "bits-per-byte", "perplexity"] | None,
        "params_convention": Literal["non-embedding", "total"] | None,
        "vocab": Number | None,
        "layout": Literal["auto", "runs", "log"],
    },
)
_NAMED = 5
"""Runs named under one reason; --json has them all."""


def import_runs(
    *sources: Path,
    out: Path | None = None,
    columns: str | None = None,
    where: list[str] | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    untied: bool = False,
    reading: ImportOptions | None = None,
    dry_run: bool = False,
    output: Output = Output(),
) -> None:
    """Bring runs that you have already into a run table that fit, study next, plan and report read.

    What is taken for what, and why, is printed; importing again adds only what is new.

    Args:
        sources: CSV, TSV, JSON lines or Parquet files, W&B offline folders, trackio databases, TensorBoard folders,
            study folders; several are put together.
        out: a folder (its runs.parquet is written) or a table ending in .parquet; an earlier import there is extended.
        columns: which column is what, e.g. params=model.n_params,tokens=seen,loss=eval/loss,teacher_loss=teacher/loss.
            run=COLUMN names the run of each row of a table, group=COLUMN what branched from one run; NAME=none turns a
            guess off.
        where: only the runs (rows of a table) with COLUMN=VALUE (repeatable; * stands for anything).
        set_: what no log holds, for all runs: NAME=VALUE, e.g. --set params=300M (repeatable).
        untied: the totals hold two vocabulary x width matrices (embedding and head), not one.
        reading: how they are read.
        dry_run: say what would be imported, write nothing.
    """
    if not sources:
        raise ConfigError("study import: name at least one file or folder with runs")
    if out is None and not dry_run:
        raise ConfigError("study import: say where to with --out FOLDER or --out TABLE.parquet, or look with --dry-run")
    if untied and (reading is None or reading.vocab is None):
        raise ConfigError(UNTIED)
    if out is not None:
        Target.of(out)  # a place that something else has written is refused before anything is read
    options = Options(
        columns=parse_columns(columns),
        where=parse_where(where),
        fixed=_parse_set(set_),
        matrices=2 if untied else 1,
        **given(reading),
    )
    imported = read_runs(list(sources), options)
    merged = None if dry_run or out is None else imported.save(out, command=same_command())
    answer: dict[str, object] = {"out": None if merged is None else str(out), "rows": len(imported.table)}
    if merged is not None:
        answer |= values_of(merged, "added updated removed unchanged") | {"table_rows": len(merged.rows)}
    output.answer(answer | imported.to_json(), _print, imported, merged, out)
    output.suggest(_next(merged, out))


def _next(merged: "Merged | None", out: Path | None) -> str:
    if merged is None or out is None:
        return same_command(without="--dry-run") + (" --out runs.parquet" if out is None else "")
    law = "distillation-auto" if merged.rows.num_taught else "supervised"
    return f"distillaw fit {shlex.quote(str(out))} --law {law}"


def _parse_set(texts: list[str] | None) -> dict[str, object]:
    """{our name: value}; counts may be written as people say them."""
    found: dict[str, object] = {}
    for text in texts or []:
        name, mark, value = text.partition("=")
        if not mark or not value.strip():
            raise ConfigError(f"--set: cannot read {text!r}; write --set NAME=VALUE, once per name")
        try:
            found[name.strip()] = parse_count(value, name="--set")
        except ConfigError:
            found[name.strip()] = value.strip()
    return found


def _print(imported: Import, merged: "Merged | None", out: Path | None) -> None:
    for source in imported.sources:
        _print_source(source)
    _print_left(imported)
    for note in imported.notes:
        print(f"note: {note}")
    table = imported.table
    print(f"\n{len(table)} rows of {table.num_groups} independent runs, {table.num_taught} of them distilled")
    if merged is None:
        print("dry run: nothing was written")
        return
    gone = f", {merged.removed} no longer there" if merged.removed else ""
    print(
        f"{out}: {merged.added} new, {merged.updated} changed, {merged.unchanged} as before{gone}; "
        f"{len(merged.rows)} rows in all"
    )


def _print_source(source: SourceReport) -> None:
    print(f"{source.path}: {source.kind}, {source.taken_for}; {source.rows} rows")
    stated = {"params": f"; {source.params_count}", "loss": f"; {source.loss_unit}"}
    others = dict(source.columns)
    for name in ("params", "tokens", "loss", "teacher_loss", "teacher_run"):
        if (choice := others.pop(name, None)) is not None:
            print(f"  {name:12s} {choice.column}  ({choice.why}{stated.get(name, '')})")
    if others:
        print(f"  {'also':12s} {', '.join(f'{name}={choice.column}' for name, choice in others.items())}")


def _print_left(imported: Import) -> None:
    reasons = Counter(left.reason for left in imported.left_out)
    for reason, count in reasons.items():
        runs = [left.run for left in imported.left_out if left.reason == reason]
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        print(f"left out: {', '.join(runs[:_NAMED])}{more}: {reason}")
