"""A batch that doubles during the run: sequences of the constant batch, the rules' settings, resumed bit for bit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import ranked
import torch
from hypothesis import given
from hypothesis import strategies as st
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.runs.files import read_json_lines
from distillaw.runs.spec import BatchPlan
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining
from distillaw.train.optim import own_settings, schedule_for

TOKENS = 3072


@pytest.fixture
def growing(trunk):
    """128 tokens to 512, then twice that to 1536, then 512: 4 + 4 + 3 steps, the last one the cooldown."""
    recipe = replace(trunk.recipe, batch_doublings=(512, 1536), weight_decay=0.01, decay_rule="timescale")
    return replace(trunk, recipe=recipe)


@given(
    batch=st.integers(1, 4096),
    doublings=st.lists(st.integers(1, 10**6), max_size=5).map(lambda places: tuple(sorted(places))),
    step=st.integers(0, 5000),
)
def test_a_plan_counts_each_batch_once(batch, doublings, step):
    plan = BatchPlan(batch, doublings)
    assert plan.read(0) == 0
    assert (plan.read(step + 1) - plan.read(step)) * batch == plan.at(step)
    assert plan.step(plan.read(step)) == step
    last = max([0, *doublings]) / batch + 2 ** len(doublings)
    assert plan.at(plan.step(last) + 1) == batch * 2 ** len(doublings)


def test_one_batch_is_the_schedule_in_steps():
    """And twice the batch at half the steps is the same rate over the text."""
    options = {"tokens": 64_000, "warmup_tokens": 6400, "cooldown": 0.5, "power": 0.3, "power_tokens": 12_800}
    plain = schedule_for(batches=BatchPlan(64), **options)
    grown = schedule_for(batches=BatchPlan(64, (32_000,)), **options)
    assert (plain.total_steps, grown.total_steps, grown.branch_step) == (1000, 750, 500)
    assert [grown.factor(step) for step in range(500)] == [plain.factor(step) for step in range(500)]
    later = [plain.factor(501 + 2 * k) for k in range(250)]
    assert [grown.factor(500 + k) for k in range(250)] == pytest.approx(later)


def test_sequences_are_those_of_the_constant_batch_in_their_order(study, trunk, growing):
    def read(spec, steps):
        feed = TrunkGroup([spec], study).feed
        return np.concatenate([windows for step in range(steps) for _, windows, _ in feed.batches(step)])

    assert (read(growing, 11) == read(trunk, 24)[: 4 * 4 + 4 * 8 + 3 * 16]).all()


def test_rate_and_decay_follow_the_batch(study, growing):
    (run,) = train_trunk(growing, [TOKENS], study)
    rows = read_json_lines(run.path / "metrics.jsonl")
    assert (rows[-1]["tokens"], rows[-1]["batch_tokens"]) == (TOKENS, 512)
    result = run.result()
    assert (result["steps"], result["tokens"], result["batch_tokens"]) == (11, TOKENS, 128)
    first, last = own_settings(growing), own_settings(growing, 512)
    assert (last.peak_lr, last.weight_decay) == pytest.approx((2 * first.peak_lr, 2 * first.weight_decay))
    assert rows[-1]["lr"] == pytest.approx(last.peak_lr * 0.01)


@pytest.mark.parametrize("stop_at", [4, 10])
def test_resumed_across_a_change_bit_for_bit(fresh_study, growing, stop_at):
    """At the first change, and before the cooldown."""
    whole, stopped = fresh_study("whole"), fresh_study("stopped")
    with pytest.raises(StopTraining):
        train_trunk(growing, [TOKENS], stopped, report=stop_after(stop_at))
    weights = []
    for study in (whole, stopped):
        (run,) = train_trunk(growing, [TOKENS], study)
        weights.append(AutoModelForCausalLM.from_pretrained(run.path).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_ranks_and_micro_batches_train_as_one_does(fresh_study, growing):
    parts = replace(growing, recipe=replace(growing.recipe, micro_batch_tokens=64))
    (one,) = ranked.run(1, ranked.train, fresh_study("one").path, growing, [TOKENS])
    for name, spec, world in (("accumulated", parts, 1), ("two", parts, 2)):
        losses = ranked.run(world, ranked.train, fresh_study(name).path, spec, [TOKENS])[0]
        assert len(losses) == 11
        assert math.isfinite(losses[-1])
        np.testing.assert_allclose(losses, one, rtol=1e-5)
