"""Rules of a large batch by configuration: the run they name is the run with the scaled numbers written out."""

from dataclasses import asdict, replace

import pytest
import torch
from stops import train_trunk
from transformers import AutoModelForCausalLM

from distillaw.errors import ConfigError
from distillaw.runs.files import content_hash
from distillaw.runs.spec import Recipe
from distillaw.sweep.checks import check_study
from distillaw.sweep.spec import StudentsSpec, StudySpec
from distillaw.train.optim import own_settings


def _with(trunk, *, peak_lr=None, **changes):
    return replace(trunk, peak_lr=peak_lr or trunk.peak_lr, recipe=replace(trunk.recipe, **changes))


def _weights(spec, study):
    (folder,) = train_trunk(spec, [1024], study)
    return AutoModelForCausalLM.from_pretrained(folder.path).state_dict()


def test_a_rule_trains_what_the_numbers_written_out_train(study, trunk):
    """The run has batches of 128: a quarter of them is the reference."""
    by_rule = _with(trunk, reference_batch_tokens=32, decay_rule="timescale", weight_decay=0.01, clip_norm=0.05)
    by_hand = _with(trunk, peak_lr=2 * trunk.peak_lr, weight_decay=0.02, clip_norm=0.05)
    first_only = _with(by_hand, clip_steps=2)
    assert len({spec.trunk_id for spec in (by_rule, by_hand, first_only)}) == 3
    ruled, written, late = (_weights(spec, study) for spec in (by_rule, by_hand, first_only))
    assert all(torch.equal(ruled[name], written[name]) for name in ruled)
    assert not all(torch.equal(late[name], written[name]) for name in late)


def test_settings_reach_the_optimiser(trunk):
    ruled = own_settings(_with(trunk, reference_batch_tokens=32, beta_rule="half-life", rate_rule="linear"))
    assert (ruled.beta1, ruled.beta2, ruled.peak_lr) == pytest.approx((0.9, 0.95**4, 4 * trunk.peak_lr))
    plain = own_settings(trunk)
    assert (plain.peak_lr, plain.beta1, plain.beta2, plain.eps) == (trunk.peak_lr, 0.9, 0.95, 1e-8)
    with pytest.raises(ConfigError, match="holds for k below 10"):
        own_settings(_with(trunk, reference_batch_tokens=8, beta_rule="sde"))


def test_runs_made_before_there_was_a_choice_keep_their_names(trunk):
    known = asdict(trunk)
    later = ("targets", "start", "init", "rate_power", "rate_tokens")
    for name in ("purpose", "label", *later, "cut_from", "cut_fingerprint", "cut_by", "is_fixed"):
        del known[name]
    for name in (
        "top_k",
        "top_p",
        "reference_batch_tokens",
        "rate_rule",
        "beta_rule",
        "decay_rule",
        "clip_steps",
        "batch_doublings",
        "document_mask",
        "skip_spikes",
        "distill_until",
        "async_checkpoints",
        "keep_checkpoints",
    ):
        del known["recipe"][name]
    assert trunk.trunk_id.endswith(content_hash(known, digits=8))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rate_rule": "linear"}, "without reference_batch_tokens"),
        ({"reference_batch_tokens": 64, "rate_rule": "root"}, "rate_rule = 'root'"),
        ({"reference_batch_tokens": -64}, "reference_batch_tokens = -64"),
        ({"clip_steps": -1}, "clip_steps = -1"),
        ({"batch_doublings": (2048, 1024)}, r"batch_doublings = \[2048, 1024\]: give the tokens"),
    ],
)
def test_a_study_with_rules_that_cannot_be_is_refused(changes, says):
    spec = StudySpec(
        name="x",
        students=StudentsSpec(params=("0.03M",), tokens=(4096,)),
        batch_tokens=128,
        training=Recipe(context=32, warmup_tokens=512, **changes),
    )
    with pytest.raises(ConfigError, match=says):
        check_study(spec)
