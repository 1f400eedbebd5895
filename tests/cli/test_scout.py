"""`distillaw scout` through the console script, on two tiny models of different tokenizers."""

import json
import math
import subprocess
import sys

import pytest
import torch

from distillaw.data.tokenizer import train_tokenizer
from distillaw.models.fresh import build_model
from distillaw.shapes import shape_for_params
from in_process import answer as distillaw

DOCUMENTS = [f"chapter {n}: the senate met, the house met, and the treaty of 18{n} was read\n" for n in range(40)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text and two models that guess uniformly."""
    root = tmp_path_factory.mktemp("scout")
    (root / "text.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in DOCUMENTS))
    for name, vocab in (("a", 260), ("b", 290)):
        model = build_model(shape_for_params(2e4, vocab=vocab, context=32), seed=0)
        with torch.no_grad():
            model.get_output_embeddings().weight.zero_()
        model.save_pretrained(root / name)
        train_tokenizer(DOCUMENTS, vocab_size=vocab).save_pretrained(str(root / name))
    return root


def test_two_candidates_in_bits_per_byte(place):
    asked = (
        *(
            f"scout {place / 'a'} {place / 'b'} --text {place / 'text.jsonl'} --max-bytes 2k --out {place / 'o'}"
        ).split(),
    )
    answer = json.loads(distillaw(*asked, "--json", code=0).stdout)
    assert answer["schema_version"] == 1 and answer["text"]["bytes"] <= 2000
    best, other = answer["teachers"]
    assert best["bits_per_byte"] < other["bits_per_byte"]
    for each, vocab in ((best, 290), (other, 260)):
        assert each["nats_per_token"] == pytest.approx(math.log(vocab), rel=1e-6)
        assert each["same_tokenizer_as"] == [] and not each["cached"]
    (gap,) = answer["differences"]
    assert (gap["first"], gap["second"]) == (other["name"], best["name"])
    assert gap["bits_per_byte"] == pytest.approx(other["bits_per_byte"] - best["bits_per_byte"])
    assert gap["interval"][0] < gap["bits_per_byte"] < gap["interval"][1]

    again = distillaw(*asked)
    assert "measured before" in again.stderr
    assert f"{best['bits_per_byte']:.4f} ±" in again.stdout and "Tokenizers differ" in again.stdout
    assert "WARNING" in again.stdout  # 2 kB are fewer than thirty documents


def test_wrong_usage(place):
    done = distillaw("scout", place / "a", "--text", place / "text.jsonl", "--max-bytes", "10")
    assert done.returncode == 2 and "--max-document-chars" in done.stderr
    done = distillaw("scout", place / "a", "--text", place / "text.jsonl", "--device", "foo")
    assert done.returncode == 2 and "--device foo: torch here has cpu" in done.stderr
    done = distillaw("scout", place / "none" / "here", "--text", place / "text.jsonl")
    assert done.returncode == 1 and "no such model here" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "nowhere"], "corpus 'nowhere': no such file"),
        (["--text", "hub:"], "--text hub:: a dataset on the hub is hub:owner/name"),
        (["--text", "TEXT", "--text-column", "body"], "found ['text']. Name the one that holds the text"),
        (["--text", "TEXT", "--max-document-chars", "-1"], "--max-document-chars -1"),
        (["--text", "TEXT", "--max-bytes", "x"], "--max-bytes: cannot read 'x'"),
        (["--text", "TEXT", "--context", "64"], "sees 32 tokens at most"),
        (["--text", "TEXT", "--stride", "0"], "--stride 0: it lies between 1 and the context, 32"),
        (["--text", "sotu", "--section-chars", "500", "--max-bytes", "3k"], "cuts at line ends, and few are there"),
    ],
)
def test_errors_name_the_options(place, arguments, words):
    given = [str(place / "text.jsonl") if each == "TEXT" else each for each in arguments]
    done = distillaw("scout", str(place / "a"), *given)
    assert done.returncode in (1, 2) and words in done.stderr


def test_a_text_is_checked_without_torch(place):
    code = (
        "import sys\nfrom distillaw.cli.teachers import measure\nfrom distillaw.errors import ConfigError\n"
        f"try: measure([{str(place / 'a')!r}], 'nowhere')\nexcept ConfigError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr
