"""Scores of all rows: false decisions, cost, coverage at every look, calibration, regret beside rules, plan and fit."""

import numpy as np

from benchmarks.verdict.scores import brier, coverage, difference, reliability
from distillaw.runs.paired import wilson_interval

CUTS = ("seeds", "family", "kind", "scale", "teachers", "allowed", "kin")
"""Columns of a row by which scores are given apart."""
Z = 1.645
"""Standard deviations of a 90 % interval."""


def summarise(rows):
    """{tier: {"parts": {name: scores}, "rules": ..., "plan": ..., "fit": ...}}."""
    found = {}
    for tier in dict.fromkeys(row["tier"] for row in rows):
        here = [row for row in rows if row["tier"] == tier]
        parts = {"all": here}
        for key in CUTS:
            values = sorted({row[key] for row in here if key in row})
            if len(values) > 1:
                parts |= {f"{key}: {value}": [row for row in here if row.get(key) == value] for value in values}
        found[tier] = {
            "parts": {name: scores(part) for name, part in parts.items()},
            "calibration": calibration(here),
            "regret": regrets(here),
            "plan": plan_scores(here),
            "fit": fit_scores(here),
            "by_look": by_look(here),
            "by_target": by_target(here),
        }
    return found


def share(flags):
    """Hits, count, share and its 90 % Wilson interval."""
    flags = np.asarray(list(flags), dtype=bool)
    rate = float(flags.mean()) if len(flags) else None
    low, high = wilson_interval(rate or 0.0, len(flags))
    return {"hits": int(flags.sum()), "num": len(flags), "share": rate, "low": low, "high": high}


def scores(rows):
    """Decisions, cost and coverage of some rows."""
    ran = [row for row in rows if row["verdict"] != "refused"]
    decided = [row for row in ran if row["decided"]]
    return {
        "num": len(rows),
        "decided": len(decided),
        "settled": sum(row["settled"] for row in ran),
        "refused": len(rows) - len(ran),
        "verdicts": {v: sum(row["verdict"] == v for row in rows) for v in ("distil", "pretrain", "too-close")},
        "false": share(row["false"] for row in decided),
        "false_all_stops": share(row["false"] for row in ran),
        "false_beyond_noise": share(row["false_beyond_noise"] for row in decided),
        "spent": {
            "mean": mean(row["spent"] for row in decided),
            "median": median(row["spent"] for row in decided),
            "mean_all": mean(row["spent"] for row in ran),
        },
        "stages": mean(row["stages"] for row in ran),
        "moved": mean(row["moved"] for row in ran),
        "seconds": mean(row["seconds"] for row in ran),
        "regret": mean(row["regret"] for row in ran),
        "bound": median(row["bound"] for row in ran if np.isfinite(row["bound"])),
        "coverage": coverages(ran),
        "half_width": median(
            (g["upper"] - g["lower"]) / 2 / row["alone"] for row in ran for g in row["looks"][-1]["gains"].values()
        ),
    }


def coverages(rows):
    """Shares of intervals that held: at the end, at every look, and sequences that never failed."""
    last = [g["in"] for row in rows for g in row["looks"][-1]["gains"].values()]
    every = [g["in"] for row in rows for look in row["looks"] for g in look["gains"].values()]
    names = [(row, name) for row in rows for name in row["looks"][-1]["gains"]]
    sequences = [all(look["gains"][n]["in"] for look in row["looks"] if n in look["gains"]) for row, n in names]
    whole = [all(g["in"] for look in row["looks"] for g in look["gains"].values()) for row in rows]
    bound = [all(look["bound_held"] for look in row["looks"]) for row in rows]
    losses = [held for row in rows for held in row["looks"][-1]["losses_in"].values()]
    foretold = [abs(surprise) < Z for row in rows for surprise in row["surprises"]]
    named = {
        "last": last,
        "every": every,
        "sequence": sequences,
        "decision": whole,
        "regret": bound,
        "losses": losses,
        "foretold": foretold,
    }
    return {name: share(flags) for name, flags in named.items()}


def by_target(rows):
    """Share of gain intervals that held at the end, with its 90 % interval: gains at one target err together."""
    held = [
        (g["in"], f"{row['cluster']} {row['scale']}")
        for row in rows
        if row["verdict"] != "refused"
        for g in row["looks"][-1]["gains"].values()
    ]
    if not held:
        return None
    hits, targets = zip(*held, strict=True)
    return difference(np.zeros(len(hits)), hits, targets, np.random.default_rng(0)) | {"targets": len(set(targets))}


def by_look(rows):
    """Coverage and median half-width (share of the loss) of gain intervals after the k-th stage."""
    found = []
    for k in range(max((row["stages"] for row in rows), default=0)):
        at = [(g, row["alone"]) for row in rows if row["stages"] > k for g in row["looks"][k]["gains"].values()]
        found.append(
            {
                "stage": k + 1,
                "decisions": sum(row["stages"] > k for row in rows),
                "in": share(g["in"] for g, _ in at),
                "half_width": median((g["upper"] - g["lower"]) / 2 / loss for g, loss in at),
            }
        )
    return found


def calibration(rows):
    """Stated probabilities that a choice is the best, at the end and at every look."""
    looks = {
        "last": [row["looks"][-1] for row in rows if row.get("looks")],
        "every": [look for row in rows for look in row.get("looks", ())],
    }
    found = {}
    for name, here in looks.items():
        pairs = [pair for look in here for pair in look["probability"].values()]
        if pairs:
            said, came = np.array(pairs).T
            found[name] = brier(said, came) | {"bins": reliability(said, came.astype(bool))}
    return found


def regrets(rows):
    """Mean regret of settle and of every rule, share above the margin, and what settle saves, on the same questions."""
    ran, rng = [row for row in rows if row["verdict"] != "refused"], np.random.default_rng(0)
    found = {"settle": one_regret([row["regret"] for row in ran], ran)}
    for rule in dict.fromkeys(name for row in ran for name in row["rules"]):
        here = [row for row in ran if rule in row["rules"]]
        theirs, ours = [row["rules"][rule] for row in here], [row["regret"] for row in here]
        found[rule] = one_regret(theirs, here) | {"saved": difference(ours, theirs, [r["cluster"] for r in here], rng)}
    return found


def one_regret(values, rows):
    """Mean, and the share of choices that lose more than the margin."""
    return {
        "mean": mean(values),
        "num": len(rows),
        "above_margin": share(v > row["margin"] for v, row in zip(values, rows, strict=True)),
    }


def plan_scores(rows):
    """The planner on the same pilots, beside settle on the same questions."""
    asked = [row for row in rows if "plan" in row]
    here = [row for row in asked if "refused" not in row["plan"]]
    if not here:
        return {"asked": len(asked), "refused": len(asked)}
    plans = [row["plan"] for row in here]
    firm = [p for p in plans if p["verdict"] != "too-close"]
    said, came = [p["probability"] for p in plans], [p["came"] for p in plans]
    return {
        "asked": len(asked),
        "refused": len(asked) - len(here),
        "firm": len(firm),
        "false": share(p["false"] for p in firm),
        "coverage": coverage([p["gain_in"] for p in plans]),
        "regret": mean(p["regret"] for p in plans),
        "settle_regret": mean(row["regret"] for row in here),
        "settle_false": share(row["false"] for row in here if row["decided"]),
        "half_width": median(row["plan"]["half_width"] / row["alone"] for row in here),
        "distil": brier(said, came) | {"bins": reliability(said, came)},
        "sources": {s: sum(p["source"] == s for p in plans) for s in sorted({p["source"] for p in plans})},
    }


def fit_scores(rows):
    """Per family: how fits of the pilots ended, and coverage of the loss at the target."""
    asked, found = [row["fit"] for row in rows if "fit" in row], {}
    for family in dict.fromkeys(name for fit in asked for name in fit):
        here = [fit[family] for fit in asked]
        known = [fit for fit in here if "in" in fit]
        statuses = sorted({fit["status"] for fit in here})
        found[family] = {
            "asked": len(here),
            "statuses": {s: sum(fit["status"] == s for fit in here) for s in statuses},
            "in": share(fit["in"] for fit in known),
            "half_width": median(fit["half_width"] for fit in known),
            "error": median(abs(fit["error"]) for fit in known),
        }
    return found


def mean(values):
    """None of nothing."""
    values = list(values)
    return float(np.mean(values)) if values else None


def median(values):
    """None of nothing."""
    values = list(values)
    return float(np.median(values)) if values else None
