"""By how much the best rate drifts over sizes, at equal tokens and batch, from every search in the tree at two sizes.

    python -m benchmarks.rates.drift --out benchmarks/results/rates_drift.json

    log2 rate* = a_g + s_g log2 N,    s_g ~ N(mean, spread^2)

A group g is the runs of one text, arm, batch and number of tokens: what differs within it is size alone. Each size has
the lowest point of its curve over rates (laws/rates.py), with its error. mean and spread are integrated over, spread
with a half-normal prior of `BROAD`; what is said of s in a new text is their predictive mean and standard deviation.
Groups of one text at several budgets count apart, so that what tokens do to the drift is in the spread as well.
Students from a teacher were searched at two sizes in tables that `settle` is scored on and nowhere else, so the drift
is also said without each collection.
"""

import argparse
import json
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import RESULTS, SHIPPED
from benchmarks.result_file import save, typed
from benchmarks.trunks import world_students
from distillaw.laws.rates import lowest
from distillaw.quantities import parse_count

BROAD = 0.2
"""Octaves per doubling."""
NEAR = 1.25
"""Budgets within this factor are one."""
TABLES = {
    "pocket": SHIPPED / "pocket_runs.parquet",
    "open": SHIPPED / "open_runs.parquet",
    "capacity_gap": SHIPPED / "capacity_gap_runs.parquet",
    "wager": Path(__file__).parents[2] / "studies" / "wager_runs.parquet",
}
SCORED = ("pocket", "open", "capacity_gap", "world hmm")
"""How collections begin that benchmarks/settle/shipped.py asks about."""
CHECKED = ("peps", "eltec", "world")
"""Texts of rates_checked_*.json; a teacher alone on its tokens is a lone student of its size."""
MUP = "state of the union"
"""Text of mup.json."""


def curves():
    """(collection, arm, tokens, params, {rate: loss}) of everything searched; arm is `text` or `taught`."""
    for name, path in TABLES.items():
        found = defaultdict(dict)
        for row in pq.read_table(path).to_pylist():
            is_ours = row["purpose"] in ("grid", "tuning", "teacher", "control:horizon", "control:rates", "holdout")
            if is_ours and row["init"] == "fresh" and row["seed"] == 0 and row["lambda"] in (0, 1):
                key = row["teacher_run"], row["tokens"], row["params"], row["batch_tokens"]
                found[key][row["peak_lr"]] = row["loss"]
        for (teacher, tokens, params, _), losses in found.items():
            yield name, "taught" if teacher else "text", tokens, params, losses
    yield from _worlds()
    for name in CHECKED:
        for row in json.loads((RESULTS / f"rates_checked_{name}.json").read_text())["rows"]:
            if row["arm"] in ("alone", "teacher"):
                losses = {row["branch_lr"] * float(by): loss for by, loss in row["losses"].items()}
                losses[row["branch_lr"]] = row["loss"]
                yield name, "text", row["tokens"], parse_count(row["size"]), losses
    for row in json.loads((RESULTS / "rates_checked_pocket.json").read_text())["runs"]:
        if row["arm"] == "alone":
            losses = {float(rate): loss for rate, loss in row["loss_by_rate"].items()}
            yield "pocket", "text", row["tokens"], parse_count(row["size"]), losses
    kernel = defaultdict(dict)
    for row in json.loads((RESULTS / "rates_exam_kernel.json").read_text())["truth"]:
        kernel["text" if row["arm"] == "alone" else "taught", row["tokens"], row["params"]][row["peak_lr"]] = row[
            "loss"
        ]
    yield from (("kernel", *key, losses) for key, losses in kernel.items())


def _worlds():
    """Students of worlds_study.csv at one budget and several rates."""
    found = defaultdict(dict)
    for row in world_students("windows", "other", "rate"):
        if int(row["seed"]) == 0:
            key = str(row["world"]), str(row["teacher"]), int(row["tokens"]), int(row["params"])
            found[key][float(row["peak_lr"])] = float(row["loss"])
    for (world, teacher, tokens, params), losses in found.items():
        yield world, "text" if teacher == "none" else "taught", tokens, params, losses


def groups():
    """Slope of the best rate over sizes and its standard error, by group."""
    found = defaultdict(list)
    for name, arm, tokens, params, losses in curves():
        if len(losses) > 2 and (best := lowest(list(map(math.log2, losses)), list(losses.values()))):
            found[name, arm].append((tokens, params, best.octaves, best.sd))
    for (name, arm), rows in sorted(found.items()):
        rows.sort()
        cuts = [i + 1 for i, (a, b) in enumerate(pairwise(rows)) if b[0] > NEAR * a[0]]
        for part in (rows[i:j] for i, j in pairwise([0, *cuts, len(rows)])):
            tokens, params, octaves, sd = np.array(part).T
            if len(set(params)) > 1:
                design = np.stack([np.ones(len(part)), np.log2(params)], axis=1) / sd[:, None]
                cov = np.linalg.inv(design.T @ design)
                slope = (cov @ design.T @ (octaves / sd))[1]
                yield {
                    "collection": name,
                    "arm": arm,
                    "tokens": float(tokens.max()),
                    "params": params.tolist(),
                    "log2_best_rate": octaves.round(3).tolist(),
                    "sd": sd.round(3).tolist(),
                    "per_doubling": float(slope),
                    "se": math.sqrt(cov[1, 1]),
                }
    rule = json.loads((RESULTS / "mup.json").read_text())["drift"]
    axes = {row["axis"]: row for row in rule if row["rule"] == "ours"}
    yield {  # a family of one aspect: twice the parameters are a third of a doubling of width and of layers
        "collection": MUP,
        "arm": "text",
        "tokens": 65536.0,
        "per_doubling": sum(row["per_doubling"] for row in axes.values()) / 3,
        "se": math.hypot(*(row["se"] for row in axes.values())) / 3,
    }


def drift(rows):
    """Predictive mean and standard deviation of s, and the most likely spread."""
    slope, se = np.array([(row["per_doubling"], row["se"]) for row in rows]).T
    spread = np.linspace(0, 4 * BROAD, 801)
    weight = 1 / (se**2 + spread[:, None] ** 2)
    mean, var = (weight * slope).sum(1) / weight.sum(1), 1 / weight.sum(1)
    log = 0.5 * np.log(weight).sum(1) - 0.5 * (weight * (slope - mean[:, None]) ** 2).sum(1) + 0.5 * np.log(var)
    share = np.exp(log - log.max() - 0.5 * (spread / BROAD) ** 2)
    share /= share.sum()
    centre = share @ mean
    sd = math.sqrt(share @ (var + spread**2 + (mean - centre) ** 2))
    return {"groups": len(rows), "mean": round(centre, 3), "sd": round(sd, 3), "spread": float(spread[share.argmax()])}


def interaction(rows):
    """i: change of s per doubling of tokens, from the smallest to the largest budget that one text was searched at."""
    found = []
    for name in dict.fromkeys(row["collection"] for row in rows):
        own = sorted((row for row in rows if row["collection"] == name), key=lambda row: row["tokens"])
        if len(own) > 1:
            doublings = math.log2(own[-1]["tokens"] / own[0]["tokens"])
            change, se = own[-1]["per_doubling"] - own[0]["per_doubling"], math.hypot(own[-1]["se"], own[0]["se"])
            found.append({"collection": name, "per_doubling": change / doublings, "se": se / doublings})
    return drift(found) | {"pairs": found}


def main():
    """Find the groups, learn the drift of both arms, with everything and without each collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows, found = list(groups()), {}
    for row in rows:
        print({k: row[k] for k in ("collection", "arm", "tokens", "per_doubling", "se")}, row.get("log2_best_rate"))
    for arm in ("text", "taught"):
        own = [row for row in rows if row["arm"] == arm]
        found[arm] = {"all": drift(own)}
        for name in sorted({row["collection"] for row in own}):
            found[arm][f"without {name}"] = drift([row for row in own if row["collection"] != name])
        if fresh := [row for row in own if not row["collection"].startswith(SCORED)]:
            found[arm]["without all that settle is scored on"] = drift(fresh)
        found[arm]["per doubling of tokens"] = interaction(own)
        print(arm, json.dumps(found[arm], indent=1))
    if args.out:
        save(args.out, typed(), drift=found, groups=rows)


if __name__ == "__main__":
    main()
