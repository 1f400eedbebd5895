"""The critical batch as a small open table, and its power of the tokens with an interval.

Rows are the decisions on held-out loss of every branch test of branch.json. For each loss and each tolerance, runs that
are branched from their own checkpoint and cooled give

    ln B* = a + b ln D,  weighted by the decisions' own errors (half a 90 % interval is 1.645 of them)

An error is of orders of the text and documents; trunks have one seed each, so what a seed does is not in b's interval.

python -m benchmarks.large_batch.critical --out benchmarks/results/critical_batch.json
"""

import argparse
import csv
import json
import math
from pathlib import Path

import numpy as np

from benchmarks.result_file import save, typed

BRANCHES = Path("benchmarks/results/branch.json")
NORMAL = 1.645
"""Quantile of a 90 % interval."""
COLUMNS = (
    "params tokens trunk loss anneal peak_lr tolerance_from tolerance critical_batch low high noise_scale noise_low "
    "noise_high trace grad_sq"
).split()


def rows(tests: list[dict]) -> list[dict[str, object]]:
    """One per fork, loss and tolerance; forks that several tests share once."""
    found: dict[tuple[object, ...], dict[str, object]] = {}
    for test in tests:
        run, anneal = test["run"], test["test"]["anneal"]
        for fork in test["forks"]:
            for arm in fork["arms"]:
                noise = arm["noise_scale"]
                for decision in arm["decisions"]:
                    if decision["loss"] != "heldout":
                        continue
                    low, high = decision["critical_batch_interval"]
                    row = {
                        **{
                            "params": run["params"],
                            "tokens": fork["tokens"],
                            "trunk": arm["trunk"],
                            "loss": arm["loss"],
                        },
                        **{"anneal": anneal, "peak_lr": run["peak_lr"]},
                        **{key: decision[key] for key in ("tolerance_from", "tolerance", "critical_batch")},
                        **{"low": low, "high": high},
                        **{"noise_scale": noise["value"], "noise_low": noise["low"], "noise_high": noise["high"]},
                        **{"trace": noise["trace"], "grad_sq": noise["grad_sq"]},
                    }
                    key = tuple(row[name] for name in ("tokens", "trunk", "loss", "anneal", "tolerance_from"))
                    found[key] = row
    return list(found.values())


def law(chosen: list[dict]) -> dict[str, object]:
    """Coefficient at 1e5 tokens and exponent, with 90 % intervals."""
    x = np.log(np.array([row["tokens"] for row in chosen]) / 1e5)
    y = np.log([row["critical_batch"] for row in chosen])
    errors = np.array([math.log(row["high"] / row["low"]) / (2 * NORMAL) for row in chosen])
    design = np.stack([np.ones_like(x), x], 1) / errors[:, None]
    cov = np.linalg.inv(design.T @ design)
    level, power = cov @ design.T @ (y / errors)
    wide = NORMAL * np.sqrt(np.diag(cov))
    return {
        "places": len(chosen),
        "at_100k": math.exp(level),
        "at_100k_interval": [math.exp(level - wide[0]), math.exp(level + wide[0])],
        "exponent": power,
        "exponent_interval": [power - wide[1], power + wide[1]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    table = rows(json.loads(BRANCHES.read_text())["tests"])
    with options.out.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    laws = {}
    for loss in ("supervised", "distilled"):
        for tolerance in ("seed-noise", "merrill2025", "gain-share"):
            own = [
                row
                for row in table
                if (row["trunk"], row["loss"], row["tolerance_from"]) == (loss, loss, tolerance) and row["anneal"]
            ]
            laws[f"{loss}, {tolerance}"] = law(own)
    save(options.out, typed(), laws=laws)


if __name__ == "__main__":
    main()
