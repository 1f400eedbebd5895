"""A teacher on processes of its own gives the trajectory of one beside the student, and its death loses nothing."""

from dataclasses import replace

import pytest
import ranked
import torch
from stops import train_trunk
from test_ranks import TOKENS, assert_unbiased
from transformers import AutoModelForCausalLM

from distillaw.errors import ConfigError, RunError, VocabularyError
from distillaw.models.source import fingerprint, locate
from distillaw.runs.execution import Execution


@pytest.fixture
def taught(fresh_study, trunk):
    """A student of 8 sequences a step, with a teacher that lies elsewhere."""
    (run,) = train_trunk(replace(trunk, batch_tokens=512), [2048], fresh_study("teacher"))
    known = {"teacher_run": str(run.path), "teacher_fingerprint": fingerprint(locate(run.path))}
    return replace(trunk, batch_tokens=256, **known)


def _train(study, spec, world=1, sharding="ddp", *, teachers=0, stop_at=None):
    arguments = (study.path, spec, [TOKENS], stop_at)
    return ranked.run(world, ranked.train, *arguments, sharding=sharding, teachers=teachers)[0]


def _result(study, spec):
    return study.run(spec.run_id(TOKENS)).result()


def test_one_process_of_each_kind_equals_both_in_one_to_the_last_bit(fresh_study, taught):
    spec = replace(taught, recipe=replace(taught.recipe, micro_batch_tokens=64))  # four to a step: it looks ahead
    beside, apart = fresh_study("beside"), fresh_study("apart")
    assert _train(apart, spec, 2, teachers=1) == _train(beside, spec)
    first, second = (_result(study, spec) for study in (beside, apart))
    assert first["teacher_loss"] == pytest.approx(second["teacher_loss"], rel=1e-12)
    for key in ("loss", "ece_teacher", "kl_from_teacher", "teacher_flops", "teacher_params", "teacher_total_params"):
        assert first[key] == second[key]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "teachers", "sharding"),
    [
        (4, 2, "fsdp"),
        pytest.param(4, 2, "ddp", marks=pytest.mark.slow),
        pytest.param(3, 2, "ddp", marks=pytest.mark.slow),  # two teach one: each reads half of its sequences
        pytest.param(3, 1, "ddp", marks=pytest.mark.slow),  # one teaches two
    ],
)
def test_any_number_of_each_kind_gives_the_same_losses(fresh_study, taught, world, teachers, sharding):
    beside, apart = fresh_study("beside"), fresh_study("apart")
    one, several = _train(beside, taught), _train(apart, taught, world, sharding, teachers=teachers)
    assert_unbiased(several, one)
    assert _result(apart, taught)["teacher_loss"] == pytest.approx(_result(beside, taught)["teacher_loss"], rel=1e-6)


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_whoever_is_killed_is_missed_and_the_run_goes_on_bit_for_bit(fresh_study, taught, killed):
    """Rank 1 is the teacher's."""
    whole, parts = fresh_study("whole"), fresh_study("parts")
    losses = _train(whole, taught)
    home = parts.trunk(taught.trunk_id) / "state"
    processes, pipes = ranked.start(
        2, ranked.train, parts.path, taught, [TOKENS], teachers=1, environment={"DISTILLAW_CHECKPOINT_SECONDS": "0"}
    )
    ranked.wait_for(lambda: any(home.glob("step-*")))
    processes[killed].kill()
    answer = pipes[1 - killed].recv()
    assert isinstance(answer, RunError) and "another rank has ended" in str(answer)
    for process in processes:
        process.join()
    resumed = _train(parts, taught, 2, teachers=1)
    assert 0 < len(resumed) <= len(losses) and resumed == losses[-len(resumed) :]
    models = [AutoModelForCausalLM.from_pretrained(study.run(taught.run_id(TOKENS)).path) for study in (whole, parts)]
    assert all(map(torch.equal, *(model.state_dict().values() for model in models)))


def test_what_its_process_cannot_load_the_student_says(fresh_study, taught, tmp_path):
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(taught.teacher_run)
    other.add_tokens(["<new>"])
    other.save_pretrained(taught.teacher_run)
    spec = replace(taught, teacher_fingerprint=fingerprint(locate(taught.teacher_run)))
    with pytest.raises(VocabularyError, match="another vocabulary"):
        _train(fresh_study("other"), spec, 2, teachers=1)


@pytest.mark.parametrize(("teachers", "message"), [(2, "must divide"), (5, "is left"), (-1, "0 or more")])
def test_numbers_that_do_not_share_are_refused(teachers, message):
    with pytest.raises(ConfigError, match=rf"--teacher-processes {teachers} of 5.*{message}"):
        Execution(processes=5, teacher_processes=teachers).check()
