r"""Ask the planner about published outcomes before they enter the table, and fill docs/outcomes.md.

python -m benchmarks.outcomes.ask ROWS.toml   # new rows: answers go to dev/answers.csv, then the rows to the table
python -m benchmarks.outcomes.ask             # the page's tables (today's answers: distillaw retrodict)

A file of rows has sources, whose fields hold for all their rows: [[source]] with source = "arXiv:...", and in each
[[source.row]] with id = "..." and what is its own.
An answer is recorded once, under the commit that gave it, and is never replaced.
"""

import argparse
import csv
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import ROOT
from benchmarks.outcomes.page import answers, page_tables
from benchmarks.worlds_study.page import filled
from distillaw.errors import ConfigError
from distillaw.outcomes.table import COLUMNS, Outcome, faults_of, gain_of, outcome_of, read_outcomes, winner_of
from distillaw.verifying.retrodiction import ask

TABLE = ROOT / "src" / "distillaw" / "outcomes" / "outcomes.csv"
PAGE = ROOT / "docs" / "outcomes.md"
ANSWERS = ROOT / "dev" / "answers.csv"
ANSWER_COLUMNS = (
    *("id", "version", "date", "question", "status", "call", "probability_a", "gain", "gain_lower", "gain_upper"),
    *("inside_range", "why"),
)
"""Of dev/answers.csv; `version` is the commit that answered."""


def main() -> None:
    """Enter rows, fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="*", help="files of new rows")
    for path in parser.parse_args().rows:
        enter(path)
    rows, given = read_outcomes(), answers(ANSWERS)
    tables = {name: (lambda _, table=table: table) for name, table in page_tables(rows, given).items()}
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), {}, tables), encoding="utf-8")


def enter(path: Path) -> None:
    """Record the planner's answers to the rows of a file, then append the rows to the table.

    Raises:
        ConfigError: a row that breaks a rule, or whose id is taken; nothing is asked then.
    """
    known = {row.id for row in read_outcomes()}
    rows = list(rows_of(path))
    if taken := sorted(known & {row.id for row in rows}):
        raise ConfigError(f"{path.name}: in the table already: {', '.join(taken)}")
    asked = {answer.id for answer in answers(ANSWERS)}
    version, date = _version(), datetime.now(UTC).date().isoformat()
    for row in rows:
        if row.id not in asked:
            found = ask(row)
            _append(ANSWERS, ANSWER_COLUMNS, found.cells() | {"version": version, "date": date})
            print(f"{row.id}: {found.status}, {found.call or found.why}")
    for row in rows:
        _append(TABLE, COLUMNS, {name: _text(getattr(row, name)) for name in COLUMNS})
    read_outcomes.cache_clear()


def rows_of(path: Path) -> Iterable[Outcome]:
    """The rows of a TOML file, with gain and winner worked out from their values.

    Raises:
        ConfigError: see `outcome_of`; a row without values needs its winner.
    """
    for source in tomllib.loads(path.read_text(encoding="utf-8"))["source"]:
        shared = {name: value for name, value in source.items() if name != "row"}
        for own in source["row"]:
            cells = {name: _text(value) for name, value in (shared | own).items()}
            yield _worked_out(cells, path.name)


def _worked_out(cells: Mapping[str, str], where: str) -> Outcome:
    if not cells.get("value_a"):
        return outcome_of(cells, where)
    draft = outcome_of(cells, where, is_draft=True)
    gain, winner = gain_of(draft), winner_of(draft)
    assert gain is not None and winner is not None
    row = replace(draft, gain=round(gain, 4) + 0.0, winner=winner)
    if faults := faults_of(row):
        raise ConfigError(f"{where}, {row.id}: {'; '.join(faults)}")
    return row


def _text(value: object) -> str:
    """A cell: counts without a fraction are written whole, up to 15 digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(value)
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _append(path: Path, columns: Iterable[str], cells: Mapping[str, str]) -> None:
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(cells)


def _version() -> str:
    """The commit whose planner answers; refused where the planner's files differ from it."""
    changed = subprocess.run(
        ["git", "status", "--porcelain", "src/distillaw/planning", "src/distillaw/laws", "src/distillaw/accounting"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if changed:
        raise ConfigError(f"commit first, so that the answers have a version:\n{changed}")
    return subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
