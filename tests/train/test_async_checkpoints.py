"""Checkpoints that a thread writes while training goes on, and how many of them stay."""

import threading
from dataclasses import replace

import pytest
import ranked
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.errors import ConfigError, RunError
from distillaw.runs.execution import Execution
from distillaw.runs.store import saved_step
from distillaw.train import checkpoint
from distillaw.train.checkpoint import Background, load_state, save_state
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining

TOKENS = 2048  # 16 steps, cooldown from 13


def _with(trunk, **settings):
    return replace(trunk, recipe=replace(trunk.recipe, **settings))


@pytest.fixture
def spec(trunk):
    """Shared by two ranks, saved in a thread."""
    return _with(replace(trunk, batch_tokens=256), async_checkpoints=True)


def _weights(study, spec, tokens=TOKENS):
    return AutoModelForCausalLM.from_pretrained(study.run(spec.run_id(tokens)).path).state_dict()


def _same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def often(monkeypatch):
    """A checkpoint whenever none is being written."""
    monkeypatch.setenv("DISTILLAW_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("distillaw.train.loop.SAVING_SHARE", float("inf"))


@pytest.fixture
def writing(monkeypatch):
    """Holds the thread at the moment when a checkpoint would be seen; `begun` says that it is there."""
    begun, go_on = threading.Event(), threading.Event()
    publish = checkpoint._publish

    def held(*arguments):
        begun.set()
        assert go_on.wait(60)
        publish(*arguments)

    monkeypatch.setattr(checkpoint, "_publish", held)
    yield begun, go_on
    go_on.set()


def test_what_is_written_is_the_state_as_it_was_when_training_went_on(study, trunk, tmp_path, writing):
    begun, go_on = writing
    group = TrunkGroup([trunk], study)
    state = group.trainer(trunk).state
    for moment in state.optimizer.state.values():
        moment["exp_avg"].fill_(0.25)
    state.notes["skipped"] = 1
    then = {name: value.clone() for name, value in state.model.state_dict().items()}
    with Background(group.ranks) as background:
        save_state(state, tmp_path / "state", identity="one", background=background)
        assert begun.wait(60) and not background.is_free
        with torch.no_grad():  # steps go on meanwhile
            for parameter in state.model.parameters():
                parameter.add_(1)
            for moment in state.optimizer.state.values():
                moment["exp_avg"].fill_(0.5)
        state.step, state.notes["skipped"] = 7, 2
        assert saved_step(tmp_path / "state") == -1
        go_on.set()
    assert saved_step(tmp_path / "state") == 0
    again = group.trainer(trunk, resumed=True).state
    assert load_state(again, tmp_path / "state", identity="one")
    assert (again.step, again.notes["skipped"]) == (0, 1) and _same(again.model.state_dict(), then)
    assert all(bool((moment["exp_avg"] == 0.25).all()) for moment in again.optimizer.state.values())
    start = again.tracker.state()
    assert all(torch.equal(start[name], then[name]) for name in start)


def test_a_run_saved_so_is_the_run_and_goes_on_bit_for_bit(fresh_study, trunk, spec, often):
    assert spec.trunk_id == replace(trunk, batch_tokens=256).trunk_id == _with(spec, keep_checkpoints=3).trunk_id
    whole, parts = fresh_study("whole"), fresh_study("parts")
    train_trunk(_with(spec, async_checkpoints=False), [TOKENS], whole)
    with pytest.raises(StopTraining):
        train_trunk(spec, [TOKENS], parts, report=stop_after(5))
    assert saved_step(parts.trunk(spec.trunk_id) / "state") == 5
    train_trunk(spec, [TOKENS], parts)
    assert _same(_weights(whole, spec), _weights(parts, spec))


def test_one_is_written_at_a_time_and_steps_do_not_wait_for_it(fresh_study, spec, often, writing):
    begun, go_on = writing
    study, steps = fresh_study("held"), []

    def report(tokens, loss):
        steps.append(list((study.trunk(spec.trunk_id) / "state").glob(".step-*")))
        if len(steps) == 3:
            assert begun.wait(60)
        if len(steps) == 5:  # two steps on, and still one on its way
            assert steps[3] == steps[4] and len(steps[4]) == 1
            go_on.set()

    train_trunk(spec, [TOKENS], study, report=report)
    assert len(steps) == 8


@pytest.mark.parametrize("spares", [True, False])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_one_error(fresh_study, spec, often, monkeypatch, spares):
    """The disk is full from the third one on, or from the first."""
    study, digests, calls = fresh_study("full"), checkpoint.digests, []

    def full(folder, files):
        calls.append(folder)
        if len(calls) > (2 if spares else 0):
            raise OSError(28, "No space left on device")
        return digests(folder, files)

    monkeypatch.setattr(checkpoint, "digests", full)
    with pytest.raises(RunError, match=r"cannot write .*No space left on device"):
        train_trunk(spec, [65536], study)
    home = study.trunk(spec.trunk_id) / "state"
    assert (saved_step(home) > 0) == spares and not list(home.glob(".step-*"))
    monkeypatch.setattr(checkpoint, "digests", digests)
    whole = fresh_study("whole")
    for each in (study, whole):
        train_trunk(spec, [TOKENS], each)
    assert _same(_weights(whole, spec), _weights(study, spec))


@pytest.mark.parametrize(
    ("world", "sharding"), [(1, "ddp"), (2, "fsdp"), pytest.param(2, "ddp", marks=pytest.mark.slow)]
)
def test_a_kill_while_one_is_being_written_costs_steps_alone(fresh_study, spec, world, sharding):
    whole, killed = fresh_study("whole"), fresh_study("killed")
    ranked.run(world, ranked.train, whole.path, spec, [4096], sharding=sharding)
    home = killed.trunk(spec.trunk_id) / "state"
    arguments = (ranked.train, killed.path, spec, [4096])
    often = {"DISTILLAW_CHECKPOINT_SECONDS": "0"}
    processes, _ = ranked.start(world, *arguments, sharding=sharding, environment=often)
    ranked.wait_for(lambda: any(home.glob("step-*")) and any(home.glob(".step-*")))
    for process in processes:
        process.kill()
    ranked.end(processes)
    assert saved_step(home) > 0
    ranked.run(world, *arguments, sharding=sharding)
    assert _same(_weights(whole, spec, 4096), _weights(killed, spec, 4096))


def test_so_many_stay_and_the_run_can_go_back_to_each(fresh_study, trunk, often, monkeypatch):
    spec, study, whole = _with(trunk, keep_checkpoints=3), fresh_study("kept"), fresh_study("whole")
    home = study.trunk(spec.trunk_id) / "state"
    with pytest.raises(StopTraining):
        train_trunk(spec, [TOKENS], study, report=stop_after(9))
    steps = sorted(home.glob("step-*"))
    assert [int(step.name[5:]) for step in steps] == [7, 8, 9]
    for step in steps[1:]:  # by hand, to take another way from there
        for file in step.iterdir():
            file.unlink()
        step.rmdir()
    seen = []
    monkeypatch.setenv("DISTILLAW_CHECKPOINT_SECONDS", "1000")
    train_trunk(spec, [TOKENS], study, report=lambda tokens, loss: seen.append(loss))
    assert len(seen) == 16 - 7
    assert sorted(int(step.name[5:]) for step in home.glob("step-*")) == [7, 13]  # where its cooldown began
    train_trunk(trunk, [TOKENS], whole)
    assert _same(_weights(study, spec), _weights(whole, spec))


def test_a_command_says_it_over_what_the_file_says(trunk):
    said = Execution(keep_checkpoints=3, async_checkpoints=True).applied(trunk.recipe)
    assert (said.keep_checkpoints, said.async_checkpoints) == (3, True)
    assert Execution().applied(said) == said
    with pytest.raises(ConfigError, match="keep_checkpoints = 0: at least 1"):
        Execution(keep_checkpoints=0).check()


def test_a_run_that_begins_anew_leaves_no_later_checkpoint(study, trunk, tmp_path):
    state, folder = TrunkGroup([trunk], study).trainer(trunk).state, tmp_path / "state"
    for step in (4, 8, 12, 2, 3):
        state.step = step
        save_state(state, folder, identity="one", keep=2)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000002", "step-00000003"]
