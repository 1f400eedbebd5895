"""Runs of a table as scripts log them to trackers, and the check that an import gives the table back."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of a run after which it is evaluated."""


MAPPING = "teacher_run=kd.teacher,lambda=kd.weight,group=trunk,tokens=train/tokens"
"""For `--columns`: what of `as_logged` has no usual name."""


def as_logged(row: dict) -> dict:
    """Settings, and a history of steps that ends in the measured loss."""
    config = {
        "model": {"non_embedding_params": row["params"], "total_params": row["total_params"], "width": row["width"]},
        "optim": {"lr": row["peak_lr"]},
        "seed": row["seed"],
        "trunk": row["group"],
        "kd": {"teacher": row["teacher_run"], "weight": row["lambda"]},
    }
    history = []
    for share in SHARES:
        step = max(1, round(row["steps"] * share))
        seen = round(row["tokens"] * share)
        history.append(
            (step, {"train/loss": row["loss"] - 0.1, "train/tokens": seen, "lr": row["peak_lr"] * (1.25 - share)})
        )
        history.append((step, {"eval/loss": row["loss"] + 2 * (1 - share)}))
    return {"name": row["run_id"], "config": config, "history": history}


def in_process_of_its_own(script: str, folder: Path, runs: list[dict], **environment: str) -> None:
    """Let a tracker log runs far from our warnings and settings; `runs` and `folder` are known to the script."""
    (folder / "runs.json").write_text(json.dumps(runs))
    head = f"import json\nfolder = {str(folder)!r}\nruns = json.load(open(folder + '/runs.json'))\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    (folder / "runs.json").unlink()


def check_same_numbers(rows: list[dict], pocket: list[dict], *, rtol: float = 0.0) -> None:
    """Every number of every run as it was measured."""
    assert len(rows) == len(pocket)
    found = {row["source_run"].removeprefix("runs/"): row for row in rows}
    for expected in pocket:
        row = found[expected["run_id"]]
        for name in ("params", "total_params", "width", "seed"):
            assert row[name] == expected[name]
        assert row["tokens"] == pytest.approx(expected["tokens"], rel=rtol)
        for name in ("loss", "peak_lr", "lambda"):
            assert row[name] == pytest.approx(expected[name], rel=rtol, abs=0)
        if expected["teacher_run"]:
            teacher = found[expected["teacher_run"]]
            assert (row["teacher_run"], teacher["role"]) == (teacher["run_id"], "teacher")
            for name in ("teacher_loss", "teacher_params", "teacher_tokens"):
                assert row[name] == pytest.approx(expected[name], rel=rtol)
        else:
            assert row["teacher_run"] is row["teacher_loss"] is None
        assert row["role"] == expected["role"]


def write_csv(path: Path, rows: list[dict]) -> Path:
    """A table with the keys of the first row as header."""
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def grid() -> list[dict]:
    """Nine supervised runs of one law."""
    return [
        {"params": n, "tokens": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28}
        for n in (1e6, 4e6, 16e6)
        for d in (1e8, 4e8, 16e8)
    ]


THEIRS = {
    "name": "run_id",
    "trunk": "group",
    "size": "params",
    "toks": "tokens",
    "val_loss": "loss",
    "teacher": "teacher_run",
    "kd": "lambda",
    "seed": "seed",
}
"""A stranger's column -> what it is in the pocket table."""
