"""`distillaw pareto` as a user calls it, and points read from folders."""

import json
from functools import partial

import pytest

from distillaw.errors import ConfigError, DataError
from distillaw.evaluate.benchmarks import mean_of_suite
from distillaw.laws.skill import skill_law
from distillaw.pareto.points import SCORES, axis_compute, hull, own_points, published_points
from in_process import answer as in_process

distillaw = partial(in_process, "pareto")


@pytest.fixture
def run(tmp_path):
    """A finished run that was evaluated."""
    result = {"run_id": "mine", "total_params": 3.0e9, "tokens": 1.0e11, "teacher_total_params": 7.0e9}
    (tmp_path / "result.json").write_text(json.dumps(result))
    scores = {task: {"score": 0.2 + 0.01 * i, "se": 0.004, "near_chance": False} for i, task in enumerate(SCORES)}
    heldout = {"loss": 3.0, "bits_per_byte": 1.1, "bits_per_byte_se": 0.02}
    (tmp_path / "evaluation.json").write_text(
        json.dumps({"scores": scores, "mean_of_six": mean_of_suite(scores), "heldout": heldout})
    )
    return tmp_path


def test_the_teachers_cost_is_in_or_out(run):
    result = json.loads((run / "result.json").read_text())
    cost = {
        what: axis_compute(result, teacher_cost=what, teacher_tokens=2e12) for what in ("none", "forward", "training")
    }
    assert cost["none"] == 6 * 3e9 * 1e11
    assert cost["forward"] - cost["none"] == pytest.approx(2 * 7e9 * 1e11)
    assert cost["training"] - cost["forward"] == pytest.approx(6 * 7e9 * 2e12)


def test_scores_are_per_cent_with_the_error_of_a_mean(run):
    (point,) = own_points(run, task="mean6")
    assert point.score == pytest.approx(22.5) and point.se == pytest.approx(0.4 / 6**0.5)
    (bits,) = own_points(run, task="bits_per_byte")
    assert (bits.score, bits.se) == (-1.1, 0.02)


def test_the_command_places_the_model_and_draws(run, tmp_path):
    answer = json.loads(distillaw(run, "--out", tmp_path / "drawn", "--json", code=0).stdout)
    mine = next(point for point in answer["points"] if point["is_own"])
    assert mine["place"]["best"]["name"] == "ShearedLLaMA-2.7B" and 0.99 < mine["place"]["probability"] <= 1
    assert "mine" in (tmp_path / "drawn" / "pareto.svg").read_text()
    words = distillaw(run)
    assert "mine: " in words.stdout and "probability to be ahead" in words.stdout


def test_a_table_serves_as_well_and_stands_alone(tmp_path):
    table = tmp_path / "points.csv"
    table.write_text("name,compute,score,se\na,1e20,10,1\nb,2e20,9,\n")
    done = distillaw(table, "--no-published", "--json", code=0)
    assert json.loads(done.stdout)["frontier"] == ["a"]


def test_a_task_not_measured_is_predicted_from_the_loss_and_said_to_be(run):
    (hellaswag,) = own_points(run, task="hellaswag", skill=skill_law("hellaswag"))
    assert hellaswag.is_predicted and hellaswag.se > 5
    assert not own_points(run, task="mmlu", skill=skill_law("mmlu"))[0].is_predicted
    assert "predicted from its loss" in distillaw(run, "--score", "hellaswag", "--no-published").stdout


def test_one_score_of_their_own_narrows_a_predicted_point(run):
    asked = (run, "--score", "hellaswag", "--no-published", "--json")
    alone, told = (
        json.loads(distillaw(*asked, *more).stdout)["points"][0] for more in ((), ("--score-at", "2.9=0.35"))
    )
    assert told["is_predicted"] and told["se"] < alone["se"] / 2
    refused = distillaw(run, "--score", "mean6", "--score-at", "2.9=0.35")
    assert refused.returncode == 2 and "no law from loss to mean6" in refused.stderr


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(DataError, match="no score of boolq; measured are bbh"):
        own_points(run, task="boolq")
    with pytest.raises(ConfigError, match="needs --teacher-tokens"):
        own_points(run, task="mean6", teacher_cost="training")
    (run / "evaluation.json").unlink()
    with pytest.raises(DataError, match=r"no evaluation\.json"):
        own_points(run, task="mean6")
    assert distillaw("--score", "hellaswag").returncode == 2


def test_the_picture_tells_chat_models_apart_and_its_line_is_the_one_asked_for(tmp_path):
    done = distillaw("--chat", "--frontier", "hull", "--out", tmp_path, code=0)
    svg = (tmp_path / "pareto.svg").read_text()
    assert "published chat models" in svg and "concave hull over log compute" in svg
    assert "a corner of the concave hull" in done.stdout and "chat model" in done.stdout
    stars = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  * ")}
    assert stars == {point.name for point in hull(published_points(chat=True))}


def test_an_evaluation_below_its_run_is_found_from_either_folder(run):
    (run / "evaluation").mkdir()
    (run / "evaluation.json").rename(run / "evaluation" / "evaluation.json")
    answers = [json.loads(distillaw(folder, "--json").stdout) for folder in (run, run / "evaluation")]
    assert [[p["name"] for p in found["points"] if p["is_own"]] for found in answers] == [["mine"], ["mine"]]
