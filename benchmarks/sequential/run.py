"""How much of the budget does `study next` save at equal decisions? Checked where the truth is known.

    python -m benchmarks.sequential.run --quick                                   # 8 decisions, half a minute
    python -m benchmarks.sequential.run --out benchmarks/results/sequential.json --page docs/sequential-benchmark.md \
        --figure docs/sequential.png                                          # a quarter of an hour, one core

The decisions of settle/decisions.py (four kinds of loss surface, one outside the forms that are fitted; misfit and
noise): distil a student, and from which teacher? Four ways to buy pilots for it (policies.py), the full grid
read by `plan` and by the belief of `settle`. Then tables of real runs, revealed one after another (real.py).
Rows that are finished are kept beside --out until the end, so an interrupted run goes on.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import distillaw as dl
from benchmarks.result_file import save, typed
from benchmarks.sequential.page import draw, page, text
from benchmarks.sequential.policies import at_random, grids, ladder, nothing, sequential
from benchmarks.sequential.real import replay_all
from benchmarks.sequential.summary import summarise
from benchmarks.settle.decisions import draw_decision
from benchmarks.settle.run import numbers
from distillaw.runs.files import write_text

FULL, QUICK = "3200:3300", "3200:3208"
"""Seeds below 3200 were used to choose the constants of settling/propose.py."""
PLAN_EVERY = 5
"""`plan` is asked at every fifth decision (families take turns by four): it costs more than everything else."""


def simulated_row(number, with_plan):
    """One decision, bought in every way."""
    decision = draw_decision(number)
    grid, plan = grids(decision, with_plan)
    found = {"grid": grid, "random": at_random(decision), "ladder": ladder(decision), "next": sequential(decision)}
    return {
        "number": number,
        "family": decision.family,
        "kind": decision.kind,
        "scale": decision.scale,
        "margin": decision.question.margin,
        "nothing": nothing(decision),
        "looks": found | ({"plan": plan} if with_plan else {}),
    }


def run(seeds, plan_every, partial, report):
    """All rows, continued from the file of partial results where one is given."""
    done, mark = {}, fingerprint()
    if partial is not None and partial.exists():
        lines = [json.loads(line) for line in partial.read_text().splitlines()]
        done = {line["row"]["number"]: line["row"] for line in lines if line["mark"] == mark}
    for number in seeds:
        if number in done:
            continue
        done[number] = simulated_row(number, bool(plan_every) and number % plan_every == 0)
        if partial is not None:
            with partial.open("a") as file:
                file.write(json.dumps({"mark": mark, "row": done[number]}, default=float) + "\n")
        report(f"\r{len(done)} of {len(seeds)}          ")
    return [done[number] for number in seeds]


def fingerprint():
    """Of what is judged and of what buys: partial results of another state are not continued."""
    root, here = Path(dl.__file__).parent / "settling", Path(__file__).parent
    paths = [*sorted(root.glob("*.py")), here / "policies.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few simulated decisions")
    parser.add_argument("--seeds", nargs="+", metavar="A:B", help=f"simulated decisions; default {FULL}")
    parser.add_argument("--plan-every", type=int, default=PLAN_EVERY, metavar="K", help="0: never")
    parser.add_argument("--out", type=Path, help="scores as JSON")
    parser.add_argument("--page", type=Path, help="tables as Markdown")
    parser.add_argument("--figure", type=Path, help="regret against budget")
    return parser.parse_args()


def main():
    """Run, score, print, write."""
    args, started = arguments(), time.process_time()
    partial = args.out.with_suffix(".partial.jsonl") if args.out else None
    seeds = numbers(args.seeds or [QUICK if args.quick else FULL])
    rows = run(seeds, args.plan_every, partial, sys.stderr.write)
    found = {"simulated": summarise(rows), "real": [] if args.quick else replay_all(sys.stderr.write)}
    found["cpu_seconds"] = round(time.process_time() - started)
    sys.stderr.write("\n")
    print(text(found))
    if args.out:
        save(args.out, typed(), **found)
        partial.unlink(missing_ok=True)
    if args.page:
        write_text(args.page, page(found, args.figure), known=True)
    if args.figure:
        draw(found, args.figure)


if __name__ == "__main__":
    main()
