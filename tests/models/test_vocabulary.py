"""`distillaw vocabulary` as a user meets it: a trained model, two texts, folders that load, and what is refused."""

import contextlib
import io
import json
import math
import subprocess

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.cli.app import app, run
from distillaw.data.corpus import read_documents
from distillaw.runs.files import read_json
from distillaw.shapes import Shape
from small_teacher import write_teacher

SHAPE = Shape(layers=2, width=48, ffn=96, heads=3, kv_heads=3, head_dim=16, vocab=420, context=128)
WORDS = "老师 学生 说话 天气 公园 今天 明天 学校 很好 不好 我们 他们 去 听 看 书".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model that has seen some speeches, with its tokenizer."""
    return write_teacher(tmp_path_factory.mktemp("model"), SHAPE, batches=60)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Two hundred documents of sixteen Chinese words."""
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "zh.jsonl"
    lines = ("".join(generator.choice(WORDS, 30)) + "。" for _ in range(200))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return path


def distillaw(*words):
    """The command in this process: starting one a time costs more than the work."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(lambda: app(list(map(str, words)), exit_on_error=False, result_action="return_value"))
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def extend(model, foreign, out, *words, pieces=20):
    options = ("--text", foreign, "--pieces", pieces, "--heldout-bytes", "4k", "--context", 64)
    return distillaw("vocabulary", "extend", model, "--out", out, *options, *words)


def bits_per_byte(folder, text, context=64):
    """A plain loop: every token once, windows of a context, the last one whole too."""
    model, tokenizer = (AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))
    ids = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    loss = 0.0
    with torch.no_grad():
        for first in range(0, len(ids) - 1, context):
            end = min(first + context, len(ids) - 1)
            start = max(0, end - context)
            logp = model(input_ids=torch.tensor([ids[start:end]])).logits[0].log_softmax(-1)
            targets = torch.tensor(ids[first + 1 : end + 1])
            loss -= logp[first - start :].gather(-1, targets[:, None]).sum().item()
    return loss / math.log(2) / len(text.encode())


def test_an_extension_shortens_the_foreign_text_and_leaves_the_other(model, foreign, tmp_path):
    out = tmp_path / "zh"
    done = extend(model, foreign, out, "--other", "sotu", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["vocab"] == 448 and record["pieces_added"] == 28  # 440 is no multiple of 64
    text, other = record["texts"]["text"], record["texts"]["other"]
    assert text["tokens"] < 0.6 * text["tokens_before"] and other["tokens"] == other["tokens_before"]
    assert record["total_params"] - record["total_params_before"] == 2 * 28 * 48
    assert text["change"] == pytest.approx(text["bits_per_byte"] - text["bits_per_byte_before"])
    assert 0 <= other["change"] < 0.2  # new rows take some probability, no more
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.config.vocab_size == len(AutoTokenizer.from_pretrained(out)) == 448
    stored = read_json(out / "vocabulary.json")
    assert stored == {k: v for k, v in record.items() if k != "schema_version"}


def test_losses_are_those_of_a_plain_loop(model, tmp_path):
    text = tmp_path / "one.jsonl"
    documents = [d[:1500] for d in list(read_documents("sotu"))[:6]]
    text.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    out = tmp_path / "less"
    done = distillaw(
        "vocabulary",
        "trim",
        model,
        "--text",
        text,
        "--out",
        out,
        "--heldout-bytes",
        4500,
        "--context",
        64,
        "--multiple",
        1,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["texts"]["text"]
    from distillaw.data.corpus import read_excerpt

    scored = read_excerpt(text).documents[:3]
    assert facts["bytes"] == 4500
    for key, folder in (("bits_per_byte_before", model), ("bits_per_byte", out)):
        wanted = np.mean([bits_per_byte(folder, each.encode()[:1500].decode()) for each in scored])
        assert facts[key] == pytest.approx(wanted, rel=1e-4)


def test_a_second_call_computes_nothing_and_another_folder_is_left_alone(model, foreign, tmp_path):
    out = tmp_path / "zh"
    first = extend(model, foreign, out, "--json")
    again = extend(model, foreign, out, "--json")
    assert again.stdout == first.stdout and "nothing to do" in again.stderr
    other = extend(model, foreign, out, pieces=30)
    assert other.returncode == 2 and "another call" in other.stderr
    elsewhere = extend(model, foreign, model)
    assert elsewhere.returncode == 2 and "what distillaw has not made" in elsewhere.stderr
    (out / "config.json").unlink()  # as after a kill
    assert extend(model, foreign, out, "--json").returncode == 0


def test_a_dry_run_writes_nothing(model, foreign, tmp_path):
    done = extend(model, foreign, tmp_path / "zh", "--dry-run")
    assert done.returncode == 0 and "nothing was written" in done.stdout and not (tmp_path / "zh").exists()
    trim = distillaw(
        "vocabulary",
        "trim",
        model,
        "--text",
        "sotu",
        "--out",
        tmp_path / "x",
        "--dry-run",
        "--keep",
        384,
        "--max-bytes",
        "1M",
    )
    assert trim.returncode == 0 and "384 tokens" in trim.stdout, trim.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("extend", "--text", "nowhere.jsonl", "--pieces", 8), "nowhere.jsonl"),
        (("extend", "--text", "sotu"), "--pieces 8000"),
        (("extend", "--text", "sotu", "--pieces", 0), "--pieces: got '0'"),
        (("extend", "--text", "sotu", "--pieces", 8, "--chinese"), "--from TOKENIZER"),
        (("extend", "--text", "sotu", "--pieces", 8, "--context", 4096), "sees 128 tokens at most"),
        (("extend", "--text", "sotu", "--pieces", 8, "--multiple", 0), "--multiple 0"),
        (("trim", "--text", "sotu", "--max-bytes", "1M", "--keep", 3), "257 added tokens and bytes stay"),
        (("trim", "--text", "sotu", "--keep", 300, "--min-count", 2), "both say what stays"),
        (("trim", "--text", "sotu", "--keep", 300, "--heldout-bytes", 5), "at least 1000"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(model, tmp_path, words, said):
    done = distillaw("vocabulary", words[0], model, *words[1:], "--out", tmp_path / "out")
    assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr, done.stderr
