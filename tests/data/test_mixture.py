"""Mixtures of corpora: shares, order, and that a store of one is like any other."""

import json

import pytest

from distillaw.data.corpus import parse_mixture, read_documents
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.errors import ConfigError, DataError


@pytest.fixture
def two(tmp_path):
    """A corpus of a's and one of three-byte characters, thirty documents each of unlike lengths."""
    for name, letter in (("a", "a"), ("b", "书")):
        lines = [json.dumps({"text": letter * (50 + 7 * i) + str(i)}) for i in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path / "a.jsonl", tmp_path / "b.jsonl"


def test_every_prefix_has_the_shares_in_bytes_to_within_a_document(two):
    a, b = two
    documents = list(read_documents(f"mix:3*{a} + 1*{b}"))
    read = {"a": 0, "书": 0}
    for text in documents:
        read[text[0]] += len(text.encode())
        assert abs(read["a"] - 3 * read["书"]) <= 3 * max(len(t.encode()) for t in documents)
    assert [t for t in documents if t[0] == "a"] == list(read_documents(str(a)))  # the one that ends the mixture
    assert [t for t in documents if t[0] == "书"] == list(read_documents(str(b)))[: len(documents) - 30]
    assert documents == list(read_documents(f"mix:0.75*{a} + 0.25*{b}"))


def test_a_store_is_made_of_a_mixture_and_other_specs_keep_their_hashes(two, tmp_path):
    a, b = two
    spec = DataSpec(corpus=f"mix:0.5*{a} + 0.5*{b}", vocab_size=265, validation_documents=4)
    store = prepare_data(spec, tmp_path / "mixed")
    assert store.manifest["documents"] == len(list(read_documents(spec.corpus)))
    assert prepare_data(spec, tmp_path / "mixed").data_hash == store.data_hash
    assert "mixture" not in store.manifest["spec"]  # no new field, so no old hash changes


@pytest.mark.parametrize(
    "corpus", ["mix:a.jsonl + 0.5*b.jsonl", "mix:0*a + 1*b", "mix:1*a", "mix:nan*a + 1*b", "mix:1*mix:2*a + 1*b"]
)
def test_what_is_no_mixture_is_refused_with_an_example(corpus):
    with pytest.raises(ConfigError, match="mixture"):
        parse_mixture(corpus)


def test_a_part_that_is_missing_is_named(two):
    with pytest.raises((ConfigError, DataError), match="nowhere"):
        list(read_documents(f"mix:1*{two[0]} + 1*nowhere.jsonl"))
