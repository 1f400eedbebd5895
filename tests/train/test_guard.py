"""Steps that are not finite, or whose gradient spikes: skipped, counted, survived or given up, as the recipe says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.errors import DivergedError
from distillaw.runs.spec import Recipe
from distillaw.train.loop import BatchFeed, StopTraining, Trainer
from distillaw.train.metering import FEW_STEPS, SPIKE_WINDOW, SpikeGuard

TOKENS = 2048  # 16 steps, cooldown from 13


def _with(trunk, **settings):
    return replace(trunk, recipe=replace(trunk.recipe, **settings))


@pytest.fixture
def spoil(monkeypatch):
    """spoil(steps, factor) multiplies the gradients of these steps of every run from now on."""

    def install(steps, factor=float("nan")):
        update = Trainer.update

        def spoilt(trainer, rate):
            if trainer.state.step in steps:
                for parameter in trainer.state.model.parameters():
                    parameter.grad.mul_(factor)
            return update(trainer, rate)

        monkeypatch.setattr(Trainer, "update", spoilt)

    return install


def _rows(folder):
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def test_without_patience_the_first_bad_step_ends_the_run(study, trunk, spoil):
    spoil({5})
    with pytest.raises(DivergedError, match=r"diverged at step 5: .*gradient norm nan.*Lower training\.peak_lr"):
        train_trunk(trunk, [TOKENS], study)


def test_with_patience_bad_steps_are_skipped_and_counted(study, trunk, spoil):
    spoil({5, 6, 9})
    (folder,) = train_trunk(_with(trunk, patience=2), [TOKENS], study)
    assert [row["skipped"] for row in _rows(folder)] == [0, 3, 3]
    assert folder.result()["steps"] == 16
    weights = AutoModelForCausalLM.from_pretrained(folder.path).state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_more_in_a_row_than_the_patience_is_divergence(study, trunk, spoil):
    spoil({5, 6, 7})
    with pytest.raises(DivergedError, match="diverged at step 7"):
        train_trunk(_with(trunk, patience=2), [TOKENS], study)


def test_a_skipped_step_leaves_weights_and_moments_as_they_were(study, trunk, spoil):
    """The run whose step 0 is bad has, after step 0, the fresh weights and empty moments."""
    from distillaw.train.group import TrunkGroup

    spec = _with(trunk, patience=1)
    group = TrunkGroup([spec], study)
    trainer = group.trainer(spec)
    before = {name: value.clone() for name, value in trainer.state.model.state_dict().items()}
    for parameter in trainer.state.model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    trainer._sums.append(torch.zeros(3, dtype=torch.float64))
    trainer.update(1e-2)
    assert all(torch.equal(before[name], value) for name, value in trainer.state.model.state_dict().items())
    assert all(float(m["step"]) == 0 and not m["exp_avg"].any() for m in trainer.state.optimizer.state.values())
    assert trainer.state.step == 1 and trainer.state.notes["skipped"] == 1
    assert all(parameter.grad is None for parameter in trainer.state.model.parameters())


def test_a_run_resumed_between_bad_steps_is_the_uninterrupted_one(fresh_study, trunk, spoil):
    """Stopped after 6 steps, the first of two bad ones behind it: what the guard knows is in the checkpoint."""
    spoil({5, 6, 9})
    spec = _with(trunk, patience=2)
    (whole,) = train_trunk(spec, [TOKENS], fresh_study("whole"))
    parts = fresh_study("parts")
    with pytest.raises(StopTraining):
        train_trunk(spec, [TOKENS], parts, report=stop_after(6))
    (resumed,) = train_trunk(spec, [TOKENS], parts)
    a, b = (AutoModelForCausalLM.from_pretrained(f.path).state_dict() for f in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["skipped"] for row in _rows(resumed)] == [row["skipped"] for row in _rows(whole)]
    parts = fresh_study("impatient")
    impatient = _with(trunk, patience=1)
    with pytest.raises(StopTraining):
        train_trunk(impatient, [TOKENS], parts, report=stop_after(6))
    with pytest.raises(DivergedError, match="step 6"):  # the second in a row, the first was before the stop
        train_trunk(impatient, [TOKENS], parts)


def test_a_spike_is_skipped_where_one_is_asked_for(fresh_study, trunk, spoil):
    """Step 25 has a gradient a thousand times too large; with `spike_factor` it is left out."""
    spoil({25}, factor=1000.0)
    (watched,) = train_trunk(_with(trunk, spike_factor=50, patience=1), [4096], fresh_study("watched"))
    (taken,) = train_trunk(trunk, [4096], fresh_study("taken"))
    assert _rows(watched)[-1]["skipped"] == 1 and _rows(taken)[-1]["skipped"] == 0


def test_what_counts_as_a_spike():
    guard = SpikeGuard(Recipe(spike_factor=3, patience=1), notes := {}, [])
    assert guard.admits(1.0, 100.0)  # the first steps set the scale, whatever they are
    for _ in range(FEW_STEPS - 1):
        assert guard.admits(1.0, 1.0)
    mean = notes["mean_norm"]
    assert mean == pytest.approx((100 + FEW_STEPS - 1) / FEW_STEPS)
    assert guard.admits(1.0, 2.9 * mean)
    assert not guard.admits(1.0, 3.1 * notes["mean_norm"]) and not guard.gives_up
    assert not guard.admits(float("inf"), 1.0) and guard.gives_up
    assert notes["skipped"] == 2
    assert guard.admits(1.0, 1.0) and not guard.gives_up


def test_far_above_the_window_is_a_spike_until_it_lasts():
    """By numpy's mean and deviation; what was skipped is in them, so a new level is taken after a while."""
    rng, guard = np.random.default_rng(0), SpikeGuard(Recipe(skip_spikes=6), notes := {}, recent := [])
    assert all(guard.admits(*each) for each in rng.normal([3.0, 1.0], [0.02, 0.1], size=(200, 2)))
    assert len(recent) == SPIKE_WINDOW
    bounds = np.mean(recent, axis=0) + 6 * np.std(recent, axis=0, ddof=1)
    for column in (0, 1):
        for share, is_usual in ((0.999, True), (1.001, False)):
            now = [3.0, 1.0]
            now[column] = share * bounds[column]
            assert SpikeGuard(Recipe(skip_spikes=6), {}, list(recent)).admits(*now) == is_usual
    few = recent[: SPIKE_WINDOW // 2 - 1]
    assert SpikeGuard(Recipe(skip_spikes=6), {}, few).admits(90.0, 90.0)  # nothing is unusual yet
    risen = [guard.admits(3.5, 1.0) for _ in range(40)]
    assert not risen[0] and risen[-1] and notes["skipped"] == 40 - sum(risen) and not guard.gives_up
    assert not guard.admits(float("nan"), 1.0) and guard.gives_up  # patience is for these
    assert len(recent) == SPIKE_WINDOW and np.isfinite(recent).all()


@pytest.fixture
def poisoned(monkeypatch, text):
    """poisoned(steps) has these steps of every run from now on read one token that the text never has."""
    known = np.unique(np.concatenate([np.asarray(shard) for shard in text.split("student", context=32).shards]))
    never = int(np.setdiff1d(np.arange(300), known)[0])

    def install(*steps):
        batches = BatchFeed.batches

        def spoilt(feed, step):
            for tokens, windows, last in batches(feed, step):
                yield (torch.full_like(tokens, never) if step in steps else tokens), windows, last

        monkeypatch.setattr(BatchFeed, "batches", spoilt)

    return install


def test_poisoned_batches_are_left_out_and_the_run_resumes_within_the_window(fresh_study, trunk, poisoned):
    """Steps 100 and 101 of 128: with the guard they are skipped, here and after a stop between them."""
    poisoned(100, 101)
    tokens, spec = 128 * 128, _with(trunk, skip_spikes=6.0)
    whole, parts, taken = fresh_study("whole"), fresh_study("parts"), fresh_study("taken")
    (one,) = train_trunk(spec, [tokens], whole)
    assert _rows(one)[-1]["skipped"] == one.result()["skipped_steps"] == 2
    with pytest.raises(StopTraining):
        train_trunk(spec, [tokens], parts, report=stop_after(101))
    (again,) = train_trunk(spec, [tokens], parts)
    a, b = (AutoModelForCausalLM.from_pretrained(f.path).state_dict() for f in (one, again))
    assert all(torch.equal(a[name], b[name]) for name in a) and again.result()["skipped_steps"] == 2
    (plain,) = train_trunk(trunk, [tokens], taken)
    assert "skipped_steps" not in plain.result() and one.result()["loss"] < plain.result()["loss"]


def test_every_rank_skips_together(fresh_study, trunk):
    """A gradient that is not finite on one rank alone is not finite in the sum."""
    import ranked

    spec = replace(_with(trunk, patience=1), batch_tokens=256)
    answers = ranked.run(2, ranked.skipped_steps, fresh_study("ranks").path, spec, [4096])
    assert answers == [1, 1]
