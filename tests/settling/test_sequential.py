"""The judge of `study next` (benchmarks/sequential/run.py): what it buys, what it counts; and a small run."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.sequential import run as benchmark
from benchmarks.sequential.page import page
from benchmarks.sequential.policies import BUDGET, GRIDS, PARTS, SIZES, full_grid, grids, ladder, nothing
from benchmarks.sequential.real import Table, pocket
from benchmarks.sequential.real import sequential as sequential_in_table
from benchmarks.sequential.summary import one_ratio, stopped, summarise
from benchmarks.settle.decisions import draw_decision
from benchmarks.settle.worlds import world_decisions_of
from distillaw.settling.question import extra_flops, wanted_by


def look(spent, regret, **more):
    return {"spent": spent, "regret": regret, "verdict": None, "false": False, "runs": 1, "bound": 1.0} | more


def row(number, path, grid):
    """A decision on which a grid at 10 % is as good as `grid`, and a path as good as it says."""
    looks = {"grid": [look(0.1, grid)], "random": path, "ladder": path, "next": path}
    return {
        "number": number,
        "family": "one",
        "kind": "spread",
        "scale": "small",
        "margin": 0.005,
        "nothing": look(0.0, 0.05),
        "looks": looks,
    }


def test_a_path_that_is_as_good_at_a_tenth_saves_tenfold():
    rows = [
        row(k, [look(0.001, 0.04), look(0.01, 0.01, stake=0.012), look(0.02, 0.0, why="dear")], 0.01) for k in range(9)
    ]
    found = summarise(rows)
    ratios = {(r["way"], r["share"], r["other"]): r for r in found["ratios"]}
    ten = ratios["grid", 0.1, "next"]
    assert ten["ratio"] == pytest.approx(10) and ten["lower"] == pytest.approx(10) and ten["reached"] == 1
    assert ratios["plan", 0.1, "next"]["num"] == 0
    assert found["stop"]["spent"] == pytest.approx(0.02)
    assert "| full grid" in page({"simulated": found, "real": [], "cpu_seconds": 1}, None)


def test_what_is_never_reached_has_no_ratio_and_luck_does_not_count():
    path = np.array([[0.001, 0.04], [0.002, 0.02], [0.004, 0.06], [0.01, 0.01]])
    assert np.isnan(one_ratio(np.array([0.1, 0.005]), path))
    assert one_ratio(np.array([0.1, 0.03]), path) == pytest.approx(10)  # not 50: the dip at 0.002 was luck


def test_stopping_cuts_where_it_says_so():
    looks = [look(0.001, 0.0, why=""), look(0.002, 0.0, why="dear"), look(0.004, 0.0)]
    assert stopped(looks) == looks[:2] and stopped(looks[:1]) == looks[:1] and stopped([]) == []


@pytest.mark.parametrize("number", range(4))
def test_a_grid_is_full_and_within_its_budget(number):
    question = draw_decision(number).question
    budget = 3 * question.target_flops
    stages = full_grid(question, budget)
    assert extra_flops(question, {}, wanted_by(question, stages)) <= budget
    main = stages[0]
    assert len(main.labels) == SIZES and len(main.tokens) == len(PARTS)
    assert set(main.candidates) == {c.name for c in question.candidates}
    assert full_grid(question, 1e-9 * question.target_flops) is None


@pytest.mark.slow
def test_a_small_run_stays_within_its_budgets_and_learns():
    rows = [benchmark.simulated_row(number, with_plan=False) for number in range(2000, 2006)]
    for one in rows:
        for way, share in (("next", BUDGET), ("ladder", BUDGET), ("random", BUDGET), ("grid", max(GRIDS))):
            spent = [x["spent"] for x in one["looks"][way]]
            assert spent == sorted(spent) and all(x <= share * (1 + 1e-9) for x in spent)
        assert all(x["regret"] >= 0 for x in one["looks"]["next"])
    found = summarise(rows)
    last = found["ways"]["next"]["rows"][-1]
    assert last["regret"] < np.mean([one["nothing"]["regret"] for one in rows])
    assert last["false"] <= 1 / 6


def test_real_cells_are_revealed_until_none_is_left():
    decision = next(d for d in world_decisions_of(pocket(), "pocket") if d.kind == "two")
    table = Table(decision)
    looks = sequential_in_table(table)
    assert looks and all(earlier["spent"] < later["spent"] for earlier, later in pairwise(looks))
    hidden = {
        run.run_id
        for run in decision.source.record.students
        if run.label == decision.question.target.label and run.tokens > decision.question.tokens / 4
    }
    seen = {run.run_id for stage in table.stages() for run in table.run(stage)[1]}
    assert seen and not seen & hidden


@pytest.mark.slow
def test_next_is_as_good_as_a_grid_of_several_times_its_cost():
    """On 24 decisions: no worse than the grid at 3 % by more than its standard error, at a third of the cost."""
    decisions = [draw_decision(number) for number in range(2000, 2024)]
    rows = [benchmark.simulated_row(d.number, with_plan=False) for d in decisions]
    ways = summarise(rows)["ways"]
    grid = next(r for r in ways["grid"]["rows"] if r["share"] == 0.1)
    own = next(r for r in ways["next"]["rows"] if r["share"] == 0.03)
    assert own["spent"] < 0.5 * grid["spent"] and own["regret"] <= grid["regret"] + 2 * max(grid["se"], own["se"])
    assert all(nothing(d)["spent"] == 0 for d in decisions[:2]) and grids(decisions[0], False)[1] == []
    assert ladder(decisions[1])
