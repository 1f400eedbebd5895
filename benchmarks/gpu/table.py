"""The larger open table (studies/open-large.toml) in slices: an ordinary study, asked to stop in time, that goes on.

    python -m benchmarks.gpu.table BOOKS.parquet --out TEXT.parquet     # the text, as small as it goes

The study's folder stays on the machine, since its models are larger than what comes back from one. What comes back
after a slice are the records of its runs (settings, results, held-out losses): all that laws are fitted on.
"""

import argparse
import json
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

from benchmarks import ROOT
from benchmarks.gpu.place import Cells, Place, Row, SkippedError

STUDY = ROOT / "studies" / "open-large.toml"
MARGIN = 60.0
"""Seconds for a worker to save, and for packing."""
RECORDS = {"spec.json", "result.json", "heldout.parquet", "status.json"}
CHARACTERS = 260_000
"""Kept of each document: 710 classic books have 144M so, some 60M tokens of a vocabulary of 512."""


def cells(place: Place) -> Cells:
    """One cell, done when nothing of the study is left."""
    return {"slices": partial(_slice, place)}


def _slice(place: Place) -> Row:
    study, options = STUDY, ["--corpus", place.corpus]
    if place.is_rehearsal:
        study, options = _small(place.work / "open-large.toml"), []
    elif not place.corpus:
        raise SkippedError("no text: give --corpus (python -m benchmarks.gpu.table makes it)")
    folder, began = place.work / "open-large", time.monotonic()
    command = [sys.executable, "-m", "distillaw", "study", "run", str(study), *options, "--out", str(folder)]
    with subprocess.Popen([*command, "--workers", "1", "--quiet"], stdout=subprocess.DEVNULL) as run:
        try:
            code = run.wait(timeout=max(1.0, place.until - MARGIN - time.monotonic()))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGINT)
            code = run.wait()
    asked = [sys.executable, "-m", "distillaw", "study", "status", str(folder), "--json"]
    status = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    with tarfile.open(place.work / "open-large.tar.xz", "w:xz") as records:
        for file in sorted(folder.rglob("*")):
            if file.name in RECORDS or (file.parent == folder and file.suffix in (".json", ".parquet", ".html")):
                records.add(file, file.relative_to(place.work))
    figures = {key: status[key] for key in ("done", "known", "failures", "flops", "core_seconds")}
    return {"exit_code": code, "slice_seconds": time.monotonic() - began, **figures, "left": not status["is_complete"]}


def _small(path: Path) -> Path:
    """The study's shape in seconds: the shipped text, two teachers, one student."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        'name = "open-large"\nbatch_tokens = 192\npeak_lr = 0.01\n'
        "[data]\nvocab_size = 300\nvalidation_documents = 20\nvalidation_tokens_per_document = 96\n"
        "max_document_chars = 800\n[training]\ncontext = 32\nwarmup_tokens = 512\n[tuning]\nenabled = false\n"
        '[students]\nparams = ["0.03M"]\ntokens = ["4k"]\n'
        '[[teachers]]\nparams = "0.05M"\ntokens = "4k"\n[[teachers]]\nparams = "0.05M"\ntokens = "8k"\n'
        '[target]\nparams = "0.03M"\ntokens = "4k"\n'
    )
    return path


def main() -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path, help="Parquet files with a column `text`")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    texts = [
        (text or "")[:CHARACTERS]
        for path in asked.texts
        for text in pq.read_table(path, columns=["text"])["text"].to_pylist()
    ]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), asked.out, compression="zstd", compression_level=19, use_dictionary=False)
    size = asked.out.stat().st_size / 2**20
    print(f"{len(texts)} documents, {sum(map(len, texts)) / 1e6:.0f}M characters, {size:.1f} MiB")


if __name__ == "__main__":
    main()
