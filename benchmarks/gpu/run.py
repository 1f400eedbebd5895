"""The campaign for a GPU: parts that each fit a call of ten minutes, go on where they were cut off, and end as results.

    python -m benchmarks.gpu.run                      # every part, on the GPU, into benchmarks/results/gpu
    python -m benchmarks.gpu.run loss step            # some
    python -m benchmarks.gpu.run --rehearse --out out/rehearsal     # all of it, tiny, on a CPU

A part is a list of cells. Each cell is saved when it is done, with device, versions and date, and not measured again on
that device; what failed or was cut off is tried once more, last. Each part is a process of its own, ended at the limit.
Exit code 0: nothing is left; 3: something is, and the same command goes on.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import RESULTS, ROOT
from benchmarks.gpu import correct, kernels, table, training
from benchmarks.gpu.place import Cells, Place, Row, SkippedError, versions
from benchmarks.result_file import save
from distillaw.runs.files import read_json

PARTS: dict[str, Callable[[Place], Cells]] = {
    "correct": correct.cells,
    "loss": kernels.losses,
    "step": training.steps,
    "published": training.published,
    "stacked": kernels.stacks,
    "fsdp": training.sharded,
    "study": table.cells,
}
"""In order of what a first half hour should show; the study last, which takes what time there is."""
LIMIT = 540.0
"""Seconds of one call: the machine at hand ends a command after 600."""
LEAST = 60.0
"""Seconds that must be left for a cell to begin."""
ATTEMPTS = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "gpu", help="folder of what is no result")
    parser.add_argument("--corpus", default="", help="text of the larger table")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="limit of this call")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--here", action="store_true", help="in this process (what the command itself calls)")
    asked = parser.parse_args(arguments)
    if wrong := sorted(set(asked.parts) - PARTS.keys()):
        parser.error(f"no part {', '.join(wrong)}; there are {', '.join(PARTS)}")
    if not asked.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --rehearse runs every part, tiny, on the CPU")
    place = Place(
        device=torch.device("cpu" if asked.rehearse else "cuda"),
        is_rehearsal=asked.rehearse,
        corpus=asked.corpus,
        work=asked.work,
        until=time.monotonic() + asked.seconds,
    )
    is_left = False
    for name in asked.parts or PARTS:
        if asked.here:
            is_left |= not perform(name, place, asked.out)
        else:
            is_left |= not _apart(name, place, asked.out)
    return 3 if is_left else 0


def _apart(name: str, place: Place, out: Path) -> bool:
    """`perform` in a process that is ended at the limit; whether the part is finished."""
    if not _open(name, place, out):
        print(f"{name}: finished before")
        return True
    seconds = place.until - time.monotonic()
    if seconds < LEAST and place.on_gpu:
        print(f"{name}: no time left")
        return False
    command = [sys.executable, "-m", "benchmarks.gpu.run", name, "--here", "--out", str(out)]
    command += ["--work", str(place.work), "--corpus", place.corpus, "--seconds", str(seconds)]
    command += ["--rehearse"] if place.is_rehearsal else []
    with subprocess.Popen(command, start_new_session=True) as part:
        try:
            part.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"{name}: cut off at the limit")
        with contextlib.suppress(ProcessLookupError):  # what it left behind goes too
            os.killpg(part.pid, signal.SIGKILL)
    return not _open(name, place, out)


def perform(name: str, place: Place, out: Path) -> bool:
    """Measure what a part lacks on this device; whether it is finished."""
    path, rows, cells = out / f"{name}.json", _rows(out / f"{name}.json"), PARTS[name](place)
    for cell in _open(name, place, out):
        if place.on_gpu and place.until - time.monotonic() < LEAST:
            return False
        tried = next((row for row in rows if _is(row, cell, place)), {"attempts": 0})
        rows = [row for row in rows if not _is(row, cell, place)]
        row: Row = {"cell": cell, "device": place.name, "date": time.strftime("%Y-%m-%d %H:%M")}
        attempts = int(tried["attempts"]) + 1  # type: ignore[call-overload]
        _save(path, [*rows, {**row, "attempts": attempts, "failed": "cut off"}], place)
        began = time.monotonic()
        try:
            row |= cells[cell]()
        except SkippedError as reason:
            row["skipped"] = str(reason)
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {(str(error).splitlines() or ['-'])[0]}"
        rows.append({**row, "attempts": attempts, "took": round(time.monotonic() - began, 1)})
        _save(path, rows, place)
        print(f"{name}: {json.dumps(rows[-1], default=float)}", flush=True)
    return not _open(name, place, out)


def _open(name: str, place: Place, out: Path) -> list[str]:
    """Cells of a part that are still to be measured on this device, those never tried first."""
    known = {row["cell"]: row for row in _rows(out / f"{name}.json") if row["device"] == place.name}

    def is_done(cell: str) -> bool:
        row = known.get(cell)
        if row is None or row.get("left"):
            return False
        return "failed" not in row or int(row["attempts"]) >= ATTEMPTS  # type: ignore[call-overload]

    return sorted((cell for cell in PARTS[name](place) if not is_done(cell)), key=known.__contains__)


def _is(row: Row, cell: str, place: Place) -> bool:
    return (row["cell"], row["device"]) == (cell, place.name)


def _rows(path: Path) -> list[Row]:
    return list(read_json(path)["rows"]) if path.exists() else []


def _save(path: Path, rows: list[Row], place: Place) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.gpu.run {path.stem}" + (" --rehearse" if place.is_rehearsal else "")
    save(path, command, machine=f"{place.name}, {os.cpu_count()} cores", **versions(), rows=rows)


if __name__ == "__main__":
    sys.exit(main())
