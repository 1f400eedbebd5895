"""Read a table of runs, from anything a user has, into plain numpy columns.

CSV, JSON lines, Parquet, or a study folder (its `runs.parquet`, or the result files of its runs). This
file knows formats, not meanings: which column is what, and which rows a law uses, is `fitting/problem.py`.
Torch-free; pyarrow is imported only for Parquet.
"""

import contextlib
import csv
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distillaw.errors import CacheError, DataError, DistillawWarning
from distillaw.quantities import did_you_mean
from distillaw.runs.files import FILES, check_table, parse_json, read_json, read_text, require_file

MOST_COLUMNS = 10_000
"""A table of runs has tens; one of so many is transposed."""
_LARGE = 1 << 20
"""Bytes from which a table of numbers is read as a whole."""
_MISSING = {"", "nan", "null", "none", "na", "n/a"}


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """Columns of a table of runs: numbers as float64 (missing = NaN), anything else as objects.

    Args:
        path: a .csv, .tsv, .jsonl / .ndjson or .parquet file, a study folder holding `runs.parquet`
            or `runs/*/result.json`, a folder of runs, or one run.

    Raises:
        DataError: the path is missing, empty, of an unknown kind, or cannot be read as such.
    """
    return _plain_numbers(Path(path)) or {name: _typed(values) for name, values in read_columns(path).items()}


@contextlib.contextmanager
def naming(table: object) -> Iterator[None]:
    """Put the name of the file before what is wrong with a row of it; a table in memory has none."""
    try:
        yield
    except DataError as error:
        if isinstance(table, str | Path):
            raise DataError(f"{table}: {error}") from None
        raise


def read_columns(path: str | Path) -> dict[str, list[Any]]:
    """Columns as the file has them: text stays text, an empty cell is "" (CSV) or None; same errors as `read_table`."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Give a CSV, Parquet or JSON lines file, or a study folder")
    if path.is_dir():
        return _read_study(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of table {path.suffix!r}; known: {', '.join(sorted(_READERS))}")
    try:
        table = reader(require_file(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}; save the table as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not table or not len(next(iter(table.values()))):
        raise DataError(f"{path}: the table has no rows; the first line names the columns, each further line is a run")
    return table


def _read_study(folder: Path) -> dict[str, list[Any]]:
    if (folder / "runs.parquet").is_file():
        return read_columns(folder / "runs.parquet")
    places = ("runs/*/result.json", "*/result.json", "result.json")  # a study, a folder of runs, a run
    results = next((found for place in places if (found := sorted(folder.glob(place)))), [])
    if not results:
        raise DataError(f"{folder}: neither runs.parquet nor runs/*/result.json; is it a study folder, and has it run?")
    if (folder / "study.json").is_file():
        warnings.warn(
            f"{folder}: runs.parquet is missing; the runs are read one by one, also those that left the study; a run "
            "of the grid that was a search as well counts as a search. `distillaw study run` writes the table again",
            DistillawWarning,
            stacklevel=2,
        )
    try:
        rows = [read_json(path) for path in results]
    except CacheError as error:
        raise DataError(str(error)) from None
    return _columns([{key: row[key] for key in row if key != FILES} for row in rows])


def _read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=_delimiter(file.readline(), path))
        file.seek(0)
        try:
            header = _header(path, next(lines, []))
            rows = []
            for line in lines:
                if len(line) == len(header):
                    rows.append(line)
                elif line:
                    raise DataError(
                        f"{path}, line {lines.line_num}: {len(line)} fields where the header has {len(header)}"
                    )
        except csv.Error as error:
            raise DataError(f"{path}, line {lines.line_num}: not a CSV ({error})") from None
    return {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)} if rows else {}


def _header(path: Path, line: list[str]) -> list[str]:
    """The names of the columns, each once."""
    if not line:
        raise DataError(f"{path}: empty; the first line must name the columns")
    names = [name.strip() for name in line]
    if len(names) > MOST_COLUMNS:
        raise DataError(
            f"{path}: {len(names):,} columns; a table of runs has at most {MOST_COLUMNS:,}. Is it transposed?"
        )
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column {twice!r} appears twice in the first line")
    return names


def _delimiter(header: str, path: Path) -> str:
    """Tab, comma or semicolon: whichever the first line has most of."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(",;\t", key=header.count)


def _read_jsonl(path: Path) -> dict[str, list[Any]]:
    lines = read_text(path).split("\n")  # strings may hold the other breaks of Unicode
    return _columns([_parse_json(text, f"{path}, line {i}") for i, text in enumerate(lines, 1) if text.strip()])


def _parse_json(text: str, where: str) -> Mapping[str, object]:
    try:
        row = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected one JSON object, got {type(row).__name__}")
    return row


def _columns(rows: Iterable[Mapping[str, object]]) -> dict[str, list[Any]]:
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{len(names):,} different keys; a table of runs has at most {MOST_COLUMNS:,}")
    return {name: [row.get(name) for row in rows] for name in names}


def _plain_numbers(path: Path) -> dict[str, np.ndarray] | None:
    """Columns of a large CSV or Parquet file of numbers alone; None where it must be read cell by cell."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet") or not path.is_file() or path.stat().st_size < _LARGE:
        return None
    if kind == ".parquet":
        table = _parquet_table(path)
        numeric = all(str(kind).startswith(("int", "uint", "float", "double")) for kind in table.schema.types)
        return {n: table.column(n).to_numpy().astype(np.float64) for n in table.column_names} if numeric else None
    with contextlib.suppress(ImportError, ValueError, csv.Error):  # pyarrow's errors are ValueErrors
        return _plain_csv(path)
    return None


def _plain_csv(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV of numbers alone.

    Raises:
        ValueError: anything else is in it.
        ImportError: pyarrow is not installed.
    """
    from pyarrow import csv as arrow
    from pyarrow import float64

    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    delimiter = _delimiter(first, path)
    names = _header(path, next(csv.reader([first], delimiter=delimiter)))
    table = arrow.read_csv(
        path,
        read_options=arrow.ReadOptions(column_names=names, skip_rows=1),
        parse_options=arrow.ParseOptions(delimiter=delimiter),
        convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(names, float64()), null_values=[]),
    )
    # not to_numpy, which imports pandas
    return {name: np.concatenate([np.from_dlpack(chunk) for chunk in table.column(name).chunks]) for name in names}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    table = _parquet_table(path)
    try:
        return {name: table.column(name).to_pylist() for name in table.column_names}
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a text in it is not UTF-8 ({error.reason})") from None
    except (OverflowError, ValueError) as error:
        raise DataError(f"{path}: a value in it cannot be read ({error})") from None


def _parquet_table(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f'{path}: reading Parquet needs pyarrow; pip install "distillaw[report]"') from None
    try:
        names = parquet.read_schema(path).names
        if len(names) > MOST_COLUMNS or len(set(names)) < len(names):
            raise DataError(
                f"{path}: {len(names):,} columns, {len(set(names)):,} different names; a table of runs has at most "
                f"{MOST_COLUMNS:,}, each once"
            )
        return check_table(parquet.read_table(path), path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None


def _typed(values: list) -> np.ndarray:
    """Float64 where every present value is a number (or reads as one); objects otherwise."""
    kinds = set(map(type, values))
    if kinds <= {int, float, str, type(None)}:
        with contextlib.suppress(ValueError, OverflowError):
            # None becomes NaN and text is read as float() does; words for what is missing are read one by one
            return np.array(values, dtype=np.float64)
        with contextlib.suppress(ValueError, OverflowError):
            return np.array([_number(v) for v in values], dtype=np.float64)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _number(value: object) -> float:
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING):
        return float("nan")
    return float(value)  # type: ignore[arg-type]


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}


def select(table: Mapping[str, ArrayLike], where: Mapping[str, str]) -> NDArray[np.int64]:
    """Indices of the rows that satisfy every condition.

    Args:
        where: {column: value}; a value is compared as text, `*` and `?` stand for anything, and in a column of
            numbers as a number.

    Raises:
        DataError: no such column, or no row is left (says which values the column has).
    """
    size = len(np.asarray(next(iter(table.values()), ())))
    keep = np.ones(size, dtype=bool)
    for column, wanted in where.items():
        if column not in table:
            names = [str(name) for name in table]
            raise DataError(
                f"where: no column {column!r}{did_you_mean(column, names)}; the table has: {', '.join(names)}"
            )
        here = _matches(np.asarray(table[column]), wanted)
        if not (keep & here).any():
            seen = sorted({str(value) for value in np.asarray(table[column])[keep]})
            shown = ", ".join(seen[:8]) + (f" and {len(seen) - 8} more" if len(seen) > 8 else "")
            raise DataError(f"where: no row has {column} = {wanted!r}; it has: {shown}")
        keep &= here
    return np.flatnonzero(keep)


def _matches(values: NDArray, wanted: str) -> NDArray[np.bool_]:
    if values.dtype != object and values.dtype.kind in "fiu":
        try:
            return values == float(wanted)
        except ValueError:
            return np.zeros(len(values), dtype=bool)
    return np.array([str(value) == wanted or fnmatchcase(str(value), wanted) for value in values], dtype=bool)
