"""Corpora of token ids that other tools wrote: every layout gives the same splits, and what is wrong is said first."""

import itertools
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillaw.data.corpus import Reading, read_documents
from distillaw.data.prepare import DataSpec, documents_of, prepare_data
from distillaw.data.shards import BatchOrder, Split, TokenStore
from distillaw.data.token_files import open_tokens
from distillaw.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from distillaw.errors import CacheError, ConfigError, DataError
from in_process import answer
from tiny import RUN

VOCAB = 300


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = list(read_documents("sotu", Reading(max_document_chars=800)))
    train_tokenizer(texts, vocab_size=VOCAB).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def documents(tokenizer) -> list[np.ndarray]:
    """Ids of 60 documents, each ended by the end of text."""
    loaded = load_tokenizer(str(tokenizer))
    texts = list(read_documents("sotu", Reading(max_document_chars=800)))[:60]
    return [np.array([*ids, loaded.eos_token_id]) for ids in encode_documents(loaded, texts)]


def megatron(folder: Path, documents: list[np.ndarray], dtype: str = "<u2", code: int = 8) -> Path:
    """As megatron.core.datasets.indexed_dataset.IndexedDatasetBuilder writes it."""
    np.concatenate(documents).astype(dtype).tofile(folder / "text_document.bin")
    lengths = np.array([len(each) for each in documents])
    pointers = (np.cumsum(lengths) - lengths) * np.dtype(dtype).itemsize
    bounds = np.arange(len(documents) + 1)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(documents), len(bounds))
    index = head + lengths.astype("<i4").tobytes() + pointers.astype("<i8").tobytes()
    (folder / "text_document.idx").write_bytes(index + bounds.astype("<i8").tobytes())
    return folder / "text_document"


def datatrove(folder: Path, documents: list[np.ndarray], dtype: str = "<u2") -> Path:
    """As datatrove.pipeline.tokens.tokenizer.TokenizedFile writes it."""
    np.concatenate(documents).astype(dtype).tofile(folder / "00000_00000_shuffled.ds")
    ends = np.cumsum([len(each) for each in documents])
    (folder / "00000_00000_shuffled.ds.index").write_bytes(ends.astype("<u8").tobytes())
    metadata = f"gpt2|{np.dtype(dtype).itemsize}\n{ends[-1]}\n1 kT"
    (folder / "00000_00000_shuffled.ds.metadata").write_text(metadata)
    return folder


def llm_c(folder: Path, documents: list[np.ndarray]) -> Path:
    head = np.zeros(256, dtype="<i4")
    head[:3] = 20240520, 1, sum(map(len, documents))
    path = folder / "train.bin"
    path.write_bytes(head.tobytes() + np.concatenate(documents).astype("<u2").tobytes())
    return path


def raw(folder: Path, documents: list[np.ndarray], dtype: str = "<u2", name: str = "train.bin") -> Path:
    np.concatenate(documents).astype(dtype).tofile(folder / name)
    return folder / name


def npy(folder: Path, documents: list[np.ndarray]) -> Path:
    np.save(folder / "train.npy", np.concatenate(documents).astype(np.uint16))
    return folder / "train.npy"


def _table(documents: list[np.ndarray]) -> pa.Table:
    ids = pa.array([each.tolist() for each in documents], type=pa.list_(pa.int32()))
    return pa.table({"input_ids": ids, "attention_mask": pa.array([[1]] * len(documents))})


def arrow(folder: Path, documents: list[np.ndarray]) -> Path:
    """As datasets.Dataset.save_to_disk writes it: a stream of batches, and what names it."""
    table = _table(documents)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")
    return folder


def parquet(folder: Path, documents: list[np.ndarray]) -> Path:
    pq.write_table(_table(documents), folder / "train.parquet", row_group_size=7)
    return folder / "train.parquet"


WRITERS = {
    "megatron": megatron,
    "megatron-int32": lambda folder, documents: megatron(folder, documents, "<i4", 4),
    "datatrove": datatrove,
    "datatrove-4": lambda folder, documents: datatrove(folder, documents, "<u4"),
    "raw": raw,
    "raw-uint32": lambda folder, documents: raw(folder, documents, "<u4"),
    "raw-npy": lambda folder, documents: raw(folder, documents, name="part-0.npy"),
    "llm.c": llm_c,
    "npy": npy,
    "arrow": arrow,
    "parquet": parquet,
}


def spec_of(corpus: Path, tokenizer: Path, **settings) -> DataSpec:
    table = {"text_column": "input_ids", "validation_documents": 9, "validation_tokens_per_document": 50}
    return DataSpec(corpus=str(corpus), tokenizer=str(tokenizer), **(table | settings))


@pytest.fixture(scope="module")
def stores(tmp_path_factory, tokenizer, documents) -> dict[str, TokenStore]:
    """The documents in every layout, prepared."""
    made = {}
    for name, write in WRITERS.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "shards").mkdir()
        made[name] = prepare_data(spec_of(write(folder / "shards", documents), tokenizer), folder / "run" / "data")
    return made


@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_gives_the_same_splits_by_document(stores, documents, name):
    store = stores[name]
    splits = store.manifest["splits"]
    assert sum(split["documents"] for split in splits.values()) == len(documents)
    heldout = [ids[1:].tolist() for ids in store.heldout_documents()]
    sides = {side: store.split(side, context=1).shards[0][:].tolist() for side in ("teacher", "student")}
    end = documents[0][-1]
    read = [ids for side in sides.values() for ids in _cut(side, end)]
    assert sorted(read + [d.tolist() for d in documents if d[:-1][:50].tolist() in heldout]) == sorted(
        each.tolist() for each in documents
    )
    assert len(heldout) == 9
    for side in ("teacher", "student", "union"):
        one, other = (each.split(side, context=16) for each in (store, stores["raw"]))
        order = BatchOrder(split=one, seed=3).window_ids(0, one.num_windows)
        assert np.array_equal(one.windows(order), other.windows(order))
    assert TokenStore.open(store.folder, verify=True).data_hash == store.data_hash


def _cut(ids: list[int], end: int) -> list[list[int]]:
    bounds = [0, *(np.flatnonzero(np.array(ids) == end) + 1)]
    return [ids[a:b] for a, b in itertools.pairwise(bounds)]


def test_ids_are_not_copied_but_for_what_is_held_out(stores):
    assert not list(stores["megatron"].folder.glob("teacher*.bin"))
    held = stores["megatron"].manifest["splits"]["validation"]["tokens"]
    assert sum(f.stat().st_size for f in stores["megatron"].folder.glob("*.bin")) == 2 * held


def test_documents_without_ends_of_text_are_known_by_the_index(tmp_path, tokenizer, documents):
    said = []
    bare = megatron(tmp_path, [each[:-1] for each in documents])
    store = prepare_data(spec_of(bare, tokenizer), tmp_path / "run" / "data", say=said.append)
    assert any("runs from one into the next" in line for line in said)
    assert sum(split["documents"] for split in store.manifest["splits"].values()) == len(documents)
    known = {tuple(each[:-1][:50].tolist()) for each in documents}
    assert all(tuple(ids[1:].tolist()) in known for ids in store.heldout_documents())


def test_measurements_read_ids_as_the_text_they_stand_for(tmp_path, tokenizer, documents):
    reading = Reading(tokenizer=str(tokenizer), text_column="input_ids")
    texts = list(read_documents("sotu", Reading(max_document_chars=800)))[:60]
    for write in (datatrove, parquet):
        folder = tmp_path / write.__name__
        folder.mkdir()
        assert list(read_documents(str(write(folder, documents)), reading)) == texts
    with pytest.raises(ConfigError, match="holds token ids: name the tokenizer"):
        next(read_documents(str(tmp_path / "datatrove")))


def test_a_trillion_ids_are_addressed_and_not_read(tmp_path, tokenizer):
    """A sparse file of 2 TB: ids at three places, the last far beyond 32 bits, holes between."""
    count, width = 10**12, 10**9
    block = np.arange(1, 10**6 + 1) % 250 + 1
    path = tmp_path / "huge.ds"
    with path.open("wb") as stream:
        stream.truncate(2 * count)
        for first in (0, count // 2, count - width):
            stream.seek(2 * first)
            stream.write(block.astype("<u2").tobytes())
    np.arange(width, count + 1, width, dtype="<u8").tofile(tmp_path / "huge.ds.index")  # a thousand documents
    store = prepare_data(spec_of(path, tokenizer, validation_documents=60), tmp_path / "run" / "data")
    split = store.split("union", context=1024)
    assert sum(len(shard) for shard in split.shards) == count - 60 * width
    order = BatchOrder(split=split, seed=1)
    ids = order.window_ids(10**8, 16)
    assert len(set(ids.tolist())) == 16
    assert ids.max() > 2**28
    assert split.windows(ids).shape == (16, 1025)
    starts = [shard[len(shard) - width :][: len(block)] for shard in split.shards]
    assert any(np.array_equal(start, block) for start in starts)


@pytest.mark.parametrize("size", [(1 << 27) + 1, 10**9 + 7])
def test_a_permutation_of_many_windows_is_one_and_seekable(size):
    split = Split(name="x", shards=(np.broadcast_to(np.zeros((), np.uint8), (2 * size + 1,)),), context=2)
    ids = BatchOrder(split=split, seed=5).window_ids(0, 20_000)
    assert len(set(ids.tolist())) == 20_000
    assert 0 <= ids.min() <= ids.max() < size
    assert abs(ids.mean() / size - 0.5) < 0.02  # standard error 0.002
    assert (BatchOrder(split=split, seed=5).window_ids(19_000, 100) == ids[19_000:19_100]).all()
    assert (BatchOrder(split=split, seed=6).window_ids(0, 100) != ids[:100]).any()


def test_a_small_scrambled_order_visits_everything(monkeypatch):
    monkeypatch.setattr("distillaw.data.shards.LISTED_WINDOWS", 10)
    for size in (11, 64, 1000):
        split = Split(name="x", shards=(np.zeros(2 * size + 1, np.uint8),), context=2)
        ids = BatchOrder(split=split, seed=5).window_ids(0, 2 * size)
        assert sorted(ids[:size].tolist()) == sorted(ids[size:].tolist()) == list(range(size))
        assert (ids[:size] != ids[size:]).any()


def _truncated(folder, documents):
    path = megatron(folder, documents)
    with Path(f"{path}.bin").open("r+b") as stream:
        stream.truncate(1000)
    return path


def _other_magic(folder, documents):
    path = megatron(folder, documents)
    Path(f"{path}.idx").write_bytes(b"TNTIDX\x00\x00" + bytes(100))
    return path


def _short_index(folder, documents):
    path = megatron(folder, documents)
    with Path(f"{path}.idx").open("r+b") as stream:
        stream.truncate(60)
    return path


def _no_ids(folder, documents):
    path = Path(f"{megatron(folder, documents)}.bin")
    path.unlink()
    return path.with_suffix(".idx")


def _odd(folder, documents):
    path = raw(folder, documents)
    path.write_bytes(path.read_bytes()[:-1])
    return path


def _short_ds(folder, documents):
    path = datatrove(folder, documents) / "00000_00000_shuffled.ds"
    path.write_bytes(path.read_bytes()[:-6])
    return path


def _beyond(folder, documents):
    return raw(folder, [*documents[:30], np.array([VOCAB + 5]), *documents[30:]])


def _floats(folder, documents):
    np.save(folder / "x.npy", np.concatenate(documents).astype(np.float32))
    return folder / "x.npy"


def _no_ends(folder, documents):
    return raw(folder, [each[:-1] for each in documents])


def _both(folder, documents):
    (folder / "README.txt").write_text("read me")
    raw(folder, documents)
    return folder


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_truncated, "1,000 bytes, text_document.idx says .*: truncated"),
        (_other_magic, "no index of Megatron-LM"),
        (_short_index, "truncated"),
        (_no_ids, "text_document.bin: missing; Megatron-LM's index text_document.idx is beside it"),
        (_odd, "no whole number of ids"),
        (_short_ds, "truncated, or the index of another file"),
        (_beyond, "id 305 is beyond the vocabulary of 300"),
        (_floats, "holds float32"),
        (_no_ends, "no end of text"),
        (_both, "holds text .* and token ids"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, tokenizer, documents, spoil, said):
    (tmp_path / "shards").mkdir()
    with pytest.raises((ConfigError, DataError), match=said):
        prepare_data(spec_of(spoil(tmp_path / "shards", documents), tokenizer), tmp_path / "run" / "data")
    assert not (tmp_path / "run" / "data" / "manifest.json").exists()


def test_a_type_that_cannot_hold_the_vocabulary_names_the_tokenizer_of_the_metadata(tmp_path, documents):
    path = datatrove(tmp_path, documents) / "00000_00000_shuffled.ds"
    with pytest.raises(DataError, match=r"uint16, which cannot hold .* 128,256 .*by its metadata gpt2"):
        open_tokens(path, "input_ids", 128_256, 0)


def test_characters_are_not_counted_in_ids_and_pieces_not_learnt_on_them(tmp_path, tokenizer, documents):
    spec = spec_of(raw(tmp_path, documents), tokenizer)
    with pytest.raises(ConfigError, match="count characters"):
        prepare_data(replace(spec, max_document_chars=100), tmp_path / "run" / "data")
    with pytest.raises(ConfigError, match="name the tokenizer that made them"):
        prepare_data(replace(spec, tokenizer=""), tmp_path / "run" / "data")
    with pytest.raises(ConfigError, match="pieces are learnt on text"):
        documents_of(spec, "teacher")


def test_a_file_that_changed_since_is_refused(tmp_path, tokenizer, documents):
    path = raw(tmp_path, documents)
    spec = spec_of(path, tokenizer)
    prepare_data(spec, tmp_path / "run" / "data")
    raw(tmp_path, documents[::-1])
    with pytest.raises(CacheError, match=r"train\.bin: other ids, changed since"):
        prepare_data(spec, tmp_path / "run" / "data")
    path.unlink()
    with pytest.raises(CacheError, match=r"train\.bin: missing"):
        TokenStore.open(tmp_path / "run" / "data")


@pytest.mark.parametrize("layout", ["megatron", "arrow"])
def test_training_stopped_anywhere_goes_on_bit_for_bit(tmp_path, stores, layout):
    """The batches after a stop are those of an undisturbed run, from a folder opened anew."""
    split = stores[layout].split("student", context=16)
    whole = BatchOrder(split=split, seed=2).batch(0, 3 * split.num_windows)
    again = TokenStore.open(stores[layout].folder, verify=True).split("student", context=16)
    for first in (1, split.num_windows - 1, 2 * split.num_windows + 3):
        assert np.array_equal(BatchOrder(split=again, seed=2).batch(first, 7), whole[first : first + 7])


def test_runs_and_stores_take_ids_where_they_take_text(tmp_path, tokenizer, documents):
    """`train` and `cache build` by the field `corpus`: a run of Megatron's files is the run of datatrove's."""
    for name, write in (("a", megatron), ("b", datatrove)):
        (tmp_path / name).mkdir()
        table = {"corpus": str(write(tmp_path / name, documents)), "tokenizer": str(tokenizer)}
        data = "".join(f'{key} = "{value}"\n' for key, value in table.items())
        text = RUN.format(tokens=2048).replace("vocab_size = 300\n", data).replace("max_document_chars = 800\n", "")
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"' + text)
        answer("train", tmp_path / f"{name}.toml", "--out", tmp_path / "runs" / name, "--json", code=0)
    one, other = ((next((tmp_path / "runs" / name / "runs").iterdir())) for name in "ab")
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    words = ("cache", "build", "--teacher", one, "--data", tmp_path / "runs" / "a" / "data", "--out")
    answer(*words, tmp_path / "cache", "--context", 32, "--json", code=0)
    words = ("evaluate", one, "--text", tmp_path / "b", "--tokenizer", tokenizer, "--out", tmp_path / "evaluated")
    answer(*words, "--json", code=0)


def test_megatrons_own_writer_is_read(tmp_path, tokenizer, documents):
    """Where megatron-core is at hand: two sequences a document, as preprocess_data writes sentences."""
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "own.bin"), dtype=np.int32)
    for ids in documents:
        builder.add_document(ids, [len(ids) // 2, len(ids) - len(ids) // 2])
    builder.finalize(str(tmp_path / "own.idx"))
    _read_alike(tmp_path, tmp_path / "own", tokenizer, documents)


def test_datatroves_own_writer_is_read(tmp_path, tokenizer, documents):
    """Where datatrove is at hand, whose files nanotron reads."""
    writer = pytest.importorskip("datatrove.pipeline.tokens.tokenizer").TokenizedFile
    (tmp_path / "own").mkdir()
    settings = {"tokenizer_name_or_path": "gpt2", "save_final_metadata": True, "token_size": 4}
    file = writer(str(tmp_path / "own"), "00000_unshuffled.ds", **settings)
    for ids in documents:
        file.write(ids.tolist(), None)
    file.close()
    _read_alike(tmp_path, tmp_path / "own", tokenizer, documents)


def _read_alike(tmp_path, corpus, tokenizer, documents):
    (tmp_path / "raw").mkdir()
    plain = prepare_data(spec_of(raw(tmp_path / "raw", documents), tokenizer), tmp_path / "a" / "data")
    own = prepare_data(spec_of(corpus, tokenizer), tmp_path / "b" / "data")
    for side in ("teacher", "student"):
        one, other = (store.split(side, context=8) for store in (own, plain))
        assert one.num_windows == other.num_windows
        assert np.array_equal(one.windows(range(one.num_windows)), other.windows(range(other.num_windows)))


@pytest.mark.slow
def test_datasets_own_writer_is_read(tmp_path, tokenizer, documents):
    rows = [each.tolist() for each in documents]
    table = pytest.importorskip("datasets").Dataset.from_dict({"input_ids": rows, "n": list(range(len(rows)))})
    table.save_to_disk(str(tmp_path / "own"), num_shards=2)
    _read_alike(tmp_path, tmp_path / "own", tokenizer, documents)
