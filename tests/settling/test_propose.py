"""The next batch: what it is worth, what it costs, when there is none; and that asking it beats a grid."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.sequential.real import nearest_cells
from distillaw.errors import ConfigError
from distillaw.settling.design import stage_pool
from distillaw.settling.propose import (
    CHECKED,
    FIRST,
    GROWTH,
    LEAST,
    Outlook,
    expect,
    gains_by_tokens,
    propose,
    stages_of,
)
from distillaw.settling.question import NONE, Stage, extra_flops, made_by, runs_of, wanted_by
from tests.settling.questions import make_question, run_stage, settle, with_budget

QUESTION = make_question(share=0.02)


def truth(name, params, tokens):
    """The first teacher helps by 4 %, the second by 1 %."""
    alone = 1.7 + (4e8 / params) ** 0.34 * 0.45 + (8e9 / tokens) ** 0.3 * 0.3
    return alone * {NONE: 1.0, "t0": 0.96, "t1": 0.99}[name]


@pytest.fixture(scope="module")
def asked():
    """Three batches, each proposed after the one before."""
    said, stages, runs, spent = [], [], [], 0.0
    for _ in range(3):
        one = propose(QUESTION, stages, runs, spent=spent, budget=QUESTION.budget - spent)
        said.append((one, list(runs), spent))
        runs += run_stage(QUESTION, one.stage, truth)
        stages.append(one.stage)
        spent += one.flops
    return said


def test_batches_are_affordable_new_and_grow(asked):
    for one, runs, spent in asked:
        made = made_by(QUESTION, runs)
        assert one.flops == pytest.approx(extra_flops(QUESTION, made, wanted_by(QUESTION, [one.stage])))
        left = QUESTION.budget - spent
        assert 0 < one.flops <= max(FIRST * left, GROWTH * spent) * (1 + LEAST)
        assert one.worth >= 0 and one.worth_flops >= 0
    assert asked[0][0].stage.candidates == ("t0", "t1")


def test_the_same_runs_give_the_same_proposal(asked):
    one, runs, spent = asked[1]
    again = propose(QUESTION, [asked[0][0].stage], runs, spent=spent, budget=QUESTION.budget - spent)
    assert (again.stage, again.worth, again.flops) == (one.stage, one.worth, one.flops)


def test_worth_is_what_conditioning_on_the_runs_saves(asked):
    """Against brute force: outcomes drawn from the outlook itself, conditioned one by one."""
    one = asked[1][0]
    outlook, stage = one.outlook, one.stage
    index_J, noise_JJ = outlook._measured(stage)
    count, rng = len(outlook.mean_A), np.random.default_rng(5)
    across_AJ = outlook.cov[:count, index_J]
    total_JJ = outlook.cov[np.ix_(index_J, index_J)] + noise_JJ
    outcomes_KJ = rng.standard_normal((40_000, len(index_J))) @ np.linalg.cholesky(total_JJ).T
    means_KA = outlook.mean_A + outcomes_KJ @ np.linalg.solve(total_JJ, across_AJ.T)
    arms = list(outlook.arms)
    saved = outlook.mean_A[arms].min() - means_KA[:, arms].min(1).mean()
    assert outlook.worth(stage) == pytest.approx(saved, rel=0.15, abs=2e-4)


def test_worth_grows_with_seeds_and_stays_below_the_stake(asked):
    outlook, stage = asked[1][0].outlook, asked[1][0].stage
    twice = replace(stage, seeds=(0, 1))
    assert 0 <= outlook.worth(stage) <= outlook.worth(twice) * (1 + 1e-6) <= outlook.stake * 1.05
    after = outlook.after(stage)
    assert after.worth_so_far == pytest.approx(outlook.worth(stage), abs=1e-9)
    assert after.stake == pytest.approx(outlook.stake, abs=1e-9)
    assert after.worth(stage) >= after.worth_so_far - 1e-9


def test_a_run_of_the_target_itself_settles_nearly_everything(asked):
    one, runs, _ = asked[1]
    whole = Stage(size=QUESTION.target.label, tokens=(int(QUESTION.tokens),), candidates=("t0", "t1"), seeds=(0,))
    outlook = Outlook.of(one.now.belief, [whole], one.outlook.arms)
    assert outlook.worth(whole) > 0.8 * outlook.stake
    before, after = expect(outlook, one.now), expect(outlook.after(whole), one.now)
    assert after.expected_regret < 0.2 * before.expected_regret
    assert after.probability_best > before.probability_best and after.probability_settled > before.probability_settled
    assert len(runs) > 0


def test_gains_by_tokens_agree_with_the_gain_at_the_target(asked):
    now = asked[2][0].now
    rows = gains_by_tokens(now)
    at_target = next(row for row in rows if row["tokens"] == QUESTION.tokens)
    assert at_target["gain"] == pytest.approx(now.gains[now.best_teacher].mean, abs=0.01)
    assert all(row["lower"] < row["gain"] < row["upper"] for row in rows)
    run = np.exp(now.belief.measured.log_tokens)
    inside = [row for row in rows if row["tokens"] != QUESTION.tokens]
    assert all(run.min() * (1 - 1e-6) <= row["tokens"] <= run.max() * (1 + 1e-6) for row in inside)


def test_a_budget_near_one_that_has_runs_is_that_one():
    def first(made):
        return next(s for s in stage_pool(QUESTION, made, [("t0",)], QUESTION.budget) if s.seeds == (0,))

    fresh = first({})
    near = round(fresh.tokens[0] * 1.01)
    snapped = first({(fresh.size, NONE, 0, near): frozenset({near})})
    assert snapped.size == fresh.size and snapped.tokens == (near, *fresh.tokens[1:])


def test_fewer_teachers_and_more_money_come_nearer_to_the_target():
    def reach(group, cap):
        stages = stage_pool(QUESTION, {}, [group], cap)
        return max(QUESTION.size(stage.size).params * stage.tokens[-1] for stage in stages)

    cap = 0.1 * QUESTION.budget
    assert reach(("t0",), cap) > reach(("t0", "t1"), cap)
    assert reach(("t0", "t1"), 4 * cap) > reach(("t0", "t1"), cap)


def test_offered_cells_are_taken_from_near_the_target_as_far_as_a_batch_may_cost():
    cells = [
        Stage(size=size.label, tokens=(tokens,), candidates=("t0",), seeds=(0,))
        for size in QUESTION.sizes[:5]
        for tokens in (20_000_000, 80_000_000)
    ]
    prices = {cell: extra_flops(QUESTION, {}, wanted_by(QUESTION, [cell])) for cell in cells}
    assert nearest_cells(QUESTION, {}, cells, math.inf) == [cells[-1]]
    cap = sorted(prices.values())[4]
    (picked,) = nearest_cells(QUESTION, {}, cells, cap)
    assert prices[picked] <= cap and picked != cells[0]
    assert nearest_cells(QUESTION, wanted_by(QUESTION, cells), cells, math.inf) == []
    said = propose(
        QUESTION, [], [], spent=0.0, budget=64 * cap, near=lambda flops: nearest_cells(QUESTION, {}, cells, flops)
    )
    assert said.stage == picked


def test_runs_without_a_history_are_read_from_small_to_large():
    runs = []
    for size in QUESTION.sizes[:6]:
        stage = Stage(size=size.label, tokens=(10_000_000,), candidates=("t0",), seeds=(0,))
        runs += run_stage(QUESTION, stage, truth)
    stages = stages_of(QUESTION, runs)
    assert len(stages) == CHECKED and stages_of(QUESTION, []) == []
    assert [stage.size for stage in stages] == [size.label for size in QUESTION.sizes[2:6]]
    assert sum(len(runs_of(QUESTION, stage, runs)) for stage in stages) == len(runs)


@pytest.mark.slow
def test_it_ends_settled_or_with_nothing_left_to_buy():
    _, runs, looks = settle(with_budget(QUESTION, 0.3), lambda name, n, d: truth(NONE, n, d) * (1.1 if name else 1.0))
    assert looks[-1].verdict == "pretrain"
    said = propose(QUESTION, stages_of(QUESTION, runs), runs, spent=1.0, budget=1e18)
    assert said.stage is None and "settled" in said.why
    _, runs, _ = settle(with_budget(QUESTION, 0.002), truth)
    said = propose(QUESTION, stages_of(QUESTION, runs), runs, spent=1.0, budget=1e5)
    assert said.stage is None and "buy no further runs" in said.why
    with pytest.raises(ConfigError, match="buys no run"):
        propose(QUESTION, [], [], spent=0.0, budget=1e5)


def test_where_no_run_is_as_short_as_the_target_it_is_said():
    """It had looked for ever for the budget that would buy one."""
    short = replace(QUESTION, tokens=QUESTION.least_tokens / 2)
    with pytest.raises(ConfigError, match=r"trained on 1M tokens.*at least 2M: train the student itself"):
        propose(short, [], [], spent=0.0, budget=1e15)


def test_what_is_at_stake_may_not_be_worth_its_cost():
    """Teachers that hardly differ from none: the regret that is left is small, runs that could tell are dear."""
    question = make_question(ratios=(0.999,), share=0.5, margin=1e-5)
    runs = []
    for size in (5, 7):  # the target among them
        stage = Stage(
            size=question.sizes[size].label, tokens=(int(question.tokens),), candidates=("t0",), seeds=(0, 1, 2)
        )
        runs += run_stage(question, stage, lambda name, n, d: truth(NONE, n, d) * (0.9995 if name else 1.0), sd=0.0005)
    said = propose(question, [], runs, spent=1e18, budget=3 * question.target_flops)
    assert said.now.verdict is None and "less than it costs" in said.why
