"""Are the planner's probabilities right, and is following it better than the rules of thumb?

    python benchmarks/planner.py --full --out benchmarks/results/planner.json     # about a quarter of an hour, one core
    python benchmarks/planner.py --quick                                          # under a minute

Simulated users: a pilot study from a truth that is not the planner's own (planner_truths.py), its fits, questions up to
30 times beyond the largest pilot (planner_studies.py). The planner is asked, its verdict followed, and both are scored
against the truth (planner_scores.py) and against rules that people use (planner_rules.py). Then the real runs that the
package ships, one student size left out at a time (planner_real.py). Interrupted runs continue.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from planner_real import leave_one_size_out
from planner_rules import options, rules
from planner_studies import SCALES, make_questions, make_study
from planner_summary import draw, summarise, table
from planner_truths import TRUTHS, draw_truth

import distillaw as dl
from distillaw.errors import DistillawError

FAMILIES = ("distillation-reduced", "distillation-kappa")
SIZES = {"quick": (8, 6, 60), "full": (96, 8, 100)}
"""Studies, questions per study, bootstrap replicates."""
SEED = 20261121


def fits_of(study, bootstrap):
    """The laws that a user would fit, by family; families that the runs are too few for are left out."""
    found = {}
    for family in FAMILIES:
        try:
            fit = dl.fit(study.table, family=family, bootstrap=bootstrap, check=False)
        except DistillawError:
            continue
        if fit.is_usable and fit.curve.behind is not None:
            found[family] = fit
    return found


def sources(truth, study, fits):
    """The evidence that the planner is given: the user's laws alone, or with all runs and the published laws."""
    laws = list(fits.values())
    others = [name for name in TRUTHS if name != truth.name and name != "farseer"]
    return {"laws": {"law": laws, "published": False},
            "all": {"law": laws, "study": study.record(), "published": others}}  # fmt: skip


def judge(truth, study, question, verdict):
    """One row: what was said, what is true, and the regret of the verdict and of every rule, nats/token."""
    N, choices = question.params, options(question)
    losses = np.array([truth.taught(N, d, t.loss) if t else truth.alone(N, d) for t, d in choices])
    names = [t.name if t else "" for t, _ in choices]
    best = names.index(verdict.headline.best.teacher.name)
    gain = float(losses[0] - losses[best])
    first = next(names.index(s.teacher.name if s.teacher else "") for s in verdict.strategies)
    followed = {"distil": best, "pretrain": 0, "too-close": first}[verdict.verdict]
    lost = losses - losses.min()
    return {
        "verdict": verdict.verdict, "distil": verdict.call.distil, "pretrain": verdict.call.pretrain,
        "source": verdict.headline.kind, "decisive": verdict.headline.is_decisive, "margin": verdict.margin,
        "came_distil": gain > verdict.margin, "came_pretrain": -gain > verdict.margin, "gain": gain,
        "lower": verdict.gain.lower, "mean": verdict.gain.mean, "upper": verdict.gain.upper,
        "loss": float(losses[0]), "teacher": float(choices[best][0].loss / losses[0]),
        "regret": {"planner": float(lost[followed]),
                   "planner, too close = pretrain": float(lost[followed if verdict.verdict == "distil" else 0]),
                   **{name: float(lost[rule(study, choices)]) for name, rule in rules(question).items()}},
    }  # fmt: skip


def one_study(k, num_questions, bootstrap):
    """The rows of study k: its truth, scale and fits, and every question under every set of sources."""
    rng = np.random.default_rng([SEED, k])
    scale, name = list(SCALES)[k % len(SCALES)], TRUTHS[(k // len(SCALES)) % len(TRUTHS)]
    truth = draw_truth(name, largest=SCALES[scale][0], rng=rng, in_place=scale == "large")
    study = make_study(truth, scale, rng)
    questions = make_questions(truth, study, rng, num_questions)
    fits = fits_of(study, bootstrap)
    rows = []
    for question in questions:
        for condition, evidence in sources(truth, study, fits).items():
            row = {"study": k, "truth": name, "scale": scale, "factor": question.factor, "axis": question.axis,
                   "condition": condition, "fits": {f: fit.status.name for f, fit in fits.items()}}  # fmt: skip
            try:
                verdict = dl.plan(**question.arguments, **evidence, seed=k)
                rows.append(row | judge(truth, study, question, verdict))
            except DistillawError as error:
                rows.append(row | {"refused": str(error)})
    return rows


def fingerprint(size):
    """Of the settings and of the code that is judged: partial results of another state are not continued."""
    root = Path(dl.__file__).parent
    parts = [
        path.read_bytes()
        for p in ("planning", "fitting", "laws")
        for path in sorted((root / p).rglob("*.py"))
    ]
    parts += [path.read_bytes() for path in sorted(Path(__file__).parent.glob("planner*.py"))]
    return hashlib.sha256(b"".join(parts) + repr(size).encode()).hexdigest()[:16]


def run(size, partial=None, report=lambda text: None):
    """All simulated rows, continued from the file of partial results where one is given."""
    num_studies, num_questions, bootstrap = size
    done, mark = {}, fingerprint(size)
    if partial is not None and partial.exists():
        lines = [json.loads(line) for line in partial.read_text().splitlines()]
        done = {line["study"]: line["rows"] for line in lines if line["mark"] == mark}
    started, fresh = time.monotonic(), 0
    for k in range(num_studies):
        if k in done:
            continue
        done[k] = one_study(k, num_questions, bootstrap)
        fresh += 1
        if partial is not None:
            with partial.open("a") as file:
                file.write(json.dumps({"mark": mark, "study": k, "rows": done[k]}) + "\n")
        left = (time.monotonic() - started) / fresh * (num_studies - len(done))
        report(f"study {len(done)} of {num_studies}, {left / 60:.1f} minutes left")
    return [row for k in sorted(done) for row in done[k]]


def main():
    """Run, score, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", dest="size", action="store_const", const="quick", default="quick")
    which.add_argument("--full", dest="size", action="store_const", const="full")
    parser.add_argument(
        "--out", type=Path, help="scores as JSON; partial results lie beside it until the end"
    )
    parser.add_argument("--figure", type=Path, help="reliability diagram, e.g. docs/reliability.png")
    args = parser.parse_args()
    partial = args.out.with_suffix(".partial.jsonl") if args.out else None
    started = time.process_time()
    rows = run(SIZES[args.size], partial, lambda text: sys.stderr.write(text + "\n"))
    found = summarise(rows) | {"real": leave_one_size_out(), "size": args.size}
    found["cpu_seconds"] = round(time.process_time() - started)
    print(table(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        partial.unlink(missing_ok=True)
    if args.figure:
        draw(found, args.figure)


if __name__ == "__main__":
    main()
