"""Where the controls of a study are said: the command, the report, the laws' files; on folders as they are on disk."""

import json
import shutil
from importlib.resources import as_file, files

import pytest
from synthetic_study import World, write_study

from distillaw.cli.output import Output
from distillaw.cli.study_status import study_check
from distillaw.controls.api import check_controls, doubted_law, summary
from distillaw.errors import CacheError
from distillaw.fitting.api import fit
from distillaw.fitting.result import FitResult
from distillaw.planning.voices import fitted_voice
from distillaw.report.conclusion import conclude_study
from distillaw.runs.record import read_study
from undrawn import undrawn


@pytest.fixture(scope="module")
def concluded(tmp_path_factory):
    """A synthetic study with its conclusion, and what was said on the way."""
    folder = tmp_path_factory.mktemp("concluded")
    write_study(folder, World(students=(2e4, 5e4, 1e5), budgets=(150_000, 300_000, 600_000)))
    said = []
    with undrawn():
        conclude_study(folder, say=said.append)
    return folder, said


def test_the_controls_are_said_as_study_check_counts_them(concluded):
    folder, said = concluded
    (line,) = said
    counted = summary(check_controls(read_study(folder)))
    assert line == f"controls: {counted}: distillaw study check {folder}"


def test_a_finished_conclusion_says_them_again(concluded):
    folder, said = concluded
    again = []
    conclude_study(folder, say=again.append)
    assert again == said


def test_a_law_carries_what_failed_and_who_uses_it_hears_of_it(concluded):
    folder, _ = concluded
    law = FitResult.load(folder / "laws" / "distillation-reduced.json")
    failed = [c.name for c in check_controls(read_study(folder)) if c.status == "failed" and "laws" in c.concerns]
    assert "steps" in failed and list(law.failed_controls) == failed
    assert any("controls failed: " in note for note in law.notes)
    assert "controls failed" in str(law)


def test_a_plan_is_warned_by_a_law_that_was_fitted_while_controls_failed(pocket):
    with as_file(files("distillaw") / "studies" / "pocket_runs.parquet") as path:
        law = fit(path, family="distillation-reduced", bootstrap=40)
    failed = [name for name, control in pocket.items() if control.status == "failed" and "laws" in control.concerns]
    clean, doubted = fitted_voice(law, "mine"), fitted_voice(doubted_law(law, list(pocket.values())), "mine")
    assert doubted.ensemble is not None and "steps" in failed
    assert not any("controls failed" in warning for warning in clean.warnings)
    (warning,) = [warning for warning in doubted.warnings if "controls failed" in warning]
    assert all(name in warning for name in failed)


def test_report_and_verdict_name_the_failed_controls(concluded):
    folder, _ = concluded
    html, verdict = (folder / "report.html").read_text(), json.loads((folder / "verdict.json").read_text())
    assert "Controls: what makes these numbers mean something" in html
    for control in check_controls(read_study(folder)):
        assert control.name in html
    assert any("steps" in warning for warning in verdict["warnings"])


def test_the_command_prints_every_control_and_what_to_do(concluded, capsys):
    folder, _ = concluded
    study_check(folder)
    text = capsys.readouterr().out
    for control in check_controls(read_study(folder)):
        assert control.name in text
    assert "to do:" in text and "next: " in text


def test_the_command_as_json(concluded, capsys):
    folder, _ = concluded
    study_check(folder, output=Output(json=True))
    answer = json.loads(capsys.readouterr().out)
    by_name = {control["name"]: control for control in answer["controls"]}
    assert answer["schema_version"] == 1 and answer["study"] == "synthetic"
    assert by_name["steps"]["status"] == "failed" and by_name["steps"]["numbers"]["least"] == 146
    assert by_name["interior-rate"]["status"] == "passed"


def test_a_folder_that_is_no_study_is_one_clear_error(tmp_path):
    with pytest.raises(CacheError, match="not a study folder"):
        study_check(tmp_path)


def test_half_a_study_is_checked_as_far_as_it_goes(tmp_path):
    write_study(tmp_path, World(), skip=("from-",))
    controls = {control.name: control.status for control in check_controls(read_study(tmp_path))}
    assert controls["single-epoch"] == "passed"
    assert controls["union"] == "not applicable"


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    """The shipped table of the pocket study, alone in a folder, with its controls by name."""
    folder = tmp_path_factory.mktemp("pocket")
    with as_file(files("distillaw") / "studies" / "pocket_runs.parquet") as path:
        shutil.copy(path, folder / "runs.parquet")
    return {control.name: control for control in check_controls(read_study(folder))}


def test_what_the_shipped_pocket_study_has_and_lacks(pocket):
    """Said as it is: few seeds, few steps, no strong teacher, and none of the arms that separate teacher from text."""
    by_status = {}
    for name, control in pocket.items():
        by_status.setdefault(control.status, set()).add(name)
    assert by_status["passed"] == {"single-epoch", "embedding-share", "conventions"}
    assert by_status["failed"] == {"steps", "seeds", "teacher-range"}
    # its manifest was not shipped; the tokens of both trainings lie beyond what was run, so far that nothing is sure
    assert by_status["undecided"] == {"disjoint-text", "equal-flop"}
    assert {"horizon", "union", "seen-text", "equal-loss-pairs", "lambda", "temperature"} <= by_status["not done"]


def test_the_pocket_studys_numbers(pocket):
    assert pocket["steps"].numbers["least"] == 391  # 200k tokens at the chosen batch of 512
    assert pocket["embedding-share"].numbers["shares"]["111024"] == pytest.approx(512 * 48 / 111024)
    low, high = pocket["teacher-range"].numbers["ranges"]["388k"]
    assert low == pytest.approx(2.8504 / 3.879, abs=2e-3) and high == pytest.approx(3.417 / 3.074, abs=2e-3)
    assert not any(one["branch_minus_best"]["paired"] for one in pocket["horizon"].numbers["excess"])
