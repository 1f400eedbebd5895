"""Tables of other people: names, units, conventions, moments; what is not clear is asked, not guessed."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillaw.errors import ConfigError, DataError, UnitError
from distillaw.fitting.api import fit
from distillaw.runs.importing.api import Options, import_runs
from distillaw.runs.table import read_columns, read_table
from tracked import THEIRS, grid, write_csv

SAID = Options(
    columns={"params": "size", "tokens": "toks", "teacher_run": "teacher", "lambda": "kd"},
    params_convention="non-embedding",
)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_under_other_names_gives_the_same_law(tmp_path, pocket, kind):
    rows = [{theirs: row[ours] for theirs, ours in THEIRS.items()} for row in pocket]
    path = tmp_path / f"theirs.{kind}"
    if kind == "csv":
        write_csv(path, rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    import_runs([path], SAID).save(tmp_path / "out")
    imported = read_table(tmp_path / "out")
    original = {name: np.array([row[name] for row in pocket], dtype=object) for name in pocket[0]}
    for family in ("supervised", "distillation-reduced"):
        first, second = (fit(t, family=family, bootstrap=0, check=False, calibrate=False) for t in (original, imported))
        assert (first.nobs, first.ngroups) == (second.nobs, second.ngroups)
        assert second.params == pytest.approx(first.params, rel=1e-7)


def test_other_peoples_checkpoints_fit_as_they_are(law_runs, tmp_path):
    file = law_runs / "gemstones" / "cool_end.csv"
    said = {"columns": {"params": "params_active_precise"}, "params_convention": "total"}
    with pytest.raises(ConfigError, match="199 rows of 20 runs by column run_name"):
        import_runs([file], Options(**said))
    found = import_runs([file], Options(**said, at="all"))
    assert "179 of 199 rows lie before the end of their run" in found.notes[0]
    found.save(tmp_path / "gemstones.parquet")
    result = fit(
        tmp_path / "gemstones.parquet", family="chinchilla", delta=1e-3, bootstrap=0, check=False, calibrate=False
    )
    assert (result.ngroups, result.params_convention) == (20, "total")
    assert result.objective == pytest.approx(0.0019640865, rel=1e-6)  # as published


def test_totals_become_non_embedding_by_the_width(law_runs):
    file = law_runs / "gemstones" / "hot.csv"
    rows = import_runs([file], Options(columns={"params": "params_active_precise"}, vocab=50304, at="last")).rows
    assert len(rows) == 22
    assert all(row["params"] == row["total_params"] - 50304 * row["width"] for row in rows)
    assert all(row["tokens"] > 0.99e11 for row in rows)


def test_several_validation_sets_are_chosen_by_where(law_runs):
    file = law_runs / "mlfoundations-scaling" / "overtraining_losses.csv"
    with pytest.raises(DataError, match=r"8 losses at the same 2\.06B tokens that differ in val"):
        import_runs([file], Options())
    rows = import_runs([file], Options(where={"val": "c4_val*"})).rows
    assert len(rows) == 104
    assert {row["params_convention"] for row in rows} == {"non-embedding"}  # N_no_embed before N


def test_bits_per_character_named_loss_are_noticed(law_runs):
    file = law_runs / "active-sl-scalebench" / "farseer_train.csv"
    with pytest.raises(UnitError, match=r"losses around 0\.561 are low for nats per token"):
        import_runs([file], Options(params_convention="total"))


@pytest.mark.parametrize(
    ("column", "value", "options", "nats"),
    [
        ("val_ppl", 20.0, {"unit": "perplexity"}, np.log(20.0)),
        ("bpb", 0.9, {"unit": "bits-per-byte", "bytes_per_token": 4.5}, 0.9 * np.log(2) * 4.5),
        ("loss_bits", 4.0, {"unit": "bits"}, 4 * np.log(2)),
    ],
)
def test_other_units_are_refused_or_converted(tmp_path, column, value, options, nats):
    file = write_csv(tmp_path / "t.csv", [{"params": 1e6, "tokens": 1e8, column: value, "loss_se": 0.01}])
    with pytest.raises(UnitError, match="not nats per token"):
        import_runs([file], Options(columns={"loss": column}))
    (row,) = import_runs([file], Options(columns={"loss": column}, **options)).rows
    assert row["loss"] == pytest.approx(nats)
    slope = 1 / value if "ppl" in column else nats / value
    assert row["loss_se"] == pytest.approx(0.01 * slope)


def test_bits_per_byte_need_bytes_per_token(tmp_path):
    file = write_csv(tmp_path / "t.csv", [{"params": 1e6, "tokens": 1e8, "loss": 0.9}])
    with pytest.raises(UnitError, match="--bytes-per-token"):
        import_runs([file], Options(unit="bits-per-byte"))


def test_perplexity_under_the_name_of_loss_is_noticed(tmp_path):
    file = write_csv(tmp_path / "t.csv", [{**row, "loss": np.exp(row["loss"])} for row in grid()])
    with pytest.raises(UnitError, match="Perplexity"):
        import_runs([file], Options())


def test_params_that_may_count_the_embedding_are_asked_about(tmp_path):
    file = write_csv(tmp_path / "t.csv", [{"n_params": 1e6, "tokens": 1e8, "loss": 3.0}])
    with pytest.raises(UnitError, match="does not say whether the parameters count the embedding"):
        import_runs([file], Options())


def test_two_conventions_in_one_table_are_refused(tmp_path):
    first = write_csv(tmp_path / "a.csv", grid())
    second = write_csv(tmp_path / "b.csv", [{"total_params": 2e6, "tokens": 1e8, "loss": 3.0}])
    with pytest.raises(UnitError, match="one table holds one convention"):
        import_runs([first, second], Options())


def test_two_possible_losses_are_asked_about(tmp_path):
    file = write_csv(tmp_path / "t.csv", [{**row, "val_loss": 3.0} for row in grid()])
    with pytest.raises(ConfigError, match="loss could be loss or val_loss"):
        import_runs([file], Options())


def test_a_missing_column_says_what_there_is(tmp_path):
    file = write_csv(tmp_path / "t.csv", [{"size": 1e6, "tokens": 1e8, "loss": 3.0}])
    with pytest.raises(DataError, match="no column for params; it has: size, tokens, loss"):
        import_runs([file], Options())
    with pytest.raises(DataError, match=r"no column 'sise' .did you mean 'size'"):
        import_runs([file], Options(columns={"params": "sise"}))


def test_nan_and_empty_losses_are_left_out_by_name(tmp_path):
    rows = [{"name": f"r{i}", **row} for i, row in enumerate(grid())]
    rows[1]["loss"], rows[2]["loss"] = "nan", ""
    rows[3]["state"] = "crashed"
    for row in rows:
        row.setdefault("state", "finished")
    found = import_runs([write_csv(tmp_path / "t.csv", rows)], Options())
    assert len(found.rows) == 6
    assert {left.run: left.reason.split(":")[0] for left in found.left_out} == {
        "r1": "diverged",
        "r2": "no loss",
        "r3": "its state is 'crashed'",
    }


def test_distilled_rows_without_their_teachers_loss_are_never_taken_for_supervised(tmp_path):
    rows = [{"name": f"r{i}", **row, "teacher_run": "", "lambda": 0} for i, row in enumerate(grid())]
    rows[0]["teacher_run"], rows[1]["lambda"] = "elsewhere", 1.0
    found = import_runs([write_csv(tmp_path / "t.csv", rows)], Options())
    assert len(found.rows) == 7
    reasons = {left.run: left.reason for left in found.left_out}
    assert "its teacher elsewhere is not among the runs" in reasons["r0"]
    assert "it was distilled" in reasons["r1"]


def test_repeats_without_a_seed_are_numbered(tmp_path):
    rows = [row | {"loss": row["loss"] + shift} for shift in (0.0, 0.01) for row in grid()]
    found = import_runs([write_csv(tmp_path / "t.csv", rows)], Options())
    assert sorted(row["seed"] for row in found.rows) == [0] * 9 + [1] * 9
    assert any("9 rows repeat a cell" in note for note in found.notes)


def test_exact_copies_count_once(tmp_path):
    found = import_runs([write_csv(tmp_path / "t.csv", [*grid(), grid()[0]])], Options())
    assert (len(found.rows), len(found.left_out)) == (9, 1)


def test_the_log_of_one_run(tmp_path):
    folder = tmp_path / "run-7"
    folder.mkdir()
    with (folder / "metrics.jsonl").open("w") as stream:
        for step in range(10, 101, 10):
            stream.write(json.dumps({"step": step, "train_loss": 3.0, "lr": 1e-3 * (1.0 - step / 101)}) + "\n")
            if step % 50 == 0:
                stream.write(json.dumps({"step": step, "val_loss": 4.0 - step / 100}) + "\n")
    said = {"fixed": {"params": 300e6}, "tokens_per_step": 1000.0}
    (row,) = import_runs([folder / "metrics.jsonl"], Options(**said)).rows
    assert (row["source_run"], row["tokens"], row["loss"], row["steps"]) == ("run-7", 100_000, 3.0, 100)
    found = import_runs([folder / "metrics.jsonl"], Options(**said, at="all"))
    assert [row["tokens"] for row in found.rows] == [50_000, 100_000]
    assert len({row["group"] for row in found.rows}) == 1
    assert "where the learning rate (lr) still had to fall" in found.notes[0]
    (row,) = import_runs([folder / "metrics.jsonl"], Options(**said, at="49k")).rows
    assert row["tokens"] == 50_000


def test_a_diverged_log_does_not_end_before_its_nan(tmp_path):
    file = tmp_path / "run.csv"
    file.write_text("step,tokens,val_loss\n10,1000,4.0\n20,2000,\n30,3000,nan\n")
    with pytest.raises(DataError, match="diverged: its loss is nan at 3k tokens"):
        import_runs([file], Options(fixed={"params": 1e6}))


def test_a_training_loss_is_not_taken_by_itself(tmp_path):
    file = tmp_path / "run.csv"
    file.write_text("step,tokens,loss\n10,1000,4.0\n20,2000,3.0\n")
    with pytest.raises(DataError, match=r"no column for loss.*looks like the training loss"):
        import_runs([file], Options(fixed={"params": 1e6}))


def test_details_by_run_name(tmp_path):
    rows = [{"name": f"r{i}", "tokens": 1e8 * (i + 1), "loss": 3.0 + i} for i in range(3)]
    details = write_csv(tmp_path / "d.csv", [{"run": f"r{i}", "params": 10 ** (6 + i)} for i in range(3)])
    found = import_runs([write_csv(tmp_path / "t.csv", rows)], Options(details=details))
    assert [row["params"] for row in found.rows] == [10**6, 10**7, 10**8]
    other = write_csv(tmp_path / "o.csv", [{"run": "x", "params": 1}])
    with pytest.raises(DataError, match="none of its runs"):
        import_runs([tmp_path / "t.csv"], Options(details=other))


def test_rows_that_are_runs_beside_runs_of_several_rows_keep_their_order_and_names(tmp_path):
    rows = [
        {"name": name, "params": 1e6, "tokens": tokens, "loss": loss, "seed": seed}
        for name, tokens, loss, seed in [
            ("b", "1e8", "3.2", ""),
            ("a", "1e8", "3.4", ""),
            ("", "1e8", "nan", ""),
            ("b", "2e8", "3.1", ""),
            ("a b/c", "124M", "3.3", ""),
            ("d", "1e8", "3.5", "0"),
            ("", "1e8", "3.6", ""),
        ]
    ]
    found = import_runs([write_csv(tmp_path / "t.csv", rows)], Options(at="all"))
    assert [(left.run, left.reason) for left in found.left_out] == [
        ("row 3", "diverged: its loss is nan at 100M tokens"),
        ("a b/c", "no tokens"),
    ]
    assert [(row["source_run"], row["tokens"], row["seed"]) for row in found.rows] == [
        ("b", 10**8, 1),
        ("b", 2 * 10**8, 0),
        ("a", 10**8, 2),
        ("d", 10**8, 0),
        ("row 7", 10**8, 3),
    ]
    ids = [row["run_id"] for row in found.rows]
    assert ids[0] == f"{found.rows[0]['group']}-100M"
    assert ids[2] == found.rows[2]["group"] == "a-e12f26e7d8"


def test_a_run_table_of_this_package_as_csv_comes_back(tmp_path, pocket):
    found = import_runs([write_csv(tmp_path / "own.csv", pocket)], Options())
    assert found.sources[0].kind == "study"
    found.save(tmp_path / "out")
    back = {row["run_id"]: row for row in found.rows}
    for row in pocket:
        same = {key: back[row["run_id"]][key] for key in ("params", "tokens", "loss", "teacher_run", "seed", "init")}
        assert same == {key: row[key] for key in same}


def test_a_count_that_no_whole_number_holds_is_named(tmp_path):
    file = write_csv(tmp_path / "t.csv", [{**row, "name": "big", "layers": 1e30} for row in grid()[:1]])
    with pytest.raises(DataError, match=r"big: layers is 1e\+30; whole numbers go up to"):
        import_runs([file], Options()).save(tmp_path / "out")
    assert not (tmp_path / "out" / "runs.parquet").exists()


def three_arms() -> list[dict]:
    """Two teachers and a student of each arm from each; the fixed one from T1 is a pruned one too."""
    own = {"tokens": 4000, "params": 30_000, "seed": 0, "lambda": 1.0, "group": "", "purpose": "grid"}
    own |= {"role": "student", "start_run": "", "start_params": "", "teacher_run": "", "teacher_loss": ""}
    rows = [
        own | {"run_id": f"T{i}", "role": "teacher", "purpose": "teacher", "params": size, "loss": 3.2 - i / 10}
        for i, size in ((1, 100_000), (2, 200_000))
    ]
    rows = [row | {"arm": "fresh", "init": "fresh", "lambda": ""} for row in rows]
    for arm, init in (("fresh", "fresh"), ("fixed", "pruned"), ("pruned", "pruned")):
        for i, loss in ((1, 3.1), (2, 3.0)):
            starts = {"fresh": "", "fixed": "T1", "pruned": f"T{i}"}[arm]
            name = "both" if starts == "T1" and i == 1 else f"{arm}-T{i}"
            taught = {"teacher_run": f"T{i}", "teacher_loss": loss, "start_run": starts}
            rows.append(own | taught | {"run_id": name, "arm": arm, "init": init, "loss": loss + 0.3})
    return rows


@pytest.mark.parametrize("columns", [{}, {"loss": "loss"}], ids=["ours", "told"])
def test_arms_and_what_students_were_cut_out_of_come_back(tmp_path, columns):
    file = write_csv(tmp_path / "t.csv", three_arms())
    found = import_runs([file], Options(columns=columns, params_convention="non-embedding"))
    assert not found.left_out
    for _ in range(2):  # importing again changes nothing
        found.save(tmp_path / "out")
    back = read_columns(tmp_path / "out")
    students = [i for i, role in enumerate(back["role"]) if role == "student"]
    assert sorted(back["arm"][i] for i in students) == sorted(["fresh", "fixed", "pruned"] * 2)
    by_run = dict(zip(back["run_id"], back["params"], strict=True))
    fixed = [i for i in students if back["arm"][i] == "fixed"]
    assert [by_run[back["start_run"][i]] for i in fixed] == [100_000] * 2
