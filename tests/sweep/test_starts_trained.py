"""A study of three arms, trained: what its table holds, and what fits and the report make of it."""

import shutil

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import distillaw as dl
from distillaw.controls.api import check_controls
from distillaw.errors import VocabularyError
from distillaw.fitting.observations import observe
from distillaw.report.document import write_report
from distillaw.runs.files import write_table
from distillaw.runs.record import read_study
from distillaw.runs.store import StudyFolder
from distillaw.runs.table import read_table
from distillaw.sweep.checks import load_study
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.scheduler import Display
from distillaw.sweep.study import run_study
from in_process import workers_here
from tiny import study_text
from undrawn import undrawn

STUDY = study_text(
    "arms",
    """[students]
params = ["0.03M"]
tokens = ["4k"]
starts = ["fresh", "pruned", "fixed"]
reference = "0.05M@8k"
[[teachers]]
params = "0.05M"
tokens = "8k"
[[teachers]]
params = "0.1M"
tokens = "8k"
""",
)


def _run(file, folder):
    place = lambda study: LocalExecutor(study, 1)  # noqa: E731
    with workers_here():
        spec = load_study(file, corpus="sotu")
        return run_study(spec, folder, place=place, display=Display(), command="test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of the study, finished, and its file."""
    base = tmp_path_factory.mktemp("arms")
    (base / "arms.toml").write_text(STUDY)
    outcome = _run(base / "arms.toml", base / "study")
    assert (len(outcome.done), outcome.failed, outcome.waiting) == (2 + 3 + 4 + 1, {}, [])
    return base / "study", base / "arms.toml"


def test_the_table_has_every_arm_and_what_each_student_was_cut_out_of(trained):
    rows = pq.read_table(trained[0] / "runs.parquet").to_pylist()
    students = [row for row in rows if row["role"] == "student"]
    by_arm = {arm: [r for r in students if r["arm"] == arm] for arm in ("fresh", "pruned", "fixed")}
    assert {arm: len(of) for arm, of in by_arm.items()} == {"fresh": 3, "pruned": 4, "fixed": 3}
    assert len({row["run_id"] for row in students}) == 8, "two runs serve both cut arms"
    size = {row["run_id"]: row["params"] for row in rows if row["role"] == "teacher"}
    for row in by_arm["pruned"] + by_arm["fixed"]:
        assert row["start_params"] == size[row["start_run"]] and row["init"] == "pruned"
    assert all(row["start_run"] == row["teacher_run"] for row in by_arm["pruned"] if row["teacher_run"])
    assert len({row["start_run"] for row in by_arm["fixed"]}) == 1
    assert all(row["start_params"] is None and row["start_loss"] is None for row in by_arm["fresh"])


def test_a_second_call_trains_nothing_and_a_lost_run_comes_back_the_same(trained):
    folder, file = trained
    assert not _run(file, folder).done
    study, before = StudyFolder(folder), read_table(folder)
    lost = next(r for r in study.results() if r["arm"] == "fixed" and r["teacher_run"] != r["start_run"])
    (study.run(str(lost["run_id"])).path / "result.json").unlink()
    assert _run(file, folder).done == [lost["run_id"]]
    assert study.run(str(lost["run_id"])).result()["loss"] == lost["loss"]
    assert read_table(folder)["loss"].tolist() == before["loss"].tolist()


def test_comparisons_are_of_fresh_students_and_a_law_takes_the_arm_it_is_asked_for(trained):
    record, table = read_study(trained[0]), read_table(trained[0])
    assert {arm: len(runs) for arm, runs in record.arms.items()} == {"fresh": 3, "pruned": 4, "fixed": 3}
    assert record.students == record.arms["fresh"]
    assert len(observe(table)) == 3 + 2 and len(observe(table, arm="pruned")) == 4
    law = dl.fit(trained[0], family="capacity-gap", arm="fixed", bootstrap=0)
    assert law.status.name == "TOO_FEW_RUNS" and law.provenance["arm"] == "fixed"


def test_the_report_draws_every_arm_against_the_teachers_size_and_loss(trained, tmp_path):
    with undrawn():
        page = write_report(trained[0], tmp_path / "report.html").read_text()
    assert page.count("What to begin from?") >= 1
    for words in ("Student loss against teacher size", "Student loss against teacher loss"):
        assert words in page
    assert "fixed: lowest" in page


def test_a_reference_of_another_vocabulary_is_refused_before_anything_trains(trained, tmp_path):
    """Teachers and reference go one way: logits are matched token by token."""
    outside = sorted((trained[0] / "runs").glob("teacher-0.1M*"))[0]
    text = STUDY.replace("vocab_size = 300", "vocab_size = 310").replace("0.05M@8k", str(outside))
    (tmp_path / "other.toml").write_text(text)
    with pytest.raises(VocabularyError):
        _run(tmp_path / "other.toml", tmp_path / "study")
    assert not list((tmp_path / "study").glob("trunks/*"))


def test_a_study_of_pruned_students_alone_is_drawn_and_fitted_but_has_no_gains(trained, tmp_path):
    """Every student without a teacher was cut out of another model: none is the baseline of two teachers."""
    folder = tmp_path / "pruned"
    shutil.copytree(trained[0], folder)
    table = pq.read_table(folder / "runs.parquet")
    kept = pc.or_(pc.equal(table["arm"], "pruned"), pc.equal(table["role"], "teacher"))
    write_table(table.filter(kept).replace_schema_metadata(), folder / "runs.parquet")
    page = write_report(folder, tmp_path / "report.html").read_text()
    assert "pruned: lowest" in page and "every student was cut out of its own teacher" in page.split("<table")[0]
    assert len(observe(read_table(folder))) == 4
    verdict = dl.plan(study=folder, student_params=30_000, student_tokens=4_000)
    assert "NOT_PAIRED" in [one.status for one in verdict.evidence]
    record = read_study(folder)
    assert any("cut out of its own teacher" in problem for problem in record.problems)
    assert {one.status for one in check_controls(record) if one.name in ("equal-flop", "paired-errors")} == {
        "not applicable"
    }
