"""What large tables cost: a fit of a million rows, an import of a hundred thousand runs, a report of them.

    OMP_NUM_THREADS=1 python -m benchmarks.answers.large_tables --out large_tables.json
    OMP_NUM_THREADS=1 python -m benchmarks.answers.large_tables --before ../older/src --out FILE

Seconds of CPU time of each whole command, start-up included. With `--before`, the source of an older version, each
command runs in both, one after the other, and for 120 CPU seconds at most: a ratio with such a number is a lower bound.
A report of 100,000 runs runs only in the present one, since it did not end.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import distillaw as dl
from benchmarks import ROOT
from distillaw.runs.files import write_text


def write_runs(path: Path, count: int, *, named: bool) -> None:
    """Runs of a published law with 0.3 % of noise."""
    rng = np.random.default_rng(0)
    params = np.exp(rng.uniform(np.log(1e7), np.log(1e10), count)).round()
    tokens = np.exp(rng.uniform(np.log(2e8), np.log(2e11), count)).round()
    loss = dl.published("busbridge2025").supervised(params=params, tokens=tokens)
    loss *= np.exp(rng.normal(0, 0.003, count))
    with path.open("w") as file:
        file.write("run,params,tokens,loss,seed\n" if named else "params,tokens,loss\n")
        for i in range(count):
            row = f"{params[i]:.0f},{tokens[i]:.0f},{loss[i]:.6f}\n"
            file.write(f"run-{i},{row[:-1]},{i % 5}\n" if named else row)


MOST = 120
"""CPU seconds after which a command is stopped: an older version may never end."""


def cpu_seconds(source: Path, *words: object) -> float:
    """CPU time of one command of the package at `source`; of one that was stopped, what it had used by then."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "distillaw", *map(str, words), "--quiet"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(source.resolve())},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (MOST, MOST)),
    )
    if done.returncode not in (0, -signal.SIGXCPU, -signal.SIGKILL):
        done.check_returncode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def import_runs(source: Path, folder: Path, count: int, label: str) -> tuple[Path, float]:
    """The study folder, and the CPU seconds of its import."""
    table, out = folder / f"{count}.csv", folder / f"{label}-{count}"
    if not table.exists():
        write_runs(table, count, named=True)
    return out, cpu_seconds(source, "study", "import", table, "--out", out)


def measure(sources: dict[str, Path], rows: int, runs: int, reported: int) -> dict[str, dict[str, float]]:
    """CPU seconds by command and version."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder / "rows.csv", rows, named=False)
        found: dict[str, dict[str, float]] = {}

        def note(command: str, label: str, seconds: float) -> None:
            found.setdefault(command, {})[label] = seconds
            print(f"{command}: {label} {seconds} s", file=sys.stderr, flush=True)

        for label, source in sources.items():
            note("start", label, cpu_seconds(source, "laws"))
        for label, source in sources.items():
            note(f"fit of {rows:,} rows", label, cpu_seconds(source, "fit", folder / "rows.csv", "--law", "supervised"))
        for label, source in sources.items():
            study, _ = import_runs(source, folder, reported, label)
            note(f"report of {reported:,} runs", label, cpu_seconds(source, "report", study))
        for label, source in reversed(sources.items()):
            study, seconds = import_runs(source, folder, runs, label)
            note(f"import of {runs:,} runs", label, seconds)
            if label == "now":
                note(f"report of {runs:,} runs", label, cpu_seconds(source, "report", study))
        return found


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the fit")
    parser.add_argument("--runs", type=int, default=100_000, help="of the import, and of a report")
    parser.add_argument("--reported", type=int, default=5_000, help="runs of the report that is compared")
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument("--before", type=Path, help="src of an older version")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    sources = ({"before": asked.before} if asked.before else {}) | {"now": asked.source}
    began = datetime.datetime.now(datetime.UTC)
    found = measure(sources, asked.rows, asked.runs, asked.reported)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "made": began.isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, one thread, load {os.getloadavg()[0]:.0f}",
        "commits": {label: commit_of(source) for label, source in sources.items()},
        "cpu_seconds": found,
        "ratio": {name: round(by["before"] / by["now"], 2) for name, by in found.items() if len(by) == 2},
    }
    write_text(asked.out, json.dumps(result, indent=1) + "\n", known=True)
    print(json.dumps(result, indent=1))


def commit_of(source: Path) -> str:
    """Of the checkout that a source lies in."""
    return subprocess.run(
        ["git", "-C", source, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
