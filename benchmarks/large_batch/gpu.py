"""Table 1's first row on a GPU in one call: F1 on MNIST at full size, columns with seeds, a short table last.

    python -m benchmarks.large_batch.gpu --data mnist.npz --out $OUT [--seeds 5] [--device cuda]

Writes OUT/large_batch.json, the cells, OUT/report.html and OUT/summary.json; a second call goes on where the first was
cut off. `--tiny` is the same in seconds on a CPU (width 16, 1,000 images), which tests/large_batch/images runs.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import ROOT
from distillaw.cli.large_batch import CUDA_WORKERS, CellWatch
from distillaw.cli.progress import metered
from distillaw.large_batch.images.spec import Batches, DiffusionSpec, ImageStudy, NetworkSpec, Schedule, read_study
from distillaw.large_batch.images.study import make_plan, run_study
from distillaw.report.large_batch import summarise, write_large_batch_report
from distillaw.runs.files import write_json

STUDY = ROOT / "studies" / "large-batch" / "mnist_f1.toml"


def tiny(study: ImageStudy) -> ImageStudy:
    """The study's shape in seconds."""
    return replace(
        study,
        network=NetworkSpec(kind="f1", width=16),
        batches=Batches(small=50, large=200),
        data=replace(study.data, train_images=1000),
        schedule=Schedule(epochs=2),
        seeds=2,
        diffusion=DiffusionSpec(batches=(50, 100, 200)),
    )


def table(summary: dict) -> str:
    """Columns, one line each."""
    lines = [f"{'column':10s} {'accuracy %':>10s} {'95 % interval':>16s} {'paper':>6s} {'CPU s/cell':>10s}"]
    for score in summary["columns"]:
        interval = "-" if score["interval"] is None else "{:.2f} to {:.2f}".format(*score["interval"])
        paper = "-" if score["paper"] is None else f"{score['paper']:.2f}"
        lines.append(
            f"{score['column']:10s} {score['mean']:10.2f} {interval:>16s} {paper:>6s} {score['seconds']:10.0f}"
        )
    for gain in summary["gains"]:
        real = "significant" if gain["is_significant"] else "not significant"
        lines.append(f"{gain['after']:>8s} - {gain['before']:8s} {gain['mean']:+6.2f} points, {real}")
    return "\n".join([*lines, f"{summary['seconds']:.0f} s on {summary['machine']}"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=CUDA_WORKERS)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(arguments)
    study = replace(read_study(STUDY), seeds=asked.seeds)
    plan = make_plan(tiny(study) if asked.tiny else study, asked.data, asked.out)
    command = " ".join(["python", "benchmarks/large_batch/gpu.py", *(arguments or sys.argv[1:])])
    with metered(plan.study.name, 0.0, "images") as meter:
        watch = CellWatch(plan, meter)
        run_study(
            plan,
            device=asked.device,
            workers=asked.workers,
            command=command,
            finished=watch.finished,
            progressed=watch.progressed,
        )
    write_large_batch_report(asked.out)
    summary = summarise(asked.out)
    write_json(asked.out / "summary.json", json.loads(json.dumps(summary)))
    print(table(summary))


if __name__ == "__main__":
    main()
