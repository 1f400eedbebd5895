"""`distillaw train` with `start`: a model on disk trains further, whatever was done to it before."""

import json
import random

import pytest
from transformers import AutoModelForCausalLM

from in_process import answer
from small_teacher import write_teacher

RUN = """
name = "further"
start = "{start}"
tokens = {tokens}
peak_lr = 2e-3
batch_tokens = 256
[data]
corpus = "{corpus}"
tokenizer = "{start}"
validation_documents = 20
validation_tokens_per_document = 64
max_document_chars = 2000
[training]
context = 64
warmup_tokens = 512
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def distillaw(*words):
    done = answer(*words, code=0)
    return done.stdout


def train(tmp_path, start, *, corpus="sotu", tokens=8192):
    (tmp_path / "run.toml").write_text(RUN.format(start=start, tokens=tokens, corpus=corpus))
    result = json.loads(distillaw("train", tmp_path / "run.toml", "--out", tmp_path / "run", "--json"))
    return result, tmp_path / "run" / "runs" / result["run_id"]


def test_an_extended_vocabulary_trains_further_on_a_mixture(teacher, tmp_path):
    """Continued training of a teacher after its vocabulary has grown, on old text and new."""
    words = (
        "zweifellos",
        "Reichstag",
        "Verfassung",
        "und der Kanzler",
        "sprach lange",
        "gestern",
        "im Hause",
        "ohne Not",
    )
    order = random.Random(0)  # near copies would be dropped
    foreign = tmp_path / "foreign.jsonl"
    lines = (json.dumps({"text": " ".join(order.choices(words, k=80)) + f" {i}"}) for i in range(60))
    foreign.write_text("\n".join(lines))
    distillaw(
        *f"vocabulary extend {teacher} --text {foreign} --other sotu --pieces 20 --out {tmp_path / 'grown'}".split()
    )
    result, run = train(tmp_path, tmp_path / "grown", corpus=f"mix:0.5*sotu + 0.5*{foreign}")
    assert result["init"] == "pretrained" and result["loss"] < result["start_loss"]
    model = AutoModelForCausalLM.from_pretrained(run)
    assert model.get_input_embeddings().weight.shape[0] == result["vocab_size"] > 300


def test_a_pyramid_of_experts_trains_further_and_stays_one(teacher, tmp_path):
    distillaw("upcycle", teacher, "--experts", "2,4", "--pyramid", "0.25", "--out", tmp_path / "mixture")
    result, run = train(tmp_path, tmp_path / "mixture")
    assert result["loss"] < result["start_loss"]
    config = json.loads((run / "config.json").read_text())
    assert config["experts_per_layer"] == [2, 4, 4, 4]
    dense = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(teacher).parameters())
    ffn = 3 * 64 * 128  # weights of one expert; a router has 64 for each of its experts
    assert result["total_params"] == dense + (1 + 3 + 3 + 3) * ffn + 64 * (2 + 4 + 4 + 4)


def test_a_size_or_a_start_but_not_both(tmp_path):
    for text, message in (
        ('params = "1M"\nstart = "x"', "either params"),
        ('init = "fresh"\nparams = "1M"', "without a model"),
        ('start = "x"\ninit = "weird"', "'weights'"),
    ):
        (tmp_path / "run.toml").write_text(f'name = "x"\ntokens = 1000\npeak_lr = 1e-3\n{text}\n')
        done = answer("train", tmp_path / "run.toml", "--out", tmp_path / "out")
        assert done.returncode == 2 and message in done.stderr, done.stderr
