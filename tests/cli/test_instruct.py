"""`distillaw instruct` as a user meets it: one line for each thing that is wrong, answers alone on stdout."""

import json
from functools import partial

import pytest
from families import chatml_tokenizer, save_model, sums

from in_process import answer

distillaw = partial(answer, "instruct")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instruct")
    save_model(folder / "model", chatml_tokenizer())
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums()))
    (folder / "bad.jsonl").write_text(json.dumps(sums(1)[0]) + "\n{\n")
    return folder


@pytest.mark.slow
def test_a_run_and_its_second_call(place):
    words = (
        *f"sft {place / 'model'} --data {place / 'chats.jsonl'} --out {place / 'run'} --template chatml".split(),
        *"--lr 5e-3 --epochs 1 --batch 8 --max-tokens 0.1k --validation 0.2".split(),
    )
    done = distillaw(*words, code=0)
    assert "held-out loss" in done.stdout and "perplexity" in done.stdout and "step" not in done.stdout
    assert "epoch 1: held-out loss" in done.stderr and "it/s" not in done.stderr and "Warning" not in done.stderr
    again = distillaw(*words, "--json", "--quiet", code=0)
    record = json.loads(again.stdout)
    assert record["schema_version"] == 1 and record["stage"] == "sft" and not again.stderr
    assert record["loss"] == json.loads((place / "run" / "result.json").read_text())["loss"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("--data", "chats.jsonl"),
            2,
            "no chat template, so nobody knows how it marks who speaks. Give --template: chatml",
        ),
        (
            ("--data", "chats.jsonl", "--template", "llama3"),
            2,
            "lacks <|end_header_id|>, <|eot_id|>, <|start_header_id|>",
        ),
        (("--data", "bad.jsonl", "--template", "chatml"), 1, "bad.jsonl, line 2: not JSON"),
        (("--data", "none.jsonl", "--template", "chatml"), 2, "none.jsonl: no such file"),
        (("--data", "chats.jsonl", "--template", "chatml", "--max-tokens", "512"), 2, "sees 256 tokens"),
        (("--data", "chats.jsonl", "--template", "chatml", "--lr", "-1"), 2, "lr = -1.0: must be positive"),
        (
            ("--data", "chats.jsonl", "--template", "chatml", "--micro-batch", "3"),
            2,
            "no multiple of --micro-batch = 3",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place, words, code, said):
    words = [str(place / word) if word.endswith(".jsonl") else word for word in words]
    assert said in distillaw("sft", place / "model", "--out", place / "no", *words, code=code).stderr
    assert not (place / "no" / "spec.json").exists()


def test_the_plan_of_a_run_spends_nothing(place):
    words = f"sft {place / 'model'} --data {place / 'chats.jsonl'} --out {place / 'dry'}"
    record = json.loads(distillaw(*words.split(), *"--template chatml --dry-run --json".split(), code=0).stdout)
    assert record["end_token"] == "<|im_end|>" and record["train"] + record["heldout"] == 48
    assert record["tokens_per_epoch"] < record["all_tokens_per_epoch"] and record["train_flops"] > 0
    assert not (place / "dry").exists()
