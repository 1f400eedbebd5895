"""What branch tests came to, in one small file: losses, decisions, comparisons, noise scales.

distillaw study run benchmarks/large_batch/branch_teacher.toml --out out/teacher
TEST="distillaw branch benchmarks/large_batch/branch_run.toml --window 65_536 --anneal 0.5"
$TEST --out out/early --at 102_400 --multiples 0.25,0.5,1,2,4,8 --trunks distilled,supervised --losses own
$TEST --out out/late --at 307_200 --multiples 0.5,1,2,4,8 --trunks distilled,supervised --losses own
python -m benchmarks.large_batch.branch out/early out/late --out benchmarks/results/branch.json

The file that is kept has three more: both losses from the distilled checkpoint (no --trunks, no --losses), and the
late one at a constant rate (no --anneal). All share one folder there, so that checkpoints are reached once.
"""

import argparse
import json
from pathlib import Path

from benchmarks.result_file import save, typed

ROW = (
    "batch_tokens",
    "rate",
    "steps",
    "losses",
    "excess",
    "excess_interval",
    "fails",
    "gain_lost",
    "diverged",
    "seconds",
)
DECISION = (
    "loss",
    "tolerance_from",
    "tolerance",
    "status",
    "largest_passing",
    "smallest_failing",
    "critical_batch",
    "critical_batch_interval",
    "noise",
    "level",
)
NOISE = ("value", "low", "high", "trace", "trace_se", "grad_sq", "grad_sq_se", "small", "big", "steps")


def summary(record: dict) -> dict:
    """The numbers of branch.json that a reader wants."""
    kept = {key: record[key] for key in ("command", "made", "version", "machine", "run", "test")}
    kept["forks"] = [
        {"tokens": fork["tokens"], "comparisons": fork["comparisons"], "arms": [_arm(arm) for arm in fork["arms"]]}
        for fork in record["forks"]
    ]
    return kept


def _arm(arm: dict) -> dict:
    return {
        **{key: arm[key] for key in ("trunk", "loss", "before")},
        "rows": [{key: row[key] for key in ROW} for row in arm["rows"]],
        "decisions": [{key: one[key] for key in DECISION} for one in arm["decisions"]],
        "noise_scale": arm["noise_scale"] and {key: arm["noise_scale"][key] for key in NOISE},
    }


def _rounded(value: object) -> object:
    """Six digits of every number: more than any of them is known to."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    records = [json.loads((folder / "branch.json").read_text()) for folder in options.folders]
    tests = [_rounded(summary(record)) for record in records]
    save(options.out, typed(), tests=tests)


if __name__ == "__main__":
    main()
