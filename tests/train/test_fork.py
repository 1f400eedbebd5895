"""Branches of a checkpoint: the same weights, optimiser state and place in the text, whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stops import train_trunk

from distillaw.data.shards import BatchOrder, ForkedOrder
from distillaw.runs.files import read_json_lines
from distillaw.runs.spec import Branch, Fork
from distillaw.train import fork as engine
from distillaw.train.checkpoint import TrainState, load_state
from distillaw.train.fork import at_fork, fork_noise, forked_order, reach_fork, run_branch, step_losses
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining, silent


@pytest.fixture
def group(study, trunk):
    return TrunkGroup([trunk], study)


def branch(trunk, *, step=8, k=1.0, window=1024, **settings):
    """A branch of a trunk with batches of 128 tokens by the root rule."""
    spec = trunk
    if k != 1:
        spec = replace(trunk, batch_tokens=int(k * 128), recipe=replace(trunk.recipe, reference_batch_tokens=128))
    return Branch(fork=Fork(trunk=trunk, step=step), spec=spec, window=window, **settings)


def weights_and_moments(state: TrainState) -> dict[str, torch.Tensor]:
    tensors = state.tensors()
    found = {f"weight {name}": value.clone() for name, value in tensors["model"].items()}
    for name, moments in tensors["optimizer"].items():
        found |= {f"{name} {key}": value.clone() for key, value in moments.items()}
    return found


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def ended(one: Branch, group: TrunkGroup, monkeypatch) -> dict[str, torch.Tensor]:
    """Weights and moments at the end of a branch, which the engine itself does not keep."""
    kept = {}

    def scored(model, heldout):
        kept["weights"] = {name: value.clone() for name, value in model.state_dict().items()}
        return score(model, heldout)

    score = engine.score_heldout
    with monkeypatch.context() as patch:
        patch.setattr(engine, "score_heldout", scored)
        run_branch(one, group, report=silent)
    return kept["weights"]


def test_the_branch_at_the_trunks_own_batch_is_the_trunk_going_on(group, trunk, monkeypatch):
    """Bit for bit the state of the trunk 8 steps later, and its loss of every step on the way."""
    one = branch(trunk)
    reach_fork(one.fork, group, report=silent)
    later = Fork(trunk=trunk, step=16)
    losses = []
    reach_fork(later, group, report=lambda tokens, loss: losses.append(loss))
    trainer = group.trainer(trunk, resumed=True)
    load_state(trainer.state, later.folder(group.study.path) / "state", identity=trunk.trunk_id)
    went_on = {name: value.clone() for name, value in trainer.state.model.state_dict().items()}
    assert equal(ended(one, group, monkeypatch), went_on)
    assert step_losses(one, group.study.path) == losses[-8:]
    assert not equal(ended(replace(one, order=1), group, monkeypatch), went_on)


def test_the_trunk_of_a_fork_is_the_trunk_that_train_makes(study, trunk):
    """`distillaw train` leaves its checkpoint at 80 % of the budget: a fork there takes it up and trains nothing."""
    train_trunk(trunk, [2560], study)
    taken, fresh = [], []
    fork = Fork(trunk=trunk, step=16)
    known = reach_fork(fork, TrunkGroup([trunk], study), report=lambda tokens, loss: taken.append(tokens))
    assert taken == []
    (study.path / "trunks").rename(study.path / "gone")
    (study.path / "branches").rename(study.path / "kept")
    again = reach_fork(fork, TrunkGroup([trunk], study), report=lambda tokens, loss: fresh.append(tokens))
    assert len(fresh) == 16 and again == known


def test_a_branch_starts_from_weights_and_moments_of_the_fork(group, trunk):
    one = branch(trunk, k=4)
    reach_fork(one.fork, group, report=silent)
    small, large = (weights_and_moments(at_fork(b, group).state) for b in (branch(trunk), one))
    assert equal(small, large)
    assert any(value.abs().max() > 0 for name, value in large.items() if name.endswith("exp_avg_sq"))
    trainer = at_fork(one, group)
    assert trainer.state.step == 8
    assert run_branch(one, group, report=silent)["rate"] == pytest.approx(2 * trunk.peak_lr)


def test_every_batch_reads_the_same_text_from_the_fork_on(text, trunk):
    split = text.split("student", context=32)
    base = BatchOrder(split=split, seed=0)
    trunk_read = base.window_ids(0, 8 * 4)
    for order in range(3):
        streams = []
        for k in (0.5, 1, 4):
            one = branch(trunk, k=k, order=order)
            reader, each = forked_order(one, base), one.spec.batch_tokens // 32
            ids = [reader.window_ids(step * each, each) for step in range(8, 8 + one.steps)]
            streams.append(np.concatenate(ids))
        assert all(np.array_equal(streams[0], other) for other in streams)
        assert not set(streams[0]) & set(trunk_read)
    assert np.array_equal(forked_order(branch(trunk), base).window_ids(32, 8), base.window_ids(32, 8))


def test_an_order_reads_each_window_once_an_epoch(text):
    split = text.split("student", context=32)
    base, size = BatchOrder(split=split, seed=0), split.num_windows
    reader = ForkedOrder(base=base, origin=10, counted=5, order=2)
    rest = reader.window_ids(5, size - 10)
    assert sorted([*base.window_ids(0, 10), *rest]) == list(range(size))
    assert sorted(reader.window_ids(5 + size - 10, size)) == list(range(size))
    assert np.array_equal(reader.window_ids(9, 3), rest[4:7])


def test_a_branch_that_was_stopped_goes_on_bit_for_bit(group, trunk, monkeypatch):
    one = branch(trunk, k=2, anneal=0.5)
    reach_fork(one.fork, group, report=silent)
    whole = ended(one, group, monkeypatch)
    folder = one.folder(group.study.path)
    rows = read_json_lines(folder / "steps.jsonl")
    assert [row["step"] for row in rows] == [8, 9, 10, 11]
    folder.rename(folder.with_name("whole"))
    seen = []

    def stop(tokens, loss):
        seen.append(loss)
        if len(seen) == 2:
            raise StopTraining

    with pytest.raises(StopTraining):
        run_branch(one, group, report=stop)
    with (folder / "steps.jsonl").open("a") as log:
        log.write('{"step": 10, "loss": 9}\n{"step"')  # written after the checkpoint, and torn
    assert not (folder / "result.json").exists()
    assert equal(ended(one, group, monkeypatch), whole)
    assert read_json_lines(folder / "steps.jsonl") == rows
    assert not (folder / "state").exists()


def test_the_rate_decays_where_asked(group, trunk):
    one = branch(trunk, anneal=0.5)
    schedule = engine._schedule(one)
    factors = [schedule.factor(step) for step in range(8, 16)]
    assert factors[:4] == [1.0] * 4 and factors[-1] == pytest.approx(0.01) and factors == sorted(factors, reverse=True)
    constant = engine._schedule(branch(trunk))
    assert {constant.factor(step) for step in range(8, 16)} == {1.0}


def test_a_branch_that_diverges_is_a_result(group, trunk):
    wild = branch(trunk)
    reach_fork(wild.fork, group, report=silent)
    wild = replace(wild, spec=replace(trunk, peak_lr=1e30))
    result = run_branch(wild, group, report=silent)
    assert result["loss"] is None and "diverged" in str(result["diverged"])
    assert run_branch(wild, group, report=silent) == result


def test_noise_is_measured_at_the_forks_weights(group, trunk):
    one = branch(trunk)
    reach_fork(one.fork, group, report=silent)
    seen = []
    found = fork_noise(one, group, batches=8, report=lambda tokens, loss: seen.append(tokens))
    assert seen == [256] * 8 and (found["small"], found["big"]) == (32, 256)
    assert float(str(found["trace"])) > 0
    assert fork_noise(one, group, batches=8, report=silent) == found and len(seen) == 8
