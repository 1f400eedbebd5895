"""Texts of two folders are compared by document: what one of them holds of the other."""

import json

import numpy as np
import pytest

from distillaw.data.documents import Shared, shared_documents
from distillaw.data.prepare import DataSpec, copy_data, prepare_data
from distillaw.data.shards import DOCUMENTS, TokenStore
from distillaw.errors import CacheError
from distillaw.worlds.spec import load_world


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eighty documents that have nothing in common."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 6)) for _ in range(400)]
    file.write_text("".join(json.dumps({"text": " ".join(rng.choice(words, 60))}) + "\n" for _ in range(80)))
    return file


@pytest.fixture(scope="module")
def stores(corpus, tmp_path_factory):
    """The corpus as it was split first, with another seed, and with its documents cut short."""
    base, found = tmp_path_factory.mktemp("stores"), {}
    for name, settings in (("first", {}), ("other", {"seed": 1}), ("cut", {"max_document_chars": 200})):
        spec = DataSpec(corpus=str(corpus), vocab_size=300, validation_documents=10, **settings)
        found[name] = prepare_data(spec, base / name)
    return found


def test_the_two_halves_of_one_split_share_nothing(stores):
    first = stores["first"]
    assert shared_documents(first, first, ["teacher"]) == Shared(student=0.0, validation=0.0)
    assert shared_documents(first, first, ["student"]) == Shared(student=1.0, validation=0.0)
    assert shared_documents(first, first, ["union"]) == Shared(student=1.0, validation=0.0)


def test_another_split_of_the_same_documents_is_half_read(stores):
    shared = shared_documents(stores["first"], stores["other"], ["teacher"])
    assert shared is not None
    assert 0.2 < shared.student < 0.8 and shared.validation > 0
    rest = shared_documents(stores["first"], stores["other"], ["student"])
    assert rest is not None and shared.student + rest.student <= 1


def test_nobody_can_tell_of_texts_that_were_cut_otherwise_or_by_an_earlier_version(stores, tmp_path):
    first = stores["first"]
    assert shared_documents(first, stores["cut"], ["teacher"]) is None
    copy_data(stores["other"].folder, tmp_path / "old")
    (tmp_path / "old" / DOCUMENTS).unlink()
    assert shared_documents(first, TokenStore.open(tmp_path / "old"), ["teacher"]) is None


def test_a_changed_list_of_documents_is_noticed(stores, tmp_path):
    copy_data(stores["first"].folder, tmp_path / "data")
    (tmp_path / "data" / DOCUMENTS).write_bytes((stores["other"].folder / DOCUMENTS).read_bytes())
    with pytest.raises(CacheError, match=DOCUMENTS):
        TokenStore.open(tmp_path / "data", verify=True)


def test_splits_of_one_world_are_apart_and_another_world_shares_nothing(tmp_path):
    made = {}
    for name, tokens in (("tiny", 20_000), ("tiny", 40_000), ("ngram", 20_000)):
        spec = DataSpec(world=load_world(name), world_tokens=tokens, validation_documents=5)
        made[name, tokens] = prepare_data(spec, tmp_path / f"{name}-{tokens}")
    mine, longer, other = made.values()
    assert shared_documents(mine, longer, ["teacher"]) == Shared(student=0.0, validation=0.0)
    assert shared_documents(mine, longer, ["student"]) == Shared(student=1.0, validation=0.0)
    assert shared_documents(mine, other, ["student"]) == Shared(student=0.0, validation=0.0)
