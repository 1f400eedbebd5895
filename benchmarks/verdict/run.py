"""Are the planner's probabilities right, and is following it better than the rules of thumb?

    python -m benchmarks.verdict.run --full --out benchmarks/results/planner.json   # five minutes of CPU
    python -m benchmarks.verdict.run --quick                                        # under a minute
    python -m benchmarks.verdict.run --outside --out benchmarks/results/planner_outside.json   # truths outside the form
    python -m benchmarks.verdict.run --free-size --out benchmarks/results/free_size.json   # beside 20 a parameter
    python -m benchmarks.verdict.run --chosen-on --out FILE    # those that widths were chosen on

Simulated users: a pilot study from a truth that is not the planner's own (truths.py), its fits, questions up to
30 times beyond the largest pilot (studies.py). The planner is asked, its verdict followed, and both are scored
against the truth (scores.py) and against rules that people use (rules.py). Then the real runs that the
package ships, one student size left out at a time (real.py). Interrupted runs continue.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np

import distillaw as dl
from benchmarks.result_file import save, typed
from benchmarks.verdict.outside import OUTSIDE, draw_outside
from benchmarks.verdict.real import leave_one_size_out
from benchmarks.verdict.rules import rules
from benchmarks.verdict.sizes import SizeQuestion, make_size_questions
from benchmarks.verdict.studies import IN_PLACE, OF_COMPUTE, SCALES, Choice, make_questions, make_study, true_loss
from benchmarks.verdict.summary import draw, summarise, table
from benchmarks.verdict.truths import TRUTHS, draw_truth
from distillaw.errors import DistillawError

FAMILIES = ("distillation-kappa", "distillation-reduced")
"""In order of trust."""
PLAIN = {"may_train_teacher": False, "with_flips": False}
"""The truth knows no other strategies than these: alone, or from one of the candidates."""
SIZES = {
    "quick": (tuple(range(0, 16, 5)), 8, 40),
    "full": (tuple(range(500, 532)), 8, 100),
    "chosen-on": (tuple(range(1000, 1048)), 8, 100),
    "outside": (tuple(range(2100, 2124)), 8, 100),
    "free-size": (tuple(range(556, 572)), 0, 100),
}
"""Studies by number, questions per study (0: of free size alone), bootstrap replicates. The quick four take every truth
and scale once; nothing was chosen on those of `full`, `outside` and `free-size`. Used up: 0 to 79, 400 to 415, 532 to
555, 1000 to 1047, 2000 to 2031."""
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
    own = getattr(truth, "truth", truth).name  # of a truth outside the forms, that of its surface
    others = [name for name in TRUTHS if name not in (own, "farseer")]
    return {
        "laws": {"law": laws, "published": False},
        "all": {"law": laws, "study": study.record(), "published": others},
    }


def judge(truth, study, question, verdict):
    """One row: what was said, what is true, and the regret of the verdict and of every rule, nats/token."""
    named = [s for s in verdict.strategies if s.kind in ("pretrain", "distil")]
    loss = {s.name: true_loss(truth, Choice(s.student_params, s.student_tokens, s.teacher)) for s in named}
    alone, best = (loss[s.name] for s in (verdict.headline.pretrain, verdict.headline.best))
    followed = {"distil": best, "pretrain": alone, "too-close": loss[named[0].name]}[verdict.verdict]
    choices, floor, gain = question.choices(), question.best_loss(truth), alone - best
    ruled = {name: true_loss(truth, rule(study, choices)) for name, rule in rules(question).items()}
    return {
        "verdict": verdict.verdict,
        "distil": verdict.call.distil,
        "pretrain": verdict.call.pretrain,
        "source": verdict.headline.kind,
        "decisive": verdict.headline.is_decisive,
        "margin": verdict.margin,
        "came_distil": gain > verdict.margin,
        "came_pretrain": -gain > verdict.margin,
        "gain": gain,
        "lower": verdict.gain.lower,
        "mean": verdict.gain.mean,
        "upper": verdict.gain.upper,
        "loss": alone,
        "teacher": verdict.headline.best.teacher.loss / alone,
        "regret": {
            "planner": followed - floor,
            "planner, too close = pretrain": (best if verdict.verdict == "distil" else alone) - floor,
            **{name: value - floor for name, value in ruled.items()},
        },
    }


def one_study(k, num_questions, bootstrap):
    """The rows of study k: its truth, scale and fits, and every question under every set of sources."""
    rng = np.random.default_rng([SEED, k])
    truths = OUTSIDE if k >= SIZES["chosen-on"][0][0] else TRUTHS
    scale, name = list(SCALES)[k % len(SCALES)], truths[(k // len(SCALES)) % len(truths)]
    largest, in_place = SCALES[scale][0], scale in IN_PLACE
    if truths is OUTSIDE:  # studies read up to 40 tokens per parameter
        truth = draw_outside(name, largest=largest, budget=40 * largest, rng=rng, in_place=in_place)
    else:
        truth = draw_truth(name, largest=largest, rng=rng, in_place=in_place)
    study = make_study(truth, scale, rng)
    distances = {"distances": OF_COMPUTE, "of_compute": True} if truths is OUTSIDE else {}
    questions = make_questions(truth, study, rng, num_questions, **distances)
    sized = [] if num_questions else make_size_questions(truth, study, rng)
    fits = fits_of(study, bootstrap)
    rows = []
    for condition, evidence in sources(truth, study, fits).items():
        for question in questions + (sized if condition == "laws" else []):
            sized_as = "free size, served" if getattr(question, "serving", 0) else "free size"
            row = {
                "study": k,
                "truth": name,
                "scale": scale,
                "factor": question.factor,
                "axis": question.axis,
                "condition": sized_as if isinstance(question, SizeQuestion) else condition,
                "fits": {f: fit.status.name for f, fit in fits.items()},
            }
            try:
                verdict = dl.plan(**question.arguments, **evidence, **PLAIN, seed=k)
                rows.append(row | judge(truth, study, question, verdict))
            except DistillawError as error:
                rows.append(row | {"refused": str(error)})
    return rows


def fingerprint(size):
    """Of the settings and of the code that is judged: partial results of another state are not continued."""
    root = Path(dl.__file__).parent
    parts = [path.read_bytes() for p in ("planning", "fitting", "laws") for path in sorted((root / p).rglob("*.py"))]
    parts += [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(parts) + repr(size).encode()).hexdigest()[:16]


def run(size, partial=None, report=lambda text: None):
    """All simulated rows, continued from the file of partial results where one is given."""
    studies, num_questions, bootstrap = size
    done, mark = {}, fingerprint(size)
    if partial is not None and partial.exists():
        lines = [json.loads(line) for line in partial.read_text().splitlines()]
        done = {line["study"]: line["rows"] for line in lines if line["mark"] == mark}
    started, fresh = time.monotonic(), 0
    for k in studies:
        if k in done:
            continue
        done[k] = one_study(k, num_questions, bootstrap)
        fresh += 1
        if partial is not None:
            with partial.open("a") as file:
                file.write(json.dumps({"mark": mark, "study": k, "rows": done[k]}) + "\n")
        left = (time.monotonic() - started) / fresh * (len(studies) - len(done))
        report(f"study {len(done)} of {len(studies)}, {left / 60:.1f} minutes left")
    return [row for k in sorted(done) for row in done[k]]


def main():
    """Run, score, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", dest="size", action="store_const", const="quick", default="quick")
    which.add_argument("--full", dest="size", action="store_const", const="full")
    for name in ("outside", "free-size", "chosen-on"):
        which.add_argument(f"--{name}", dest="size", action="store_const", const=name)
    parser.add_argument("--out", type=Path, help="scores as JSON; partial results lie beside it until the end")
    parser.add_argument("--figure", type=Path, help="reliability diagram, e.g. docs/reliability.png")
    args = parser.parse_args()
    partial = args.out.with_suffix(".partial.jsonl") if args.out else None
    started = time.process_time()
    rows = run(SIZES[args.size], partial, lambda text: sys.stderr.write(text + "\n"))
    found = summarise(rows) | {"size": args.size}
    if args.size == "full":
        found["real"] = leave_one_size_out()
    found["cpu_seconds"] = round(time.process_time() - started)
    print(table(found))
    if args.out:
        save(args.out, typed(), **found)
        partial.unlink(missing_ok=True)
    if args.figure:
        draw(found, args.figure)


if __name__ == "__main__":
    main()
