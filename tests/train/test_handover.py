"""The teacher's weight falls to nothing during the run: what each step learns from, resumed bit for bit."""

from dataclasses import replace

import pytest
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.errors import ConfigError
from distillaw.models.source import fingerprint, locate
from distillaw.runs.spec import Recipe
from distillaw.sweep.checks import load_study
from distillaw.train.loop import StopTraining
from distillaw.train.student import Signal, Student
from distillaw.train.trunk import train_trunks

TOKENS = 2048
"""16 steps."""


def _weights(run):
    return AutoModelForCausalLM.from_pretrained(run.path).state_dict()


def _equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(_weights(a).values(), _weights(b).values(), strict=True))


@pytest.fixture
def taught(trunk, fresh_study):
    """A student of a teacher of its own shape."""
    (teacher,) = train_trunk(replace(trunk, role="teacher", seed=5), [4096], fresh_study("teacher"))
    return replace(trunk, teacher_run=str(teacher.path), teacher_fingerprint=fingerprint(locate(str(teacher.path))))


def _until(spec, *tokens):
    return replace(spec, recipe=replace(spec.recipe, distill_until=tokens))


def test_the_share_falls_between_its_tokens():
    shares = [Recipe(distill_until=(100, 300)).share_of_teacher(tokens) for tokens in (0, 99, 200, 250, 300, 900)]
    assert shares == [1, 1, 0.5, 0.25, 0, 0]
    assert [Recipe(distill_until=(100,)).share_of_teacher(tokens) for tokens in (99, 100)] == [1, 0]
    assert Recipe().share_of_teacher(10**12) == 1
    for until in ((), (100,), (100, 300), (400, 900), (600,), (0, 500)):
        recipe = Recipe(distill_until=until)
        each = sum(recipe.share_of_teacher(token + 0.5) for token in range(500)) / 500
        assert recipe.mean_share(500) == pytest.approx(each)
    assert [Recipe(distill_until=until).taught_tokens(500) for until in ((), (100, 300), (900,))] == [500, 300, 500]


def test_half_a_share_is_half_the_weight(trunk, taught, fresh_study):
    (run,) = train_trunk(trunk, [TOKENS], fresh_study("alone"))
    model = AutoModelForCausalLM.from_pretrained(run.path)
    tokens = torch.randint(0, 300, (4, 33), generator=torch.Generator().manual_seed(0))
    logits = AutoModelForCausalLM.from_pretrained(taught.teacher_run)(tokens[:, :-1]).logits.detach()
    half, whole = (replace(trunk.recipe, distill_weight=weight) for weight in (0.5, 1.0))
    losses = [
        Student(model, recipe)(tokens, Signal(teacher_logits=logits, share=share), 128).total
        for recipe, share in ((half, 1.0), (whole, 0.5))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("stack", ["never", "always"])
def test_together_and_each_alone(trunk, taught, fresh_study, monkeypatch, stack):
    """Taught to the end, to the middle, not at all, and alone: what they share changes none of them."""
    monkeypatch.setenv("DISTILLAW_STACK", stack)
    study = fresh_study("together")
    specs = [taught, _until(taught, TOKENS // 2), _until(taught, 0), trunk]
    assert not train_trunks({spec: [TOKENS] for spec in specs}, study)
    runs = [study.run(spec.run_id(TOKENS)) for spec in specs]
    for number, (spec, run) in enumerate(zip(specs, runs, strict=True)):
        (alone,) = train_trunk(spec, [TOKENS], fresh_study(f"alone{number}"))
        assert _equal(run, alone)
    assert [run.result()["lambda"] for run in runs] == [1, 0.5, 0, 0]
    assert _equal(runs[2], runs[3])
    assert not _equal(runs[0], runs[1])
    assert not _equal(runs[1], runs[3])
    a_token = runs[0].result()["teacher_flops"] / TOKENS
    read = [run.result()["teacher_flops_spent"] / a_token for run in runs]
    assert read == pytest.approx([TOKENS * 3 / 4, TOKENS / 4, 0, 0])  # the first half is shared by two
    assert [run.result()["teacher_flops"] / a_token for run in runs[:3]] == pytest.approx([TOKENS, TOKENS / 2, 0])


@pytest.mark.parametrize("stop_at", [8, 14])
def test_resumed_bit_for_bit(taught, fresh_study, stop_at):
    """At the middle of the fall, and in the cooldown."""
    falling, whole, stopped = _until(taught, 512, 1536), fresh_study("whole"), fresh_study("stopped")
    with pytest.raises(StopTraining):
        train_trunk(falling, [TOKENS], stopped, report=stop_after(stop_at))
    trained = [train_trunk(falling, [TOKENS], study)[0] for study in (whole, stopped)]
    assert _equal(*trained)


@pytest.mark.parametrize("until", [(300, 100), (1, 2, 3), (-1,)])
def test_what_is_no_schedule_is_refused(until, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(
        'name = "s"\n[data]\ncorpus = "sotu"\n[students]\nparams = ["0.1M"]\ntokens = ["100k"]\n'
        f"[training]\ndistill_until = {list(until)}\n"
    )
    with pytest.raises(ConfigError, match="distill_until"):
        load_study(file)


def test_a_grid_of_several_shares_is_refused(tmp_path):
    head = 'name = "s"\n[data]\ncorpus = "sotu"\n[students]\nparams = ["0.1M"]\ntokens = ["100k", "200k"]\n[training]\n'
    file = tmp_path / "study.toml"
    file.write_text(head + "distill_until = [150000]\n")
    with pytest.raises(ConfigError, match="another share of its tokens"):
        load_study(file)
    file.write_text(head + "distill_until = [250000]\n")
    assert load_study(file).training.distill_until == (250000,)
