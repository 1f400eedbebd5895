"""`distillaw study run` with held-out students: predictions are frozen before they are trained, and scored after."""

import json

import pytest

from in_process import answer as _call
from tiny import study_text

SEEDS = "".join(f'[[replicates]]\nparams = "{size}"\nseeds = 3\n' for size in ("0.02M", "0.03M", "0.05M"))
TINY = study_text(
    "tiny",
    f"""[students]
params = ["0.02M", "0.03M", "0.05M"]
tokens = ["4k", "8k", "16k"]
[[teachers]]
params = "0.05M"
tokens = "20k"
{SEEDS}
[[cells]]
params = ["0.05M"]
tokens = ["24k"]
teachers = ["none"]
holdout = true
[target]
params = "0.05M"
tokens = "16k"
""",
)


def _tokens(folder):
    return {json.loads(file.read_text())["tokens"] for file in folder.glob("runs/student-*/result.json")}


@pytest.mark.slow
def test_held_out_students_are_predicted_then_trained_then_scored(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    ran = _call("study", "run", "tiny.toml", "--out", "out", cwd=tmp_path, code=0)
    assert "frozen: predictions of 1 held-out students" in ran.stderr
    (frozen,) = (tmp_path / "out" / "predictions").glob("*.json")
    trained = next((tmp_path / "out" / "runs").glob("student-0.05M-alone-s0-*-24000t/result.json"))
    assert frozen.stat().st_mtime <= trained.stat().st_mtime
    score = json.loads(_call("verify", "score", "out", "--json", cwd=tmp_path).stdout)
    losses = [one for one in score["predictions"] if one.get("measured") is not None]
    assert losses, score
    assert {round(one["measured"], 6) for one in losses if one["quantity"] == "loss"} == {
        round(json.loads(trained.read_text())["loss"], 6)
    }
    again = _call("study", "run", "tiny.toml", "--out", "out", cwd=tmp_path)
    assert again.returncode == 0 and "nothing left to train" in again.stderr
    assert len(list((tmp_path / "out" / "predictions").glob("*.json"))) == 1


def test_without_a_law_held_out_students_wait_and_the_rest_is_reported(tmp_path):
    few = TINY.replace('["0.02M", "0.03M", "0.05M"]', '["0.05M"]').replace('["4k", "8k", "16k"]', '["4k"]')
    few = few[: few.index("[[replicates]]")] + few[few.index("[[cells]]") :].replace('tokens = "16k"', 'tokens = "4k"')
    (tmp_path / "tiny.toml").write_text(few)
    ran = _call("study", "run", "tiny.toml", "--out", "out", cwd=tmp_path, code=1)
    assert "held-out students wait until they are predicted" in ran.stderr
    assert (tmp_path / "out" / "report.html").exists()
    assert max(_tokens(tmp_path / "out")) < 5000
