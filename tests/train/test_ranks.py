"""Two ranks give what one gives, a run goes on from the checkpoint of another number of ranks, and errors are clear.

The ranks are processes (ranked.py). The batch is 8 sequences, so 32 steps reach 8192 tokens; cooldown from step 26.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import ranked
import torch
from transformers import AutoModelForCausalLM

from distillaw.errors import CacheError, ConfigError, RunError
from distillaw.runs.places import MARK

TOKENS = 8192
STEPS = 32


@pytest.fixture
def trunk(trunk):
    """With a batch that ranks can share."""
    return replace(trunk, batch_tokens=256)


def _weights(study, spec):
    return AutoModelForCausalLM.from_pretrained(study.run(spec.run_id(TOKENS)).path).state_dict()


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def _train(study, spec, world=1, sharding="ddp", **options):
    return ranked.run(world, ranked.train, study.path, spec, [TOKENS], *options.values(), sharding=sharding)[0]


def assert_unbiased(losses, reference):
    """Equal up to rounding, and the rounding does not drift."""
    losses, reference = np.array(losses), np.array(reference)
    np.testing.assert_allclose(losses, reference, rtol=1e-5)
    residual = losses / reference - 1
    assert abs(residual.mean()) <= 3 * residual.std() / np.sqrt(len(residual)) + 1e-9


@pytest.mark.parametrize("micro", [pytest.param(0, marks=pytest.mark.slow), 64])
def test_two_ranks_train_as_one_does(fresh_study, trunk, micro):
    """DDP and FSDP2, with and without accumulation: 4 sequences per rank at once, or in 2 micro-batches of 2."""
    spec = replace(trunk, recipe=replace(trunk.recipe, micro_batch_tokens=micro))
    one = _train(fresh_study("one"), trunk)
    assert len(one) == STEPS
    for sharding in ("ddp", "fsdp"):
        assert_unbiased(_train(fresh_study(sharding), spec, 2, sharding), one)


def test_two_ranks_train_as_one_does_to_the_last_bit_of_float32_when_computed_in_float64(fresh_study, trunk):
    one, two = fresh_study("one"), fresh_study("two")
    losses = [_train(study, trunk, world, stop_at=None, dtype="float64") for study, world in ((one, 1), (two, 2))]
    assert (np.float32(losses[0]) == np.float32(losses[1])).all()
    for a, b in zip(_weights(one, trunk).values(), _weights(two, trunk).values(), strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("world", "sharding"),
    [pytest.param(2, "ddp", marks=pytest.mark.slow), (2, "fsdp"), pytest.param(3, "ddp", marks=pytest.mark.slow)],
)
def test_ranks_resume_bit_for_bit(fresh_study, trunk, world, sharding):
    """Step 29 lies in the cooldown. Three ranks: their sums depend on the order of the addends."""
    spec = replace(trunk, batch_tokens=192) if world == 3 else trunk
    whole, parts = fresh_study("whole"), fresh_study("parts")
    losses = _train(whole, spec, world, sharding)
    resumed = _train(parts, spec, world, sharding, stop_at=29)
    resumed += _train(parts, spec, world, sharding)
    assert resumed == losses
    assert _same(_weights(whole, spec), _weights(parts, spec))


@pytest.mark.slow
def test_a_checkpoint_serves_any_number_of_ranks_and_either_sharding(fresh_study, trunk):
    one = _train(fresh_study("one"), trunk)
    passes = [(2, "ddp"), (1, "ddp"), (2, "fsdp"), (2, "ddp"), (2, "fsdp"), (1, "ddp")]
    study, losses = fresh_study("many"), []
    for number, (world, sharding) in enumerate(passes):
        stop_at = 6 if number < len(passes) - 1 else None
        losses += _train(study, trunk, world, sharding, stop_at=stop_at)
    assert_unbiased(losses, one)
    assert study.run(trunk.run_id(TOKENS)).state() == "done"


def test_ranks_name_a_damaged_checkpoint_together_and_a_foreign_one(fresh_study, trunk):
    study = fresh_study("damaged")
    _train(study, trunk, 2, "fsdp", stop_at=5)
    home = study.trunk(trunk.trunk_id) / "state"
    files = sorted(file for file in next(home.glob("step-*")).iterdir() if file.name != MARK)
    assert [file.name for file in files] == [".metadata", "__0_0.distcp", "__1_0.distcp", "checkpoint.json"]
    file = files[2]
    sound = file.read_bytes()
    file.write_bytes(sound[:200])
    processes, pipes = ranked.start(2, ranked.train, study.path, trunk, [TOKENS], sharding="fsdp")
    errors = [pipe.recv() for pipe in pipes]
    assert [type(error) for error in errors] == [CacheError, CacheError]
    assert all(re.search(r"__1_0\.distcp: .*The checkpoint is damaged", str(error)) for error in errors)
    for process in processes:
        process.join()
    file.write_bytes(sound)
    other = replace(trunk, seed=7)
    (study.trunk(other.trunk_id)).mkdir()
    home.rename(study.trunk(other.trunk_id) / "state")
    with pytest.raises(RunError, match="belongs to"):
        _train(study, other, 2, "ddp")


def test_a_batch_that_ranks_cannot_share_is_refused_by_all(fresh_study, trunk):
    with pytest.raises(ConfigError, match=r"8 sequences cannot be shared evenly by 3 ranks; choose batch_tokens"):
        _train(fresh_study("odd"), trunk, 3)


def test_a_rank_that_dies_ends_the_others_with_a_clear_error(fresh_study, trunk):
    study = fresh_study("lost")
    processes, pipes = ranked.start(
        2, ranked.train, study.path, trunk, [2**20], environment={"DISTILLAW_CHECKPOINT_SECONDS": "0.2"}
    )
    ranked.wait_for(lambda: any(study.trunk(trunk.trunk_id).glob("state/step-*")))
    processes[1].kill()
    error = pipes[0].recv()
    assert isinstance(error, RunError) and "another rank has ended" in str(error)
    ranked.end(processes)


@pytest.mark.slow
def test_a_disk_that_is_full_on_one_rank_is_a_clear_error_and_loses_nothing(fresh_study, trunk):
    study, whole = fresh_study("full"), fresh_study("whole")
    _train(study, trunk, 2, stop_at=5)
    processes, pipes = ranked.start(2, ranked.train_on_a_full_disk, study.path, trunk, [TOKENS])
    errors = [pipe.recv() for pipe in pipes]
    assert all(isinstance(error, RunError) and "cannot write" in str(error) for error in errors), errors
    ranked.end(processes)
    losses = _train(whole, trunk, 2)
    _train(study, trunk, 2)
    assert len(losses) == STEPS and _same(_weights(whole, trunk), _weights(study, trunk))
