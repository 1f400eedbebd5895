"""How fast maps and optima are, and the distillation paper's way of finding them in the same run, on one core.

    OMP_NUM_THREADS=1 python -m benchmarks.answers.maps

The peer is SciPy's SLSQP from one start per cell over (D_S, N_T, D_T), all within [1e6, 1e17], with the
budget as a constraint: what arXiv 2502.08606v2 describes; its start and its scaling are not told. Three are tried:
logarithms from an informed start (a teacher of the student's size with 20 tokens per parameter, half of the budget for
the student), logarithms from anywhere in [1e8, 1e14], and plain counts from the informed start. Its objective is plain
Python arithmetic, faster here than arrays.
Laws: the three surrogates together. Seconds of CPU time, best of several; the machine's load moves all of them
together, so read the ratios.
"""

import argparse
import datetime
import json
import math
import os
import platform
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

import distillaw as dl
from benchmarks import RESULTS
from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB, FixedAspect
from distillaw.accounting.scenarios import CostShares, Scenario
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.map_grid import Terms, laws_for_map
from distillaw.planning.maps import allocation_map, gain_map, teacher_map
from distillaw.planning.optimum import PAPER_BOUNDS, optimal_distillation
from distillaw.runs.files import write_text

LAWS = laws_for_map([])
SIGMA = (FixedAspect().sigma1, FixedAspect().sigma2)
STUDENTS, TOKENS, COMPUTE = (1e8, 1e11), (1e9, 1e13), (1e19, 1e25)
SIDE = 1000


def clock(call, repeats):
    """Best CPU seconds of a call, and its last result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        times.append(time.process_time() - start)
    return min(times), result


def million_cells(repeats):
    """Seconds of every two-dimensional map with a million cells."""
    N, D, C = (np.geomspace(*ends, SIDE) for ends in (STUDENTS, TOKENS, COMPUTE))
    calls = {
        "gain, best teacher": lambda: gain_map(LAWS, student_params=N, student_tokens=D),
        "gain, given teacher": lambda: gain_map(LAWS, student_params=N, student_tokens=D, teacher=(7e9, 2e12)),
    }
    for scenario in Scenario:
        calls[f"teacher, {scenario.name.lower()}"] = lambda scenario=scenario: teacher_map(
            LAWS, student_params=N, compute=C, terms=Terms(scenario=scenario)
        )
    rows = {}
    for name, call in calls.items():
        seconds, found = clock(call, repeats)
        rows[name] = {"seconds": seconds, "cells_per_s": SIDE**2 / seconds, **exactness(name, found)}
        print(
            f"{name:34s} {seconds:6.2f} s   {SIDE**2 / seconds:12,.0f} cells/s   "
            f"largest excess loss {rows[name].get('largest_excess', 0):.1e}"
        )
    return rows


def exactness(name, found):
    """The excess loss of random cells of a teacher map over their optima solved alone."""
    if not name.startswith("teacher"):
        return {}
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, SIDE, 500), rng.integers(0, SIDE, 500)
    shares = CostShares(found.meta["delta_lgt"], found.meta["delta_pre"])
    plan = optimal_distillation(
        LAWS.ensemble, student_params=found.y.values[i], compute=found.x.values[j], shares=shares
    )
    excess = found["student_loss"][i, j] / plan.student_loss - 1
    return {"largest_excess": float(excess.max()), "median_excess": float(np.median(excess))}


def one_axis(repeats):
    """Milliseconds of an allocation map of 200 budgets."""
    C = np.geomspace(*COMPUTE, 200)
    terms = Terms(scenario=Scenario.PRETRAINING_INFERENCE)
    seconds, _ = clock(lambda: allocation_map(LAWS, student_params=1e9, compute=C, terms=terms), repeats)
    print(f"{'allocation, 200 budgets':34s} {seconds:6.2f} s")
    return {"seconds": seconds, "budgets": 200}


def single_cells(repeats):
    """Milliseconds of one optimum by scenario and size of the ensemble."""
    rng = np.random.default_rng(0)
    chosen = LAWS.ensemble.take(rng.integers(0, 3, 64))
    spread = {
        half: {k: v * (1 + 0.003 * rng.normal(size=64)) for k, v in getattr(chosen, half).items()}
        for half in ("plain", "student")
    }
    ensembles = {"1 law": LAWS.ensemble.take([0]), "3 laws": LAWS.ensemble, "64 laws": LawEnsemble(**spread)}
    rows = {}
    for name, ensemble in ensembles.items():
        for scenario in Scenario:
            ask = {"student_params": 1e9, "compute": 1e21, "shares": scenario.value}
            seconds, _ = clock(lambda e=ensemble, ask=ask: optimal_distillation(e, **ask), 10 * repeats)
            rows[f"{name}, {scenario.name.lower()}"] = 1e3 * seconds
    for name, ms in rows.items():
        print(f"one optimum, {name:34s} {ms:6.1f} ms")
    return rows


class Peer:
    """The problem of one cell as plain Python arithmetic, for a local solver."""

    def __init__(self, names, student, compute, shares):
        self.n, self.compute, self.shares = math.log(student), compute, shares
        self.training = 3 * self.forward(self.n)
        found = [dl.published(name) for name in names]
        self.plain = found[0].supervised.coefficients
        self.laws = [law.distillation.coefficients for law in found]

    def forward(self, n):
        """F(N) of ln N."""
        size = math.exp(n)
        return 2 * size * (1 + SIGMA[0] * PAPER_CONTEXT / size ** (1 / 3) + SIGMA[1] * PAPER_VOCAB / size ** (2 / 3))

    def supervised(self, n, d):
        """L of ln N, ln D."""
        c = self.plain
        return c["E"] + (c["A"] * math.exp(-c["alpha"] * n) + c["B"] * math.exp(-c["beta"] * d)) ** c["gamma"]

    def loss(self, x):
        """Mean L_S at (ln D_S, ln N_T, ln D_T)."""
        d, n_t, d_t = x.tolist()
        teacher, alone, total = self.supervised(n_t, d_t), self.supervised(self.n, d), 0.0
        for c in self.laws:
            inner = c["A"] * math.exp(-c["alpha"] * self.n) + c["B"] * math.exp(-c["beta"] * d)
            h = c["c1"] * c["f1"] * math.log1p((teacher / (alone * c["d1"])) ** (1 / c["f1"]))
            total += teacher + math.exp(c["gamma"] * math.log(inner) - c["c0"] * math.log(teacher) - h)
        return total / len(self.laws)

    def spent(self, x):
        """Total FLOP over the budget, minus one."""
        d, n_t, d_t = x.tolist()
        logits = self.shares.delta_lgt * math.exp(d)
        teacher = self.forward(n_t) * (logits + self.shares.delta_pre * 3 * math.exp(d_t))
        return (self.training * math.exp(d) + teacher) / self.compute - 1

    def solve(self, start, *, logs=True):
        """SLSQP from (ln D_S, ln N_T, ln D_T), in these coordinates or in plain counts."""
        ends = np.log(PAPER_BOUNDS)
        start = np.clip(start, *ends)
        inward, outward = (np.asarray, np.asarray) if logs else (np.log, np.exp)
        found = minimize(
            lambda x: self.loss(inward(x)),
            outward(start),
            method="SLSQP",
            bounds=[tuple(outward(ends))] * 3,
            options={"maxiter": 500, "ftol": 1e-12},
            constraints=[{"type": "eq", "fun": lambda x: self.spent(inward(x))}],
        )
        return found.fun if abs(self.spent(inward(found.x))) < 1e-6 else math.nan

    def informed(self):
        """A start that knows the trade: a teacher of the student's size at 20 tokens per parameter."""
        return np.array([math.log(self.compute / 2 / self.training), self.n, math.log(20) + self.n])


def against_slsqp(cells):
    """The peer on random cells: time per cell, and how far above the global optimum it lands."""
    rng = np.random.default_rng(1)
    N = np.exp(rng.uniform(*np.log([3e8, 3e10]), cells))
    C = np.exp(rng.uniform(*np.log(COMPUTE), cells))
    anywhere = rng.uniform(*np.log([1e8, 1e14]), (cells, 3))
    rows = {}
    for names in (LAWS.names, ("busbridge2025",)):
        for scenario in Scenario:
            ensemble = laws_for_map(names).ensemble
            ours, plan = clock(
                lambda e=ensemble, s=scenario: optimal_distillation(e, student_params=N, compute=C, shares=s.value), 3
            )
            peers = [Peer(names, n, c, scenario.value) for n, c in zip(N, C, strict=True)]
            informed = [peer.informed() for peer in peers]
            ways = {"informed": (informed, True), "anywhere": (anywhere, True), "plain counts": (informed, False)}
            for way, (starts, logs) in ways.items():
                name = f"{'surrogates' if len(names) > 1 else names[0]}, {scenario.name.lower()}, {way}"
                found = landing(peers, starts, plan.student_loss, logs=logs)
                rows[name] = {"ours_ms": 1e3 * ours / cells} | found
                report(name, rows[name])
    return rows


def landing(peers, starts, best, *, logs):
    """What the peer finds from one start per cell."""
    begin = time.process_time()
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        answers = [attempt(peer, start, logs=logs) for peer, start in zip(peers, starts, strict=True)]
    seconds = time.process_time() - begin
    excess = np.array(answers) / best - 1
    excess = excess[np.isfinite(excess)]
    return {
        "slsqp_ms": 1e3 * seconds / len(peers),
        "without_answer": 1 - len(excess) / len(peers),
        "above_by_1e-6": float((excess > 1e-6).mean()),
        "above_by_1e-3": float((excess > 1e-3).mean()),
        "above_by_1e-2": float((excess > 1e-2).mean()),
        "largest_excess": float(excess.max()),
        "lowest_excess": float(excess.min()),
    }


def attempt(peer, start, *, logs):
    """The loss SLSQP ends at; nan where it breaks down or does not meet the budget."""
    try:
        return peer.solve(start, logs=logs)
    except (OverflowError, ValueError, ZeroDivisionError):
        return math.nan


def report(name, row):
    """One line."""
    high = ", ".join(f"> {k[9:]}: {row[k]:4.0%}" for k in ("above_by_1e-6", "above_by_1e-3", "above_by_1e-2"))
    print(
        f"{name:52s} {row['slsqp_ms']:5.1f} ms a cell, ours {row['ours_ms']:4.2f}; without answer "
        f"{row['without_answer']:4.0%}; above ours {high}; most above {row['largest_excess']:.0e}, below "
        f"{-row['lowest_excess']:.0e}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", type=int, default=200, help="cells of the comparison with SLSQP")
    parser.add_argument("--out", type=Path, default=RESULTS / "maps.json")
    args = parser.parse_args()
    results = {
        "command": "OMP_NUM_THREADS=1 python -m benchmarks.answers.maps",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} shared cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "laws": list(LAWS.names),
        "maps": million_cells(args.repeats),
        "allocation": one_axis(args.repeats),
        "one_optimum_ms": single_cells(args.repeats),
        "slsqp": against_slsqp(args.cells),
    }
    write_text(args.out, json.dumps(results, indent=2) + "\n", known=True)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
