"""From looks to figures: regret at every budget, and the budgets that two ways need for the same regret."""

import numpy as np
from scipy.optimize import isotonic_regression

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Budgets of the table, as shares of the target's training."""
FINE = np.geomspace(2e-4, 0.3, 120)
"""Budgets at which curves are compared."""
BUDGET = 0.03
"""What pilots may cost that are bought stage by stage (policies.py)."""
GRIDS = {"plan": (0.03, 0.1, 0.3), "grid": (0.03, 0.1, 0.3)}
"""Budgets of full grids whose decisions `study next` is to match."""
DRAWS = 1000
FRESH = 3200
"""Decisions below this number were seen when the rule of settling/design.py was chosen."""
WAYS = {
    "plan": "full grid, `plan`",
    "grid": "full grid, belief",
    "random": "random stages, belief",
    "ladder": "ladder of `settle`",
    "next": "`study next`",
    "stopped": "`study next`, stopped when not worth it",
}
FIELDS = ("spent", "regret", "within", "decided", "false")


def summarise(rows):
    """All figures of the simulated decisions."""
    rows = [row | {"looks": row["looks"] | {"stopped": stopped(row["looks"]["next"])}} for row in rows]
    ways = {way: table_of([row for row in rows if way in row["looks"]], way) for way in WAYS}
    pairs = [(way, share) for way, shares in GRIDS.items() for share in shares]
    return {
        "num": len(rows),
        "seen": sum(row["number"] < FRESH for row in rows),
        "ways": ways,
        "ratios": [ratio(rows, *pair, other) for pair in pairs for other in ("next", "stopped", "ladder", "random")],
        "against": [lost(rows, share) for share in GRIDS["grid"]],
        "curves": curves(rows),
        "stop": ends(rows),
        "stakes": stakes(rows),
        "families": families(rows),
    }


def stopped(looks):
    """Up to where it says that nothing more is worth its cost."""
    for i, look in enumerate(looks):
        if look.get("why"):
            return looks[: i + 1]
    return looks


def at(row, way, share):
    """The last look for at most this share; that before any run where it buys none."""
    seen = [look for look in row["looks"][way] if look["spent"] <= share * (1 + 1e-9)]
    last = seen[-1] if seen else row["nothing"]
    return (last["spent"], last["regret"], last["regret"] <= row["margin"], last["verdict"] is not None, last["false"])


def matrix(rows, way, shares):
    """(decisions, budgets, FIELDS)."""
    return np.array([[at(row, way, share) for share in shares] for row in rows], dtype=float)


def table_of(rows, way):
    """Means by budget."""
    if not rows:
        return {}
    values = matrix(rows, way, SHARES)
    spread = values[:, :, 1].std(0) / np.sqrt(len(rows))
    found = [
        {"share": share, **dict(zip(FIELDS, means, strict=True)), "se": se}
        for share, means, se in zip(SHARES, values.mean(0).tolist(), spread.tolist(), strict=True)
    ]
    return {"num": len(rows), "rows": found}


def curves(rows):
    """Mean regret against mean spending."""
    found = {}
    for way in WAYS:
        mine = [row for row in rows if way in row["looks"]]
        if mine:
            mean = matrix(mine, way, FINE).mean(0)
            found[way] = {"spent": mean[:, 0].tolist(), "regret": mean[:, 1].tolist()}
    return found


def ratio(rows, way, share, other):
    """FLOP of a grid over those that another way needs for the same mean regret, with a bootstrap over decisions."""
    rows = [row for row in rows if way in row["looks"]]
    if not rows:
        return {"way": way, "share": share, "other": other, "num": 0}
    grid, path = matrix(rows, way, (share,))[:, 0], matrix(rows, other, FINE)
    found, rng = [], np.random.default_rng(0)
    for draw in range(DRAWS + 1):
        take = rng.integers(len(rows), size=len(rows)) if draw else np.arange(len(rows))
        found.append(one_ratio(grid[take].mean(0), path[take].mean(0)))
    reached = np.isfinite(found[1:])
    lower, upper = np.quantile(np.nan_to_num(found[1:], nan=0.0), (0.05, 0.95))
    return {
        "way": way,
        "share": share,
        "other": other,
        "num": len(rows),
        "spent": float(grid[:, 0].mean()),
        "regret": float(grid[:, 1].mean()),
        "ratio": None if np.isnan(found[0]) else float(found[0]),
        "lower": float(lower),
        "upper": float(upper),
        "reached": float(reached.mean()),
        "tenfold": float(np.mean(np.nan_to_num(found[1:], nan=0.0) >= 10)),
    }


def lost(rows, share):
    """Regret of `study next` at its end less that of a grid at a budget, decision by decision, nats/token."""
    own, grid = matrix(rows, "stopped", (BUDGET,))[:, 0], matrix(rows, "grid", (share,))[:, 0]
    found, rng = own[:, 1] - grid[:, 1], np.random.default_rng(0)
    means = [found[rng.integers(len(found), size=len(found))].mean() for _ in range(DRAWS)]
    lower, upper = np.quantile(means, (0.05, 0.95))
    return {
        "share": share,
        "mean": float(found.mean()),
        "lower": float(lower),
        "upper": float(upper),
        "cost_ratio": float(grid[:, 0].mean() / max(own[:, 0].mean(), 1e-9)),
    }


def one_ratio(grid, path):
    """NaN where the path never gets there. Its curve is made to fall with the budget, as it does but for luck."""
    smooth = isotonic_regression(path[:, 1], increasing=False).x
    there = np.flatnonzero(smooth <= grid[1])
    return grid[0] / max(path[there[0], 0], 1e-9) if len(there) else np.nan


def ends(rows):
    """Where `study next` stops by itself."""
    paths = [stopped(row["looks"]["next"]) for row in rows]
    last = [path[-1] if path else row["nothing"] for path, row in zip(paths, rows, strict=True)]
    spent = [look["spent"] for look in last]
    return {
        "spent": float(np.mean(spent)),
        "median": float(np.median(spent)),
        "regret": float(np.mean([look["regret"] for look in last])),
        "settled": float(np.mean([look["verdict"] is not None for look in last])),
        "false": float(np.mean([look["false"] for look in last])),
    }


def stakes(rows):
    """Regret that was stated after a look beside what it was, by thirds of what was stated."""
    pairs = np.array([(x["stake"], x["regret"]) for row in rows for x in row["looks"]["next"] if x.get("stake")])
    if len(pairs) < 3:
        return []
    order = np.array_split(pairs[np.argsort(pairs[:, 0])], 3)
    return [{"num": len(part), "stated": float(part[:, 0].mean()), "was": float(part[:, 1].mean())} for part in order]


def families(rows):
    """Mean regret by surface, where `study next` has spent 3 % and a grid 10 %."""
    found = {}
    for name in sorted({row["family"] for row in rows}):
        mine = [row for row in rows if row["family"] == name]
        found[name] = {
            "num": len(mine),
            "nothing": float(np.mean([row["nothing"]["regret"] for row in mine])),
            "next": at_mean(mine, "next", 0.03),
            "grid": at_mean(mine, "grid", 0.1),
        }
    return found


def at_mean(rows, way, share):
    """Mean regret at a budget."""
    return float(matrix(rows, way, (share,))[:, 0, 1].mean())
