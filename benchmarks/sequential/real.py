"""Tables of real runs whose cells are revealed one after another: the shipped pocket study and two worlds.

The largest student at one of its budgets is the target; it and everything near it stays hidden. A grid reveals all
other cells, `random` and `study next` one cell (a size, a budget, some teachers and none) after another.
"""

import csv
import math
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import RESULTS
from benchmarks.sequential.policies import MOST, Walk
from benchmarks.settle.worlds import World, world_decisions_of
from distillaw.runs.record import Run, StudyRecord
from distillaw.settling.propose import propose
from distillaw.settling.question import Stage, extra_flops, wanted_by
from distillaw.settling.standing import standing

SETS = ("windows", "other")
"""Parts of the worlds' table that are grids."""
PER_TABLE = 5
"""Decisions of a table, spread over its targets and sets of teachers."""
DRAWS = 1
"""Random orders."""
SHARES = (0.1, 0.3)
"""Of what all cells cost, in the table of the page."""
EVERY = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


class Table:
    """A decision in a table of runs as the policies see decisions."""

    def __init__(self, decision):
        self.source, self.question, self.losses = decision, decision.question, decision.losses
        self.number, self.family = decision.number, decision.world

    def run(self, stage):
        """The runs of a stage that the table has, without the hidden ones."""
        return stage, self.source.runner().rows(stage)

    def stages(self):
        """Every cell of the table, with all teachers, or with one."""
        names = tuple(c.name for c in self.question.candidates)
        groups = [names, *((name,) for name in names if len(names) > 1)]
        cells = [
            Stage(size=label, tokens=(tokens,), candidates=group, seeds=(seed,))
            for label, tokens in self.source.source.cells
            for group in groups
            for seed in sorted({seed for _, seed in self.source.source.cells[label, tokens]})
        ]
        return [stage for stage in cells if len(self.run(stage)[1]) == 1 + len(stage.candidates)]


def replay_all(report=lambda text: None):
    """A summary of every table."""
    rows = decisions(report)
    return [
        summary(name, [row for row in rows if row["table"] == name]) for name in dict.fromkeys(r["table"] for r in rows)
    ]


def summary(name, rows):
    """Mean regret by share of what all cells cost, and the share at which `study next` is as good as all of them."""
    found = {"table": name, "num": len(rows), "nothing": float(np.mean([row["nothing"]["regret"] for row in rows]))}
    for way, share in product(("random", "next", "grid"), (*SHARES, 1.0)):
        found[f"{way} {share:g}"] = float(np.mean([regret_at(row, way, share) for row in rows]))
    found["grid"] = found["grid 1"]
    equal = [
        share for share in EVERY if np.mean([regret_at(row, "next", share) for row in rows]) <= found["grid"] + 1e-9
    ]
    return found | {"equal": equal[0] if equal else 1.0}


def regret_at(row, way, share):
    """Of the last look for at most this share of what all cells cost."""
    limit = share * row["looks"]["grid"][0]["spent"] * (1 + 1e-9)
    paths = row["looks"][way] if way == "random" else [row["looks"][way]]
    seen = [[look for look in path if look["spent"] <= limit] or [row["nothing"]] for path in paths]
    return float(np.mean([path[-1]["regret"] for path in seen]))


def decisions(report):
    """Rows of all tables."""
    found = []
    for name, world in {"pocket": pocket(), **worlds()}.items():
        decisions = [d for d in world_decisions_of(world, name) if d.kind != "one" or len(world.candidates) < 3]
        for decision in decisions[:: max(1, len(decisions) // PER_TABLE)][:PER_TABLE]:
            table = Table(decision)
            if table.stages():
                found.append(
                    {
                        "table": name,
                        "kind": decision.kind,
                        "margin": decision.question.margin,
                        "nothing": look(Walk.begin(table, 1.0)),
                        "looks": replay(table),
                    }
                )
                report(f"\r{len(found)}: {decision.key}          ")
    return found


def replay(table):
    """Looks of every way."""
    grid = Walk.begin(table, math.inf)
    for stage in table.stages():
        grid.buy(stage)
    orders = [in_order(table, np.random.default_rng(k)) for k in range(DRAWS)]
    return {"grid": [look(grid)], "random": orders, "next": sequential(table)}


def look(walk):
    """What would be said now."""
    return walk.look(standing(walk.decision.question, [], walk.runs))


def in_order(table, rng):
    """All cells with all teachers, in a random order; a look whenever the cost has doubled."""
    names = table.question.candidates
    cells = [stage for stage in table.stages() if len(stage.candidates) == len(names)]
    walk, looks = Walk.begin(table, math.inf), []
    for i in rng.permutation(len(cells)):
        walk.buy(cells[i])
        if not looks or walk.spent >= 1.5 * looks[-1]["spent"] * table.question.target_flops:
            looks.append(look(walk))
    return [*looks, look(walk)]


def sequential(table):
    """`study next` among the cells of the table."""
    whole, cells = Walk.begin(table, math.inf), table.stages()
    for stage in cells:
        whole.buy(stage)
    walk, looks = Walk.begin(table, 1.0), []
    while len(looks) < MOST:
        said = propose(
            table.question,
            walk.stages,
            walk.runs,
            spent=walk.spent,
            budget=whole.spent - walk.spent,
            near=lambda flops: nearest_cells(table.question, walk.made, cells, flops),
        )
        if looks:
            looks[-1] |= {"why": said.why}
        if said.stage is None:
            break
        walk.buy(said.stage)
        looks.append(look(walk))
    return looks


def nearest_cells(question, made, cells, cap):
    """The cell nearest to the target that so many FLOP buy, for each group of teachers and its seeds."""

    def away(cell):
        params = question.size(cell.size).params
        return math.hypot(math.log(question.target.params / params), math.log(question.tokens / cell.tokens[-1]))

    found = {}
    for cell in sorted(cells, key=away):
        if 0 < extra_flops(question, made, wanted_by(question, [cell])) <= cap:
            found.setdefault((cell.candidates, cell.seeds), cell)
    return list(found.values())


def pocket():
    """The study that the package ships."""
    rows = pq.read_table(files("distillaw") / "studies" / "pocket_runs.parquet").to_pylist()
    return World(record_of([row for row in rows if row["purpose"] != "tuning"]))


def worlds():
    """{name: grid} of docs/worlds-study.md."""
    rows = list(csv.DictReader((RESULTS / "worlds_study.csv").open()))
    return {part: World(record_of([world_row(row) for row in rows if row["set"] == part])) for part in SETS}


def world_row(row):
    """A row of the worlds' table with the columns of a run table; FLOP as 6 N D, oracles count nothing."""
    size, tokens, taught = float(row["params"]), int(row["budget"]), row["teacher"] not in ("", "none")
    return {
        "run_id": row["run_id"],
        "role": row["role"],
        "purpose": "grid",
        "params": int(size),
        "tokens": tokens,
        "seed": int(row["seed"]),
        "loss": float(row["loss"]),
        "loss_se": float(row["loss_se"]),
        "teacher_run": row["teacher"] if taught else None,
        "teacher_loss": float(row["teacher_loss"]) if taught else None,
        "teacher_flops": 0.0,
        "train_flops": 6 * size * tokens,
        "batch_tokens": int(row["batch_tokens"]),
    }


def record_of(rows):
    """A study of some rows."""
    runs = [Run(row=row, folder=None) for row in rows]
    return StudyRecord(folder=Path("table"), info={}, runs=runs, unfinished=(), tuning={}, problems=())
