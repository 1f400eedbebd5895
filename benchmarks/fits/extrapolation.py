"""How far a fitted law can be trusted: hold out the largest-compute runs, fit the rest, compare.

    python -m benchmarks.fits.extrapolation ../shared/data/lawruns [--out FILE] [--markdown docs/fitting.md]

For every public set: relative error of the held-out runs, share inside the 90 % prediction interval, interval
score, error in equivalent compute, and decisions between two allocations of nearly equal compute. Baselines on
the same rows: gamma = 1 with delta 1e-3 (what peers do), variable projection (gamma = 1, least squares), and
for decisions the ranking at the largest affordable single scale.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize, nnls

import distillaw as dl
from benchmarks.result_file import save
from distillaw.runs.table import read_table

LEVEL = 0.9


@dataclass(frozen=True)
class Trial:
    """One set with its held-out rows."""

    name: str
    N: np.ndarray
    D: np.ndarray
    L: np.ndarray
    group: np.ndarray
    held: np.ndarray

    @property
    def compute(self):
        """6 N D."""
        return 6 * self.N * self.D

    def table(self):
        """The rows that may be fitted."""
        return {
            "params": self.N[~self.held],
            "tokens": self.D[~self.held],
            "loss": self.L[~self.held],
            "group": self.group[~self.held],
        }


def largest(N, D, group, share=0.2):
    """Rows of the groups with the largest compute."""
    codes, member = np.unique(group, return_inverse=True)
    top = np.zeros(len(codes))
    np.maximum.at(top, member, 6 * N * D)
    rank = np.argsort(np.argsort(top))[member]
    return rank >= round((1 - share) * len(codes))


def trials(folder):
    """Every set: the largest 20 % of the runs by compute, and splits that the papers used."""
    for name in ("hot", "hot_100b+", "cool_begin", "cool_end", "lr_ablation_hot"):
        t = read_table(folder / "gemstones" / f"{name}.csv")
        N, D, L, run = t["params_active_precise"], t["tokens"], t["final_loss"], t["run_name"].astype(str)
        yield Trial(f"gemstones {name}", N, D, L, run, largest(N, D, run))
        if name == "hot":
            ends = (N >= 8e8) & (D >= 8.9e10)
            keep = ends | (N < 8e8)
            yield Trial("gemstones hot, N >= 0.8B", N[keep], D[keep], L[keep], run[keep], ends[keep])
    t = read_table(folder / "kyo-takano-chinchilla" / "df.csv")
    yield plain("chinchilla figure", t["N"], t["D"], t["loss"])
    a, b = (read_table(folder / "active-sl-scalebench" / f"farseer_{part}.csv") for part in ("train", "test"))
    N, D, L = (np.r_[a[k], b[k]] for k in ("N", "D", "loss"))
    yield plain("farseer", N, D, L)
    yield Trial("farseer train to test", N, D, L, np.arange(len(N)), np.arange(len(N)) >= len(a["N"]))
    t = read_table(folder / "mlfoundations-scaling" / "overtraining_losses.csv")
    on_c4 = np.array([v.startswith("c4_val") for v in t["val"]])
    for name in ("c4_original", "rpj", "rw_original"):
        keep = on_c4 & (t["dataset"] == name)
        N, D, L = (t[k][keep].astype(float) for k in ("N", "D", "loss"))
        yield plain(f"mlfoundations {name}", N, D, L)
        yield Trial(f"mlfoundations {name}, N > 1B", N, D, L, np.arange(len(N)), N > 1e9)
    a, b = (
        read_table(folder / "active-sl-scalebench" / f"data_constrained_{part}.csv")
        for part in ("train", "test")
    )
    N, D, L, U = (np.r_[a[k], b[k]] for k in ("params", "tokens", "loss", "unique_tokens"))
    once = D <= U
    yield plain("repeated data, first epoch", N[once], D[once], L[once])


def plain(name, N, D, L):
    """A set of independent runs."""
    return Trial(name, N, D, L, np.arange(len(N)), largest(N, D, np.arange(len(N))))


def ours(trial, **options):
    """Free gamma with the weak prior, matched threshold, calibrated interval: the defaults."""
    result = dl.fit(trial.table(), family="supervised", check=False, **options)
    p = result.predict(params=trial.N[trial.held], tokens=trial.D[trial.held], level=LEVEL)
    everywhere = result.law(params=trial.N, tokens=trial.D)
    return everywhere, p.lower, p.upper, result


def habit(trial):
    """Gamma = 1, delta 1e-3, parameter bootstrap with noise: what peers do."""
    result = dl.fit(trial.table(), family="chinchilla", delta=1e-3, check=False, bootstrap=400, group="none")
    logs = {"params": np.log(trial.N[trial.held]), "tokens": np.log(trial.D[trial.held])}
    draws = result.curve.log_value(logs, replicates=True)
    draws = draws + result.noise * np.random.default_rng(0).standard_normal(draws.shape)
    lower, upper = np.exp(np.percentile(draws, [5, 95], axis=0))
    return result.law(params=trial.N, tokens=trial.D), lower, upper, result


def variable_projection(trial):
    """Gamma = 1 by non-negative least squares in (E, A, B) inside a search over the exponents."""
    t = trial.table()
    n, d = np.log(t["params"] / t["params"].mean()), np.log(t["tokens"] / t["tokens"].mean())

    def solve(x):
        design = np.column_stack([np.ones_like(n), np.exp(-x[0] * n), np.exp(-x[1] * d)])
        return nnls(design, t["loss"])

    best = min(
        ((a, b) for a in np.geomspace(0.05, 1.2, 16) for b in np.geomspace(0.05, 1.2, 16)),
        key=lambda x: solve(x)[1],
    )
    x = minimize(lambda x: solve(np.clip(x, 0.01, 3))[1], best, method="Nelder-Mead").x
    E, A, B = solve(np.clip(x, 0.01, 3))[0]
    N, D = trial.N / t["params"].mean(), trial.D / t["tokens"].mean()
    return E + A * N ** -x[0] + B * D ** -x[1]


def decisions(trial, **laws):
    """Which of two held-out runs of nearly equal compute is better, and by how much, according to each law.

    `single` compares the same two ratios of tokens to parameters at the largest budget among the fitted runs.

    Returns:
        {name: (share of right signs, mean |error of the difference| in %)} and the number of pairs.
    """
    index, fitted = np.flatnonzero(trial.held), np.flatnonzero(~trial.held)
    pairs = [
        (i, j)
        for a, i in enumerate(index)
        for j in index[a + 1 :]
        if abs(np.log(trial.compute[i] / trial.compute[j])) < 0.15
        and abs(np.log(trial.N[i] / trial.N[j])) >= 0.1
    ]
    if not pairs:
        return {name: (np.nan, np.nan) for name in (*laws, "single")}, 0
    i, j = np.array(pairs).T
    near = np.array([affordable(trial, fitted, k) for k in range(len(trial.N))])
    true = np.log(trial.L[i] / trial.L[j])
    guesses = {name: np.log(loss[i] / loss[j]) for name, loss in laws.items()}
    guesses["single"] = np.log(trial.L[near[i]] / trial.L[near[j]])
    scores = {k: (np.mean(true * g > 0), 100 * np.mean(abs(g - true))) for k, g in guesses.items()}
    return scores, len(pairs)


def affordable(trial, fitted, k):
    """The fitted run with the most similar tokens per parameter among those of the largest budget."""
    budget = trial.compute[fitted]
    top = fitted[budget >= 0.5 * budget.max()]
    ratio = np.abs(np.log(trial.D[top] / trial.N[top]) - np.log(trial.D[k] / trial.N[k]))
    return top[np.argmin(ratio)]


def equivalent_compute(trial, law, predicted):
    """Error in decades of compute: ln loss error over the fitted slope of ln L along compute at fixed D/N."""
    N, D = trial.N[trial.held], trial.D[trial.held]
    step = 0.01
    slope = (
        np.log(law(params=N * np.exp(step / 2), tokens=D * np.exp(step / 2)))
        - np.log(law(params=N, tokens=D))
    ) / step
    error = np.log(predicted[trial.held] / trial.L[trial.held]) / slope
    return float(np.median(np.abs(error)) / np.log(10))


def interval_score(L, lower, upper):
    """Mean interval score of ln L in per cent: width plus 2/alpha times the miss; lower is better."""
    y, a, b = np.log(L), np.log(lower), np.log(upper)
    miss = np.maximum(a - y, 0) + np.maximum(y - b, 0)
    return 100 * float(np.mean(b - a + 2 / (1 - LEVEL) * miss))


def rms(trial, predicted):
    """Root mean square relative error of the held-out rows, per cent."""
    return 100 * float(np.sqrt(np.mean(np.log(predicted[trial.held] / trial.L[trial.held]) ** 2)))


def evaluate(trial):
    """One row of the table."""
    mine, lower, upper, result = ours(trial)
    theirs, low, high, other = habit(trial)
    projected = variable_projection(trial)
    held = trial.L[trial.held]
    decided, pairs = decisions(trial, law=mine, habit=theirs, varpro=projected)
    return {
        "set": trial.name,
        "held": int(trial.held.sum()),
        "decades": float(np.log10(trial.compute[trial.held].max() / trial.compute[~trial.held].max())),
        "error": rms(trial, mine),
        "error gamma=1": rms(trial, theirs),
        "error varpro": rms(trial, projected),
        "inside": float(np.mean((held >= lower) & (held <= upper))),
        "inside gamma=1": float(np.mean((held >= low) & (held <= high))),
        "score": interval_score(held, lower, upper),
        "score gamma=1": interval_score(held, low, high),
        "decades of C": equivalent_compute(trial, result.law, mine),
        "decades of C gamma=1": equivalent_compute(trial, other.law, theirs),
        "pairs": pairs,
        "decided": decided,
        "status": result.status.name,
        "gamma": result.params["gamma"],
        "calibration": result.calibration,
        "width": 100 * float(np.median(np.log(upper / lower))) / 2,
    }


def geometric(rows, key):
    """Geometric mean over the sets."""
    return float(np.exp(np.mean([np.log(row[key]) for row in rows])))


def markdown(rows):
    """The two tables of docs/fitting.md: predictions, then decisions."""
    held = np.array([r["held"] for r in rows])
    inside = {k: np.array([r[k] for r in rows]) for k in ("inside", "inside gamma=1")}
    lines = heading(
        "set",
        "held out",
        "decades beyond",
        "error % (ours / gamma = 1 / varpro)",
        "in 90 % interval (ours / gamma = 1)",
        "interval score (ours / gamma = 1)",
        "error, decades of C (ours / gamma = 1)",
    )
    for r in rows:
        lines.append(
            f"| {r['set']} | {r['held']} | {r['decades']:.1f} | {r['error']:.2f} / {r['error gamma=1']:.2f} / "
            f"{r['error varpro']:.2f} | {r['inside']:.2f} / {r['inside gamma=1']:.2f} | {r['score']:.1f} / "
            f"{r['score gamma=1']:.1f} | {r['decades of C']:.2f} / {r['decades of C gamma=1']:.2f} |"
        )
    g = {
        key: geometric(rows, key)
        for key in (
            "error",
            "error gamma=1",
            "error varpro",
            "score",
            "score gamma=1",
            "decades of C",
            "decades of C gamma=1",
        )
    }
    lines.append(
        f"| **all {len(rows)}** (geometric mean; shares: mean of sets, then of all rows) | {held.sum()} | | "
        f"**{g['error']:.2f} / {g['error gamma=1']:.2f} / {g['error varpro']:.2f}** | "
        f"**{inside['inside'].mean():.2f} / {inside['inside gamma=1'].mean():.2f}**, "
        f"{inside['inside'] @ held / held.sum():.2f} / {inside['inside gamma=1'] @ held / held.sum():.2f} | "
        f"{g['score']:.1f} / {g['score gamma=1']:.1f} | {g['decades of C']:.2f} / {g['decades of C gamma=1']:.2f} |"
    )
    return "\n".join([*lines, "", *decision_table([r for r in rows if r["pairs"]])])


def decision_table(rows):
    """Signs and sizes of differences at nearly equal compute."""
    who = ("law", "habit", "varpro", "single")
    names = "(ours / gamma = 1 / varpro / single scale)"
    lines = heading("set", "pairs", f"right sign {names}", f"error of the difference, % of the loss {names}")
    for r in rows:
        right, size = (" / ".join(f"{r['decided'][k][i]:.2f}" for k in who) for i in (0, 1))
        lines.append(f"| {r['set']} | {r['pairs']} | {right} | {size} |")
    mean = [" / ".join(f"{np.mean([r['decided'][k][i] for r in rows]):.2f}" for k in who) for i in (0, 1)]
    lines.append(
        f"| **mean of {len(rows)} sets** | {sum(r['pairs'] for r in rows)} | **{mean[0]}** | **{mean[1]}** |"
    )
    return lines


def heading(*columns):
    """The first two lines of a Markdown table."""
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def main():
    """Run every trial and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--markdown", type=Path, help="replace the table between the markers in this file")
    parser.add_argument("--out", type=Path, help="keep the rows of the table")
    args = parser.parse_args()
    rows = []
    for trial in trials(args.folder):
        rows.append(evaluate(trial))
        r = rows[-1]
        c = r["calibration"]
        sys.stderr.write(
            f"{r['set']}: error {r['error']:.2f} %, inside {r['inside']:.2f}, half width {r['width']:.2f} %, "
            f"gamma {r['gamma']:.2f}, {r['status']}, misspecification {100 * c.at_edge:.2f} % + "
            f"{100 * c.per_decade:.2f} % per decade, hold-outs inside {c.obtained_without} -> {c.obtained}\n"
        )
    table = markdown(rows)
    print(table)
    if args.out:
        kept = [{key: value for key, value in row.items() if key != "calibration"} for row in rows]
        save(args.out, "python -m benchmarks.fits.extrapolation LAWRUNS", sets=kept)
    if args.markdown:
        text = args.markdown.read_text()
        start, end = "<!-- extrapolation -->\n", "<!-- end extrapolation -->"
        before, rest = text.split(start)
        args.markdown.write_text(before + start + table + "\n" + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
