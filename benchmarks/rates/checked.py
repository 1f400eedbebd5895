"""Would another rate have changed a study's answer? Every arm at its largest budget again, at other rates.

    python -m benchmarks.rates.checked STUDY.toml FOLDER [--sizes 0.1M] [--out RESULT.json]

FOLDER holds the finished study. Each trunk of the grid that reaches the largest budget (students alone and from every
teacher, teachers, one seed) is trained again at a quarter, half and double the rate, schedule and all. Reported is what
the best of them saves, nats per token, with the paired interval over held-out documents, and whether the best rate of
each arm would have turned the gain. The runs are left in FOLDER, beside the study's; stopped, it goes on where it was.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import distillaw as dl
from benchmarks.result_file import save
from distillaw.runs.paired import paired_difference
from distillaw.runs.store import StudyFolder
from distillaw.sweep.checks import load_study
from distillaw.sweep.jobs import Planner
from distillaw.sweep.study import read_progress, stored_facts
from distillaw.train.trunk import train_trunks

MULTIPLES = (0.25, 0.5, 2.0)


def main() -> None:
    """Train what is missing, print and write what other rates save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", nargs="+", help="student sizes; default: the target's")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec, folder = load_study(arguments.study), StudyFolder(arguments.folder)
    assert spec.target is not None
    sizes, seed = arguments.sizes or [spec.target.params], spec.seed
    facts = stored_facts(folder)
    assert facts is not None, "the study is not finished"
    ready = Planner(spec, facts, read_progress(folder)).ready_jobs()
    largest = max(spec.students.tokens)
    jobs = [
        (job.trunk, max(job.budgets))
        for job in ready.jobs
        if job.trunk.seed == seed
        and (
            job.trunk.purpose == "teacher"
            or (job.trunk.purpose == "grid" and job.trunk.label in sizes and max(job.budgets) == largest)
        )
    ]
    rows = []
    for trunk, tokens in jobs:
        others = {
            m: replace(trunk, peak_lr=float(f"{trunk.peak_lr * m:.4g}"), purpose="control:rates") for m in MULTIPLES
        }
        errors = train_trunks({other: (tokens,) for other in others.values()}, folder)
        own, losses = folder.run(trunk.run_id(tokens)), {}
        loss = float(own.result()["loss"])
        for multiple, other in others.items():
            if other not in errors:
                losses[multiple] = float(folder.run(other.run_id(tokens)).result()["loss"])
        best = min(losses, key=lambda m: losses[m])
        saved = paired_difference(own.scores(), folder.run(others[best].run_id(tokens)).scores())
        arm = "teacher" if trunk.role == "teacher" else trunk.teacher_run or "alone"
        rows.append(
            {
                "arm": arm,
                "size": trunk.label,
                "tokens": tokens,
                "batch": trunk.batch_tokens,
                "peak_lr": trunk.peak_lr,
                "branch_lr": trunk.branch_lr(tokens),
                "loss": loss,
                "losses": losses,
                "best": best,
                "saved": saved.mean,
                "saved_interval": saved.interval(),
            }
        )
        print(
            arm,
            trunk.label,
            tokens,
            f"{loss:.4f}",
            {m: round(x, 4) for m, x in losses.items()},
            f"saves {saved.mean:.4f}",
            flush=True,
        )
    answer = dl.plan(spec.target.params, student_tokens=spec.target.tokens, study=arguments.folder)
    by_arm = {row["arm"]: row for row in rows if row["size"] == spec.target.params and row["arm"] != "teacher"}
    alone = by_arm["alone"]
    gains = {
        arm: {
            "as_run": alone["loss"] - row["loss"],
            "best_rates": min(alone["loss"], *alone["losses"].values()) - min(row["loss"], *row["losses"].values()),
        }
        for arm, row in by_arm.items()
        if arm != "alone"
    }
    record = {
        "study": spec.name,
        "rows": rows,
        "gains": gains,
        "verdict": answer.verdict,
        "probability": answer.probability,
        "gain": [answer.gain.lower, answer.gain.mean, answer.gain.upper],
        "warnings": list(answer.warnings),
    }
    print(json.dumps({key: record[key] for key in ("gains", "verdict", "probability", "gain", "warnings")}, indent=1))
    if arguments.out:
        save(arguments.out, f"python -m benchmarks.rates.checked {arguments.study.name} FOLDER", **record)


if __name__ == "__main__":
    main()
