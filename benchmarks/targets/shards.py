"""How fast are windows of other tools' token shards read, against a plain np.memmap?

    python -m benchmarks.targets.shards

The same ids in every layout, windows in the order of a seed; every layout in turn, several rounds, medians. Warm: a
file of 128 MB in the page cache. Cold: windows of a sparse file of 200 GB, which no cache holds: holes, so what the
disk delivers is not in it, but what the kernel reads ahead for nothing is.
"""

import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.result_file import save, typed
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.data.shards import BatchOrder, Split, TokenStore
from distillaw.data.tokenizer import word_tokenizer

RESULT = Path(__file__).parents[1] / "results" / "shards.json"
IDS, LENGTH, CONTEXT, BATCH, BATCHES, ROUNDS = 1 << 26, 1 << 10, 1024, 16, 64, 7


def main() -> None:
    """Write, prepare, read, save."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        word_tokenizer([f"w{i}" for i in range(30_000)]).save_pretrained(str(folder / "tokenizer"))
        ids = np.random.default_rng(0).integers(0, 30_000, IDS).astype("<u2")
        ids[LENGTH - 1 :: LENGTH] = 30_000
        splits = {"np.memmap": _plain(folder, ids)}
        seconds = {}
        for name, write in WRITERS.items():
            (folder / name).mkdir()
            began = time.perf_counter()
            store = _prepared(write(folder / name, ids), folder, folder / f"{name}-run")
            seconds[name] = time.perf_counter() - began
            splits[name] = store.split("student", context=CONTEXT)
        found = _timed({name: _reader(split) for name, split in splits.items()})
        for name, rate in found.items():
            print(f"{name:12} {rate / 1e6:7.1f}M ids/s, {rate / found['np.memmap']:.2f} of np.memmap")
        cold = _cold(folder)
        print(f"cold windows/s: {cold}")
        save(RESULT, typed(), ids_per_second=found, prepare_seconds=seconds, cold_windows_per_second=cold)


def _prepared(corpus: Path, folder: Path, out: Path) -> TokenStore:
    spec = DataSpec(corpus=str(corpus), tokenizer=str(folder / "tokenizer"), text_column="input_ids")
    return prepare_data(spec, out / "data")


def _plain(folder: Path, ids: np.ndarray) -> Split:
    ids[: IDS // 2].tofile(folder / "plain.bin")
    return Split(name="plain", shards=(np.memmap(folder / "plain.bin", dtype="<u2", mode="r"),), context=CONTEXT)


def _raw(folder: Path, ids: np.ndarray) -> Path:
    ids.tofile(folder / "train.bin")
    return folder


def _npy(folder: Path, ids: np.ndarray) -> Path:
    np.save(folder / "train.npy", ids)
    return folder


def _datatrove(folder: Path, ids: np.ndarray) -> Path:
    ids.tofile(folder / "train.ds")
    np.arange(LENGTH, len(ids) + 1, LENGTH, dtype="<u8").tofile(folder / "train.ds.index")
    return folder


def _megatron(folder: Path, ids: np.ndarray) -> Path:
    ids.tofile(folder / "train.bin")
    count = len(ids) // LENGTH
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, count, count + 1)
    lengths, pointers = np.full(count, LENGTH, dtype="<i4"), np.arange(count, dtype="<i8") * 2 * LENGTH
    bounds = np.arange(count + 1, dtype="<i8")
    (folder / "train.idx").write_bytes(head + lengths.tobytes() + pointers.tobytes() + bounds.tobytes())
    return folder


def _rows(ids: np.ndarray) -> pa.Table:
    offsets = pa.array(np.arange(0, len(ids) + 1, LENGTH, dtype=np.int32))
    return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids.astype(np.int32)))})


def _arrow(folder: Path, ids: np.ndarray) -> Path:
    table = _rows(ids)
    with pa.ipc.new_stream(str(folder / "train.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)
    return folder


def _parquet(folder: Path, ids: np.ndarray) -> Path:
    pq.write_table(_rows(ids), folder / "train.parquet")
    return folder


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "raw": _raw,
    "npy": _npy,
    "datatrove": _datatrove,
    "megatron": _megatron,
    "arrow": _arrow,
    "parquet": _parquet,
}


def _reader(split: Split) -> Callable[[int], None]:
    order = BatchOrder(split=split, seed=0)
    order.window_ids(0, 1)  # the permutation is made once an epoch
    return lambda batch: order.batch(batch * BATCH, BATCH).sum()


def _timed(readers: dict[str, Callable[[int], None]]) -> dict[str, float]:
    """Ids per CPU-second, medians over rounds in which every layout has its turn."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, read in readers.items():
            began = time.process_time()
            for batch in range(BATCHES):
                read(batch)
            rates[name].append(BATCHES * BATCH * CONTEXT / (time.process_time() - began))
    return {name: statistics.median(each) for name, each in rates.items()}


def _cold(folder: Path) -> dict[str, float]:
    """Windows per second of a sparse file, read where nothing has been read before."""
    path, count, width = folder / "sparse" / "train.ds", 10**11, 10**8
    path.parent.mkdir()
    with path.open("wb") as stream:
        stream.truncate(2 * count)
    np.arange(width, count + 1, width, dtype="<u8").tofile(Path(f"{path}.index"))
    store = _prepared(path, folder, folder / "sparse-run")
    plain = Split(name="plain", shards=(np.memmap(path, dtype="<u2", mode="r"),), context=CONTEXT)
    found = {}
    for seed, (name, split) in enumerate(
        {"np.memmap": plain, "datatrove": store.split("student", context=CONTEXT)}.items()
    ):
        windows = np.random.default_rng(seed).integers(0, split.num_windows, 64)
        began = time.perf_counter()
        split.windows(windows)
        found[name] = len(windows) / (time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main()
