"""Tiny candidate teachers in folders, over two tokenizers, and a text for them."""

import json

import numpy as np
import pytest
import torch

from distillaw.data.tokenizer import train_tokenizer
from distillaw.models.fresh import build_model
from distillaw.shapes import shape_for_params

WORDS = (
    "the senate and the house, a treaty of 1848; naïve Ægis — commerce, revenue, peace! whose debt is paid"
).split()


def _document(generator, words):
    return " ".join(generator.choice(WORDS, words)) + "\n"


@pytest.fixture(scope="session")
def documents():
    """Sixty documents of 3 to 60 words, not all of them ASCII."""
    generator = np.random.default_rng(0)
    return [_document(generator, words) for words in generator.integers(3, 60, 60)]


@pytest.fixture(scope="session")
def text(documents, tmp_path_factory):
    """Those documents as a .jsonl file."""
    path = tmp_path_factory.mktemp("text") / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def candidate(documents, tmp_path_factory):
    """Makes a model folder: candidate(name, vocab, params=.., uniform=.., tokenizer=..)."""
    root = tmp_path_factory.mktemp("candidates")

    def make(name, vocab, *, params=2e4, context=32, uniform=False, tokenizer=None):
        tokenizer = tokenizer or train_tokenizer(documents, vocab_size=vocab)
        model = build_model(shape_for_params(params, vocab=vocab, context=context), seed=int(params))
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(0 if uniform else 8)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(str(root / name))
        return root / name

    return make


@pytest.fixture(scope="session")
def pair(candidate):
    """Two candidates of different tokenizers, neither uniform."""
    return candidate("small", 270), candidate("large", 300, params=4e4)
