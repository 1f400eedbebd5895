"""How busy a study keeps the cores: CPU time of scheduler and workers over wall time times workers.

    python -m benchmarks.studies.busy [--study studies/quickstart.toml] [--out benchmarks/results/study_busy.json]

Runs the study from nothing in a temporary folder. CPU time is the operating system's, for the scheduler and all worker
processes; wall time is the whole study's, tokenising and start-up included. On a shared machine it reads low.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

from benchmarks import ROOT
from distillaw.cli.progress import LogDisplay
from distillaw.runs.files import write_text
from distillaw.runs.process import available_cores
from distillaw.sweep.checks import load_study
from distillaw.sweep.cost import study_cost
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.study import run_study


def main() -> None:
    """Run the study, print and write the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "quickstart.toml")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    spec = load_study(arguments.study)
    cost = study_cost(spec, spec.data.vocab_size)
    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_study(
            spec,
            Path(folder),
            place=lambda study: LocalExecutor(study, cores),
            display=LogDisplay(cost.tokens),
            command="benchmark",
        )
    result = {
        "command": f"python -m benchmarks.studies.busy --study {arguments.study.name}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs": len(set(outcome.done)),
        "failed": len(outcome.failed),
        "workers": cores,
        "wall_seconds": round(outcome.wall_seconds, 1),
        "cpu_seconds": round(outcome.busy_seconds, 1),
        "busy": round(outcome.busy_seconds / outcome.wall_seconds / cores, 3),
        "estimated_core_seconds": round(sum(cost.seconds), 1),
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        write_text(arguments.out, json.dumps(result, indent=1) + "\n", known=True)


if __name__ == "__main__":
    main()
