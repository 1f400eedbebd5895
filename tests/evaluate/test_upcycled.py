"""`distillaw upcycle` as a user meets it."""

import contextlib
import io
import json

import pytest
from transformers import AutoModelForCausalLM

import distillaw.models.pyramid
from distillaw.cli.app import app, run


def distillaw(*words):
    """(exit code, stdout, stderr) of the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(lambda: app(list(map(str, words)), exit_on_error=False, result_action="return_value"))
    return code, out.getvalue(), err.getvalue()


def test_a_mixture_is_written_scored_and_made_once(pair, text, tmp_path):
    words = (
        "upcycle",
        pair[0],
        "--experts",
        "2,3",
        "--pyramid",
        0.5,
        "--text",
        text,
        "--tokens",
        800,
        "--out",
        tmp_path / "moe",
        "--json",
    )
    code, out, err = distillaw(*words)
    assert code == 0, err
    record = json.loads(out)
    assert record["kind"] == "pyramid_mixtral" and set(record["experts"]) == {2, 3}
    assert record["logit_difference"] <= 1e-5 * record["largest_logit"]
    assert abs(record["change"]) < 1e-6 and record["loss"] == pytest.approx(record["dense_loss"])
    assert [len(layer["shares"]) for layer in record["routing"]] == record["experts"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "moe")
    assert sum(p.numel() for p in model.parameters()) == record["mixture"]["total_params"]
    again = distillaw(*words)
    assert again[1] == out and "nothing to do" in again[2]
    code, out, err = distillaw(*words, "--noise", 0.1)
    assert code == 2 and "another call" in err


def test_a_dry_run_counts_and_writes_nothing(pair, tmp_path):
    code, out, _ = distillaw("upcycle", pair[0], "--experts", 4, "--out", tmp_path / "moe", "--dry-run")
    assert code == 0 and "nothing was written" in out and "-> mixtral" in out and not (tmp_path / "moe").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--experts", "two"), "--experts: cannot read 'two'"),
        (("--experts", 1), "at least 2"),
        (("--noise", -1), "not negative"),
        (("--text", "nowhere.txt"), "nowhere.txt"),
        (("--pyramid", 1.5), "--pyramid 1.5"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(pair, tmp_path, words, said):
    code, _, err = distillaw("upcycle", pair[0], "--out", tmp_path / "moe", *words)
    assert code in (1, 2) and said in err, err
