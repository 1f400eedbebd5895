"""What the runs of docs/worlds-study.md answer, as one document: a key per question."""

from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.worlds_study.fit import fits
from benchmarks.worlds_study.pairs import LEVEL, RATE, Cell, Study, minus
from distillaw.runs.paired import paired_difference

EXACT = "oracle"
DRAWS = 4000
LARGE_BATCH = 4096
OUT_OF_SIGHT = 100
"""Times the largest budget: beyond, an extrapolated crossing is none."""
SIZES = ("0.03M", "0.1M")


def answers(study: Study, table: Path) -> dict:
    """All of them."""
    return {
        "command": "python -m benchmarks.worlds_study.run",
        "date": date.today().isoformat(),
        "runs": sum(r["set"] != "rescaled" for r in study.rows),
        "trained_tokens": trained_tokens(study),
        "heldout": [len(study.tokens), int(study.tokens.sum())],
        "teachers": teachers(study),
        "noise": noise(study),
        "students": students(study),
        "equal_loss": equal_loss(study),
        "rescaled": rescaled(study),
        "best": best(study),
        "rate": rate(study),
        "other_world": other_world(study),
        "large_batch": large_batch(study),
        "one_token": [crossing(study, size, EXACT, "oracle:window=1") for size in SIZES],
        "weight": weight(study),
        "catchup": catchup(study),
        "fit": fits(study, table),
    }


def trained_tokens(study: Study) -> int:
    """Tokens trained on: the constant-rate part of each trunk once, and each cooldown (a fifth of its budget)."""
    budgets: dict[str, list[int]] = {}
    for row in study.rows:
        if row["set"] != "rescaled":
            budgets.setdefault(row["group"], []).append(int(row["tokens"]))
    return round(sum(0.8 * max(found) + 0.2 * sum(found) for found in budgets.values()))


def main_cells(study: Study, size: str, budget: int) -> dict[str, Cell]:
    """Teacher -> its students at the main settings."""
    return {c.teacher: c for c in study.cells if c == Cell(size, budget, c.teacher)}


def budgets(study: Study, size: str) -> list[int]:
    """Budgets of a size at the main settings."""
    return sorted({c.budget for c in study.cells if c == Cell(size, c.budget, c.teacher)})


def windows(study: Study) -> dict[str, float]:
    """Teachers that differ in their window alone, best first, with their losses."""
    names = {c.teacher for c in study.cells if c.teacher == EXACT or "window" in c.teacher}
    return dict(sorted(((name, study.teacher_loss(name)) for name in names), key=lambda item: item[1]))


def teachers(study: Study) -> dict[str, float]:
    """Held-out losses."""
    names = {c.teacher for c in study.cells} - {"none"}
    return dict(sorted(((name, study.teacher_loss(name)) for name in names), key=lambda item: item[1]))


def noise(study: Study) -> list[dict]:
    """Standard deviation between seeds."""
    rows = []
    for size in SIZES:
        alone = study.noise(Cell(size, budgets(study, size)[0]))
        rows += [{"size": size, "budget": None, "sd": alone.variance**0.5, "dof": alone.dof}]
        for budget in sorted(study.budgets_with_several(size)):
            taught = study.noise(Cell(size, budget, EXACT))
            rows.append({"size": size, "budget": budget, "sd": taught.variance**0.5, "dof": taught.dof})
    return rows


def students(study: Study) -> list[dict]:
    """Every student of the main settings, against the exact oracle's and against none (positive: better)."""
    rows = []
    for size in SIZES:
        for budget in budgets(study, size):
            cells = main_cells(study, size, budget)
            for teacher, cell in cells.items():
                rows.append({"size": size, "budget": budget, "teacher": teacher, "loss": study.loss(cell)})
                for key, other in (("over_exact", EXACT), ("over_none", "none")):
                    if other in cells and teacher != other:
                        rows[-1][key] = study.estimate(minus(cells[other], cell)).document()
    return rows


def equal_loss(study: Study) -> list[dict]:
    """Students of worsened and trained teachers, less those of windows at the same teacher's loss (positive: worse)."""
    rows, curve = [], windows(study)
    for size in SIZES:
        for budget in budgets(study, size):
            cells = main_cells(study, size, budget)
            for teacher, cell in cells.items():
                if teacher != "none" and teacher not in curve:
                    between = at_loss(study.teacher_loss(teacher), {t: x for t, x in curve.items() if t in cells})
                    weights = {cell: 1.0} | {cells[t]: -share for t, share in between.items()}
                    rows.append(
                        {
                            "size": size,
                            "budget": budget,
                            "teacher": teacher,
                            "teacher_loss": study.teacher_loss(teacher),
                            "between": list(between),
                            "worse": study.estimate(weights).document(),
                        }
                    )
    return rows


def at_loss(wanted: float, curve: dict[str, float]) -> dict[str, float]:
    """The two windows about a teacher's loss, and their shares in a linear interpolation."""
    names, losses = list(curve), np.array(list(curve.values()))
    above = int(np.clip(np.searchsorted(losses, wanted), 1, len(losses) - 1))
    share = float((wanted - losses[above - 1]) / (losses[above] - losses[above - 1]))
    return {names[above - 1]: 1 - share, names[above]: share}


def rescaled(study: Study) -> list[dict]:
    """Students and their teachers, logits divided by each one's best temperature: what it gains, how they compare."""
    rows = []
    own = {r["teacher"]: r["loss"] for r in study.rows if r["role"] == "teacher" and r["set"] == "rescaled"}
    for cell in study.find(rescaled=True):
        exact = cell._replace(teacher=EXACT)
        scale = np.mean([study.rows[i]["rescaled"] for i in study.cells[cell].values()])
        rows.append(
            {
                "size": cell.size,
                "budget": cell.budget,
                "teacher": cell.teacher,
                "temperature": float(scale),
                "before": study.loss(cell._replace(rescaled=False)),
                "loss": study.loss(cell),
                "teacher_loss": own.get(cell.teacher),
                "gain": study.estimate(minus(cell._replace(rescaled=False), cell)).document(),
            }
        )
        if cell.teacher != EXACT:
            rows[-1]["over_exact"] = study.estimate(minus(exact, cell)).document()
    return sorted(rows, key=lambda row: row["loss"])


def best(study: Study) -> list[dict]:
    """Which teacher's loss is best for each student and budget, along the windows."""
    rows, rng = [], np.random.default_rng(0)
    for size in SIZES:
        for budget in budgets(study, size):
            cells = main_cells(study, size, budget)
            curve = {t: x for t, x in windows(study).items() if t in cells}
            if EXACT not in curve or len(curve) < 3:
                continue
            others = [t for t in curve if t != EXACT]
            mean, cov = study.joint([minus(cells[t], cells[EXACT]) for t in others])
            draws = np.insert(rng.multivariate_normal(mean, cov, DRAWS), 0, 0.0, axis=1)
            losses = np.array(list(curve.values()))
            found = [lowest(losses, row) for row in draws]
            top = list(curve)[int(np.argmin(np.insert(mean, 0, 0.0)))]
            low, high = np.quantile(found, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
            rows.append(
                {
                    "size": size,
                    "budget": budget,
                    "teacher": top,
                    "alone": study.loss(cells["none"]),
                    "best_loss": lowest(losses, np.insert(mean, 0, 0.0)),
                    "low": float(low),
                    "high": float(high),
                }
            )
            if top != EXACT:
                rows[-1]["over_exact"] = study.estimate(minus(cells[EXACT], cells[top])).document()
    return rows


def lowest(x: np.ndarray, y: np.ndarray) -> float:
    """Where the parabola through the lowest point and its neighbours is lowest; an end where the lowest is one."""
    at = int(np.argmin(y))
    if at in (0, len(x) - 1):
        return float(x[at])
    a, b, _ = np.polyfit(x[at - 1 : at + 2], y[at - 1 : at + 2], 2)
    return float(-b / (2 * a))


def crossing(study: Study, size: str, first: str, second: str) -> dict:
    """The tokens at which students of `first` become better than those of `second`: linear in ln D.

    Where they do not within the budgets, along the line through the last two, and `extrapolated` says so.
    """
    at = [b for b in budgets(study, size) if {first, second} <= main_cells(study, size, b).keys()]
    pairs = [minus(Cell(size, b, first), Cell(size, b, second)) for b in at]
    mean, cov = study.joint(pairs)
    rows = [{"budget": b, **study.estimate(pair).document()} for b, pair in zip(at, pairs, strict=True)]
    dof = min(study.estimate(pair).dof for pair in pairs)
    rng = np.random.default_rng(0)
    noise = rng.multivariate_normal(np.zeros(len(at)), cov, DRAWS)
    noise *= np.sqrt(dof / rng.chisquare(dof, DRAWS))[:, None]
    found = [zero(np.log(at), mean + row) for row in noise]
    low, high = np.quantile(found, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="nearest")
    tokens = zero(np.log(at), mean)
    return {
        "size": size,
        "first": first,
        "second": second,
        "tokens": finite(tokens),
        "low": finite(low),
        "high": finite(high),
        "extrapolated": not at[0] <= tokens <= at[-1],
        "differences": rows,
    }


def finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return float(value) if np.isfinite(value) else None


def zero(x: np.ndarray, y: np.ndarray) -> float:
    """Exp of the x at which y last falls to 0; 0 if y ends below it and never fell to it; beyond, extrapolated."""
    down = [i for i in range(len(x) - 1) if y[i] > 0 >= y[i + 1]]
    if down:
        i = down[-1]
        return float(np.exp(x[i] + (x[i + 1] - x[i]) * y[i] / (y[i] - y[i + 1])))
    if y[-1] <= 0:
        return 0.0
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return float(np.exp(x[-1] - y[-1] / slope)) if y[-1] < -slope * np.log(OUT_OF_SIGHT) else np.inf


def catchup(study: Study) -> list[dict]:
    """When students without a teacher are as good as those of a weak one."""
    rows = []
    for size in SIZES:
        taught = {c.teacher for c in study.cells if c == Cell(size, c.budget, c.teacher)} - {"none"}
        weak = [t for t, loss in teachers(study).items() if t in taught and (loss > 3.7 or t not in windows(study))]
        rows += [{"teacher_loss": study.teacher_loss(t), **crossing(study, size, "none", t)} for t in weak]
    return rows


def rate(study: Study) -> list[dict]:
    """Losses of seed 0 by peak rate: each teacher's own best, and the gain over the exact oracle at each rate."""
    rows = []
    others = {(c.size, c.budget, c.teacher) for c in study.cells if c.peak_lr != RATE and c.batch_tokens == 512}
    for size, budget, teacher in sorted(others):
        cells = {
            c.peak_lr: c
            for c in study.find(size=size, budget=budget, teacher=teacher, rescaled=False)
            if c.batch_tokens == 512 and c.distill_weight == 1 and c.temperature == 1
        }
        losses = {lr: study.rows[study.cells[c][0]]["loss"] for lr, c in sorted(cells.items())}
        rows.append(
            {
                "size": size,
                "budget": budget,
                "teacher": teacher,
                "losses": {f"{lr:g}": loss for lr, loss in losses.items()},
                "best": f"{min(losses, key=lambda lr: losses[lr]):g}",
            }
        )
    return rows


def weight(study: Study) -> list[dict]:
    """Lambda and temperature against lambda 1, temperature 1 and against no teacher (positive: better)."""
    rows = []
    for cell in sorted(study.cells):
        if cell.teacher == "none" or (cell.distill_weight, cell.temperature) == (1.0, 1.0):
            continue
        plain, alone = Cell(cell.size, cell.budget, cell.teacher), Cell(cell.size, cell.budget)
        rows.append(
            {
                "size": cell.size,
                "budget": cell.budget,
                "teacher": cell.teacher,
                "lambda": cell.distill_weight,
                "temperature": cell.temperature,
                "loss": study.loss(cell),
                "plain": study.loss(plain),
                "over_plain": study.estimate(minus(plain, cell)).document(),
                "over_none": study.estimate(minus(alone, cell)).document(),
            }
        )
    return rows


def large_batch(study: Study) -> list[dict]:
    """Students of few large steps against the exact oracle's of as few (positive: better)."""
    rows = []
    for cell in sorted(c for c in study.cells if c.batch_tokens == LARGE_BATCH):
        rows.append({"size": cell.size, "budget": cell.budget, "teacher": cell.teacher, "loss": study.loss(cell)})
        if cell.teacher != EXACT:
            rows[-1]["over_exact"] = study.estimate(minus(cell._replace(teacher=EXACT), cell)).document()
    return rows


def other_world(study: Study) -> list[dict]:
    """Students of another world against the exact oracle's, seed 0, errors over documents (positive: better)."""
    lines = {}
    for i, row in enumerate(study.rows):
        if row["role"] == "student" and row["world"] != study.rows[0]["world"] and row["seed"] == 0:
            lines[row["size"], int(row["budget"]), row["teacher"], float(row["peak_lr"]), int(row["batch_tokens"])] = i
    last = max(key[1] for key in lines)  # the search ran at a smaller budget: what is at the last is the tuned rate
    tuned = {(size, teacher, *rest) for size, budget, teacher, *rest in lines if budget == last}
    rows = []
    for (size, budget, teacher, *rest), i in sorted(lines.items()):
        if (size, teacher, *rest) in tuned:
            row = study.rows[i]
            loss = None if teacher == "none" else row["teacher_loss"]
            rows.append({"size": size, "budget": budget, "teacher": teacher, "teacher_loss": loss, "loss": row["loss"]})
            exact = lines.get((size, budget, EXACT, *rest))
            if exact is not None and exact != i:
                found = paired_difference(study.scores(exact), study.scores(i))
                rows[-1]["over_exact"] = {"mean": found.mean, "se": found.se}
    return rows
