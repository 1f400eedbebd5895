"""What large tables cost: a fit of a million rows, an import of a hundred thousand runs, a report of them.

    OMP_NUM_THREADS=1 python benchmarks/large_tables.py --out benchmarks/results/large_tables.json
    OMP_NUM_THREADS=1 python benchmarks/large_tables.py --source ../older/src --label before --out ...

Seconds of CPU time of each whole command, start-up included; `--label` adds an entry beside those that the file has.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import distillaw as dl


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


def cpu_seconds(source: Path, *words: object) -> float:
    """CPU time of one command of the package at `source`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "distillaw", *map(str, words), "--quiet"], check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(source.resolve())},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def measure(source: Path, rows: int, runs: int, reported: int) -> dict[str, float]:
    """{command: CPU seconds}."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder / "rows.csv", rows, named=False)
        write_runs(folder / "runs.csv", runs, named=True)
        found = {"start": cpu_seconds(source, "laws")}
        if rows:
            found["fit"] = cpu_seconds(source, "fit", folder / "rows.csv", "--law", "supervised")
        found["import"] = cpu_seconds(source, "study", "import", folder / "runs.csv", "--out", folder / "all")
        if reported:
            write_runs(folder / "some.csv", reported, named=True)
            subprocess.run([sys.executable, "-m", "distillaw", "study", "import", folder / "some.csv", "--quiet",
                "--out",
                            folder / "some"], check=True)  # fmt: skip
            found["report"] = cpu_seconds(source, "report", folder / "some")
        return found


def main() -> None:
    """Measure and add to the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the fit")
    parser.add_argument("--runs", type=int, default=100_000, help="of the import")
    parser.add_argument("--reported", type=int, default=100_000, help="runs of the report; 0 leaves it out")
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--label", default="now")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    entries = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    entries[asked.label] = {
        "command": " ".join(["python", *sys.argv]),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}",
        "rows": asked.rows, "runs": asked.runs, "reported": asked.reported,
        "cpu_seconds": measure(asked.source, asked.rows, asked.runs, asked.reported),
    }  # fmt: skip
    asked.out.write_text(json.dumps(entries, indent=1) + "\n")
    print(json.dumps(entries[asked.label], indent=1))


if __name__ == "__main__":
    main()
