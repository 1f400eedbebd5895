"""`distillaw upcycle` as a user meets it."""

import json

import pytest
from transformers import AutoModelForCausalLM

from in_process import answer


def test_a_mixture_is_written_scored_and_made_once(pair, text, tmp_path):
    words = ("upcycle", pair[0], "--experts", "2,3", "--pyramid", 0.5, "--text", text, "--tokens", 800)
    words += ("--out", tmp_path / "moe", "--json")
    done = answer(*words, code=0)
    record = json.loads(done.stdout)
    assert record["kind"] == "pyramid_mixtral" and set(record["experts"]) == {2, 3}
    assert record["logit_difference"] <= 1e-5 * record["largest_logit"]
    assert abs(record["change"]) < 1e-6 and record["loss"] == pytest.approx(record["dense_loss"])
    assert [len(layer["shares"]) for layer in record["routing"]] == record["experts"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "moe")
    assert sum(p.numel() for p in model.parameters()) == record["mixture"]["total_params"]
    again = answer(*words)
    assert again.stdout == done.stdout and "nothing to do" in again.stderr
    assert "another call" in answer(*words, "--noise", 0.1, code=2).stderr


def test_a_dry_run_counts_and_writes_nothing(pair, tmp_path):
    out = answer("upcycle", pair[0], "--experts", 4, "--out", tmp_path / "moe", "--dry-run", code=0).stdout
    assert "nothing was written" in out and "-> mixtral" in out and not (tmp_path / "moe").exists()


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
    done = answer("upcycle", pair[0], "--out", tmp_path / "moe", *words)
    assert done.returncode in (1, 2) and said in done.stderr, done.stderr
