"""Does `settle` keep its word, and what do `plan` and `fit` make of the same pilots? Checked where the truth is known.

    python -m benchmarks.settle.run --quick                           # a minute: what constants are tuned with
    python -m benchmarks.settle.run --only simulated --seeds 20000:20160 --plan-every 0 --out RESULTS.json
    python -m benchmarks.settle.run --only shipped --plan-every 0     # two minutes: tables of trained runs in this tree
    python -m benchmarks.settle.run --only worlds --worlds DIR... --plan-every 8 --out RESULTS.json
    python -m benchmarks.settle.page RESULTS.json... --page PAGE.md --figure FIGURE.png

Simulated: loss surfaces of four families (verdict/truths.py), pilots with seed noise, 2 % of the target's compute
(decisions.py). Shipped, worlds: real training, pilots answered from finished studies (shipped.py, worlds.py).
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
from benchmarks.settle.decisions import arms, draw_decision
from benchmarks.settle.loop import settle
from benchmarks.settle.page import text
from benchmarks.settle.peers import fitted, planned, simulated_study
from benchmarks.settle.rules import follow
from benchmarks.settle.scores import judge, regret
from benchmarks.settle.shipped import shipped_decisions
from benchmarks.settle.summary import summarise
from benchmarks.settle.worlds import world_decisions
from distillaw.settling.question import NONE

LATER, UNTOUCHED = 1000, 5000
"""Seeds below the first were tuned on, some of those below the second looked at; of those from the second on 11000 to
11159 and 20000 to 20159 were run when every constant was fixed, and are a tier of their own."""
FULL, QUICK = ("0:64", "11000:11160", "20000:20160"), ("0:32",)


def simulated_row(number, with_peers):
    """One simulated decision: settled, and followed by everybody else."""
    decision = draw_decision(number)
    settlement = settle(decision.question, decision.runner())
    row = {
        "tier": "untouched" if number >= UNTOUCHED else "simulated",
        "cluster": number,
        "family": decision.family,
        "kind": decision.kind,
        "scale": decision.scale,
        "seeds": f"from {LATER}" if number >= LATER else "tuning",
        "teachers": "stored" if all(c.flops == 0 for c in decision.question.candidates) else "online",
        "allowed": f"{decision.question.margin / decision.losses[NONE]:.2%}",
        "kin": "same text" if decision.question.candidates[0].params else "unknown",
    }
    row |= judge(decision.losses, settlement) | ruled(decision, settlement)
    if with_peers and settlement.runs:
        study = simulated_study(decision, settlement.runs)
        size = {"vocab": decision.vocab, "context": decision.context}
        row["plan"] = planned(decision, study, study.record(), **size)
        row["fit"] = fitted(decision, study.table)
    return row


def world_row(decision, with_peers, tier="worlds"):
    """One decision in a world."""
    settlement = settle(decision.question, decision.runner())
    row = {
        "tier": tier,
        "cluster": decision.world,
        "family": decision.world,
        "kind": decision.kind,
        "scale": decision.scale,
    }
    row |= judge(decision.losses, settlement, noise=decision.doubt) | ruled(decision, settlement)
    if with_peers and settlement.runs:
        study = decision.study(settlement.runs)
        row["plan"] = planned(decision, study, study.record(), vocab=None, context=None)
        row["fit"] = fitted(decision, study.table)
    return row


def ruled(decision, settlement):
    """Regret of every rule."""
    chosen = follow(decision, settlement, arms(decision.teachers))
    return {"rules": {rule: regret(decision.losses, name) for rule, name in chosen.items()}}


def tasks(args):
    """{name of a row: function of whether plan and fit are asked as well}."""
    found = {}
    if args.only == "shipped":
        for decision in shipped_decisions(args.most):
            found[decision.key] = lambda peers, decision=decision: world_row(decision, peers, "shipped")
        return found
    if args.only != "worlds":
        for number in args.seeds:
            found[f"simulated-{number}"] = lambda peers, number=number: simulated_row(number, peers)
    if args.only != "simulated":
        for folder in args.worlds:
            for decision in list(world_decisions(folder))[:: args.every]:
                found[decision.key] = lambda peers, decision=decision: world_row(decision, peers)
    return found


def run(work, plan_every, partial=None, report=lambda text: None):
    """All rows, continued from the file of partial results where one is given."""
    done, mark = {}, fingerprint(plan_every)
    if partial is not None and partial.exists():
        lines = [json.loads(line) for line in partial.read_text().splitlines()]
        done = {line["key"]: line["row"] for line in lines if line["mark"] == mark and line["key"] in work}
    for k, (key, task) in enumerate(work.items()):
        if key in done:
            continue
        done[key] = task(bool(plan_every) and k % plan_every == 0)
        if partial is not None:
            with partial.open("a") as file:
                file.write(json.dumps({"mark": mark, "key": key, "row": done[key]}) + "\n")
        report(f"\r{len(done)} of {len(work)}: {key}          ")
    return [done[key] for key in work]


def fingerprint(plan_every):
    """Of the code that is judged and of the judge: partial results of another state are not continued."""
    root, here = Path(dl.__file__).parent, Path(__file__).parent
    parts = [
        path.read_bytes()
        for part in ("settling", "planning", "fitting", "laws")
        for path in sorted((root / part).rglob("*.py"))
    ]
    parts += [path.read_bytes() for path in sorted([*here.glob("*.py"), *(here.parent / "verdict").glob("*.py")])]
    return hashlib.sha256(b"".join(parts) + repr(plan_every).encode()).hexdigest()[:16]


def numbers(ranges):
    """Seeds of ranges A:B."""
    return [k for part in ranges for k in range(*map(int, part.split(":")))]


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 simulated decisions, no plan and fit")
    parser.add_argument("--only", choices=("simulated", "worlds", "shipped"))
    parser.add_argument("--most", type=int, default=24, metavar="K", help="decisions of each shipped table")
    parser.add_argument("--seeds", nargs="+", metavar="A:B", help=f"simulated decisions; default {' '.join(FULL)}")
    parser.add_argument("--worlds", nargs="*", type=Path, default=[], metavar="DIR", help="finished study folders")
    parser.add_argument("--plan-every", type=int, metavar="K", help="ask plan and fit at every K-th decision; 0: never")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="only every K-th decision of a world")
    parser.add_argument("--rows", action="store_true", help="print a line per decision")
    parser.add_argument("--out", type=Path, help="scores as JSON")
    args = parser.parse_args()
    args.seeds = numbers(args.seeds or (QUICK if args.quick else FULL))
    if args.plan_every is None:
        args.plan_every = 0 if args.quick else 4
    return args


def main():
    """Run, score, print, write."""
    args, started = arguments(), time.process_time()
    partial = args.out.with_suffix(".partial.jsonl") if args.out else None
    rows = run(tasks(args), args.plan_every, partial, sys.stderr.write)
    sys.stderr.write("\n")
    found = {"tiers": summarise(rows), "cpu_seconds": round(time.process_time() - started, 1)}
    print(text(found, rows if args.rows else ()))
    if args.out:
        save(args.out, typed(), **found)
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
