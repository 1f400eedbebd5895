"""A study of five short runs, long enough that its workers can be killed while they train, and calls of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

SETTINGS = """
batch_tokens = 128
peak_lr = 0.01
[data]
vocab_size = 300
validation_documents = 20
validation_tokens_per_document = 96
max_document_chars = 4000
[training]
context = 32
warmup_tokens = 512
[tuning]
enabled = false
"""
STUDY = f"""
name = "long"
{SETTINGS}
[students]
params = ["0.03M"]
tokens = ["60k", "120k"]
[[teachers]]
params = "0.03M"
tokens = "120k"
"""

OF_THE_DAY = ("seconds", "teacher_flops_spent")
"""Time, and how much of the teacher's work a run did itself, depend on who trained beside it when something died."""


def write(folder: Path) -> Path:
    """The study file, in a folder."""
    file = folder / "long.toml"
    file.write_text(STUDY)
    return file


def start(study: Path, folder: Path, *options: str) -> subprocess.Popen:
    """`distillaw study run` as a process of its own; checkpoints every half second."""
    process = subprocess.Popen(
        [sys.executable, "-m", "distillaw", "study", "run", str(study), "--out", str(folder), "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"DISTILLAW_CHECKPOINT_SECONDS": "0.5"},
    )
    _STARTED.append(process)
    return process


_STARTED: list[subprocess.Popen] = []


def end_all() -> None:
    """End what a failed test left running."""
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen, *, code: int = 0) -> dict:
    """Wait for a call; what it printed as JSON."""
    out, err = process.communicate(timeout=1500)
    assert process.returncode == code, err
    return json.loads(out) if code == 0 else {"error": err}


def table(folder: Path) -> dict[str, dict]:
    """runs.parquet by run id, without what depends on the day."""
    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    return {row["run_id"]: {k: v for k, v in row.items() if k not in OF_THE_DAY} for row in rows}


def events(folder: Path, kind: str) -> list[dict]:
    """Lines of the journal of one kind."""
    file = folder / "journal.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if row["event"] == kind]


def busy_worker(folder: Path, process: subprocess.Popen) -> dict:
    """A worker that is training now, as scheduler.json tells."""

    def look() -> dict | None:
        file = folder / "scheduler.json"
        workers = json.loads(file.read_text())["workers"] if file.exists() else []
        lost = [event["where"] for event in events(folder, "lost")]  # the file may be a moment old
        return next((w for w in workers if w["tokens"] > 1000 and w["where"] not in lost), None)

    return eventually(look, process)


def eventually(look: Callable, process: subprocess.Popen | None = None, *, seconds: float = 900):
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    return found
