"""Scores of stated probabilities, intervals and decisions, with intervals of their own; no planner in here."""

import numpy as np

from distillaw.runs.paired import wilson_interval

EDGES = (0.0, 0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98, 1.0)
"""Bins of stated probabilities."""
RESAMPLES = 2000


def reliability(said, came):
    """One row per bin that was used: how many, the mean said, the share that came true, its Wilson interval."""
    said, came = np.asarray(said), np.asarray(came)
    index = np.clip(np.digitize(said, EDGES[1:-1]), 0, len(EDGES) - 2)
    rows = []
    for k in np.unique(index):
        here = index == k
        hits, count = int(came[here].sum()), int(here.sum())
        low, high = wilson_interval(hits / count, count)
        rows.append(
            {
                "from": EDGES[k],
                "to": EDGES[k + 1],
                "num": count,
                "said": float(said[here].mean()),
                "came": hits / count,
                "low": low,
                "high": high,
            }
        )
    return rows


def brier(said, came):
    """Brier score, that of always stating the base rate, and Murphy's reliability and resolution over EDGES.

    brier = reliability - resolution + climatology, up to the spread of what was said within a bin.
    """
    said, came = np.asarray(said, dtype=float), np.asarray(came, dtype=float)
    rate = came.mean()
    rows = reliability(said, came)
    share = np.array([r["num"] for r in rows]) / len(said)
    return {
        "num": len(said),
        "brier": float(np.mean((said - came) ** 2)),
        "climatology": float(rate * (1 - rate)),
        "reliability": float(sum(w * (r["said"] - r["came"]) ** 2 for w, r in zip(share, rows, strict=True))),
        "resolution": float(sum(w * (r["came"] - rate) ** 2 for w, r in zip(share, rows, strict=True))),
    }


def coverage(inside):
    """Share of intervals that hold the truth, with its Wilson interval."""
    inside = np.asarray(inside)
    share = float(inside.mean())
    low, high = wilson_interval(share, len(inside))
    return {"num": len(inside), "share": share, "low": low, "high": high}


def difference(ours, theirs, study, rng):
    """Mean of theirs - ours with a 90 % interval, resampling whole studies: questions of one study err together."""
    codes, member = np.unique(study, return_inverse=True)
    gap = np.asarray(theirs) - np.asarray(ours)
    total, count = np.bincount(member, gap), np.bincount(member)
    pick = rng.integers(len(codes), size=(RESAMPLES, len(codes)))
    means = total[pick].sum(1) / count[pick].sum(1)
    low, high = np.percentile(means, [5, 95])
    return {"mean": float(gap.mean()), "low": float(low), "high": float(high)}
