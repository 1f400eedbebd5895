"""Damaged runs of a study: named and left out, refused where they are the question, believed nowhere."""

import json

import pyarrow.parquet as pq
import pytest
from synthetic_study import World, write_study

import distillaw as dl
from distillaw.errors import CacheError, DataError
from distillaw.runs.record import read_study
from distillaw.runs.store import RESULT_KEYS, RunFolder, StudyFolder
from distillaw.runs.table import read_table

TARGET, ELSEWHERE = "student-0.1M-alone-s1-150kt", "student-0.02M-alone-s0-600kt"


@pytest.fixture
def study(tmp_path):
    """A study of the time before checksums."""
    write_study(tmp_path, World(documents=24))
    return tmp_path


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def decide(folder):
    return dl.plan("0.1M", student_tokens=150_000, study=folder, with_flips=False)


def sealed(folder, run_id):
    """A run as it is written now."""
    run = RunFolder(folder / "runs" / run_id)
    row = json.loads((run.path / "result.json").read_text())
    run.finish(dict.fromkeys(RESULT_KEYS) | row)
    return run


@pytest.mark.parametrize("text", ["{torn", ""])
def test_a_damaged_run_of_the_cell_that_is_asked_about_refuses_a_verdict(study, text):
    file = study / "runs" / TARGET / "result.json"
    file.write_text(text)
    with pytest.raises(CacheError, match=f"so there is no verdict.*{TARGET}") as refused:
        decide(study)
    assert str(file) in str(refused.value) and "Delete it" in str(refused.value)
    assert dl.plan("0.02M", student_tokens=150_000, study=study, with_flips=False)  # another cell


def test_a_damaged_run_elsewhere_is_named_in_the_verdict_and_left_out(study):
    before = {run.run_id for run in read_study(study).runs}
    (study / "runs" / ELSEWHERE / "result.json").write_text("{torn")
    assert {run.run_id for run in read_study(study).runs} == before - {ELSEWHERE}
    assert any(ELSEWHERE in line and "left out" in line for line in decide(study).warnings)


def test_a_loss_that_is_not_that_of_its_documents_is_not_believed_of_an_old_run_either(study):
    file = study / "runs" / ELSEWHERE / "result.json"
    rewrite(file, loss=json.loads(file.read_text())["loss"] - 0.1)
    assert any("heldout.parquet" in line for line in decide(study).warnings)
    other = study / "runs" / TARGET / "result.json"
    other.write_text(file.read_text())
    with pytest.raises(CacheError, match="the result of another run"):
        decide(study)


def test_what_cannot_be_verified_is_said_once_and_honest_edits_are_taken(study):
    runs = len(read_study(study).runs)
    assert sum(f"{runs} of the study's runs were written without" in line for line in decide(study).assumptions) == 1
    rewrite(study / "runs" / TARGET / "result.json", device="my own machine")
    assert decide(study).verdict == "distil"


def test_a_digit_changed_in_a_sealed_result_is_seen_and_an_edit_may_say_so(study):
    run = sealed(study, TARGET)
    assert read_study(study).unverified == len(read_study(study).runs) - 1
    rewrite(run.path / "result.json", teacher_tokens=7)
    with pytest.raises(CacheError, match="remove its `checksum`"):
        run.result()
    whole = json.loads((run.path / "result.json").read_text())
    del whole["checksum"]
    (run.path / "result.json").write_text(json.dumps(whole))
    assert run.result()["teacher_tokens"] == 7


def test_scores_of_a_sealed_run_are_those_that_were_written(study):
    run, other = sealed(study, TARGET), study / "runs" / ELSEWHERE / "heldout.parquet"
    (run.path / "heldout.parquet").write_bytes(other.read_bytes())
    for read in (run.result, lambda: decide(study)):
        with pytest.raises(CacheError, match=r"heldout.parquet: damaged"):
            read()


def test_rows_of_a_table_are_those_that_were_written(study):
    for path in (study / "runs").iterdir():
        sealed(study, path.name)
    file = StudyFolder(study).write_table({(path.name, "fresh"): "grid" for path in (study / "runs").iterdir()})
    table = pq.read_table(file)
    assert read_table(file)["loss"].shape == (len(table),)
    pq.write_table(table.slice(1).replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(DataError, match=r"runs.parquet: damaged"):
        read_table(file)
    assert any("runs.parquet" in line for line in decide(study).warnings)
