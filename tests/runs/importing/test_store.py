"""The imported table on disk: importing again, merging, and folders that are not ours to write."""

import json

import pyarrow.parquet as pq
import pytest

from distillaw.errors import ConfigError
from distillaw.runs.importing.api import Options, import_runs
from distillaw.runs.store import RESULT_KEYS
from tracked import grid, write_csv


def counts(merged):
    return merged.added, merged.updated, merged.unchanged, merged.removed


def test_importing_again_doubles_nothing(tmp_path):
    file, out = tmp_path / "t.csv", tmp_path / "out"
    rows = [{"name": f"r{i}", **row} for i, row in enumerate(grid())]
    assert counts(import_runs([write_csv(file, rows)], Options()).save(out)) == (9, 0, 0, 0)
    before = (out / "runs.parquet").read_bytes()
    assert counts(import_runs([file], Options()).save(out)) == (0, 0, 9, 0)
    assert (out / "runs.parquet").read_bytes() == before
    rows[0]["loss"] += 0.1  # a corrected value: the table's earlier row goes
    rows.append({**rows[0], "name": "r9", "tokens": 3e9})
    merged = import_runs([write_csv(file, rows)], Options()).save(out)
    assert (len(merged.rows), merged.unchanged, merged.removed) == (10, 8, 1)
    moved = write_csv(tmp_path / "copy.csv", rows)
    assert counts(import_runs([moved], Options()).save(out)) == (0, 0, 10, 0)  # the same runs, at a new place


def test_every_row_says_where_it_comes_from(tmp_path):
    file = write_csv(tmp_path / "t.csv", grid())
    import_runs([file], Options()).save(tmp_path / "out", command="distillaw study import t.csv")
    table = pq.read_table(tmp_path / "out" / "runs.parquet")
    assert set(RESULT_KEYS) <= set(table.column_names)
    assert set(table["source"].to_pylist()) == {str(file)}
    assert all(len(text) == 64 for text in table["source_sha256"].to_pylist())
    record = json.loads((tmp_path / "out" / "import.json").read_text())["imports"][0]
    assert record["sources"][0]["columns"]["loss"] == {"column": "loss", "why": "our name"}


@pytest.mark.parametrize("sign", ["study.json", "runs", "trunks"])
def test_a_study_that_trains_is_left_alone(tmp_path, sign):
    folder = tmp_path / "study"
    (folder / sign).mkdir(parents=True)
    found = import_runs([write_csv(tmp_path / "t.csv", grid())], Options())
    with pytest.raises(ConfigError, match="trains its own runs"):
        found.save(folder)
    assert [path.name for path in folder.iterdir()] == [sign]


def test_a_table_of_somebody_else_is_left_alone(tmp_path):
    theirs = tmp_path / "precious.parquet"
    theirs.write_bytes(b"not ours")
    with pytest.raises(ConfigError, match="not written by an import"):
        import_runs([write_csv(tmp_path / "t.csv", grid())], Options()).save(theirs)
    assert theirs.read_bytes() == b"not ours"


def test_a_study_and_a_table_together(tmp_path, pocket):
    import pyarrow as pa

    study = tmp_path / "study"
    study.mkdir()
    pq.write_table(pa.Table.from_pylist(pocket), study / "runs.parquet")
    before = (study / "runs.parquet").read_bytes()
    found = import_runs([study, write_csv(tmp_path / "t.csv", grid())], Options())
    found.save(tmp_path / "both")
    rows = pq.read_table(tmp_path / "both" / "runs.parquet").to_pylist()
    assert len(rows) == len(pocket) + 9
    own = {row["run_id"]: row for row in rows}
    assert all(own[row["run_id"]]["loss"] == row["loss"] for row in pocket)
    assert (study / "runs.parquet").read_bytes() == before
