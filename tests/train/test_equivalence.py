"""What must come to the same, in one process: stored and online targets, students together and alone, other schedules.

Ranks are in test_ranks.py, resumption and accumulation also in test_trunk.py.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.accounting.architecture import count_params
from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import CacheError
from distillaw.models.source import fingerprint, locate
from distillaw.models.teacher import load_teacher
from distillaw.shapes import shape_for_params
from distillaw.targets.build import build_shards, make_plan, opened_for_building
from distillaw.targets.make import TargetMaker
from distillaw.targets.manifest import Scheme, TargetRequest
from distillaw.train.loop import StopTraining
from distillaw.train.trunk import train_trunks

TOKENS = 2048  # 16 steps of 4 sequences, cooldown from step 13


def _weights(study, spec, tokens=TOKENS):
    return AutoModelForCausalLM.from_pretrained(study.run(spec.run_id(tokens)).path).state_dict()


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def _losses(study, spec, tokens=TOKENS):
    losses = []
    train_trunk(spec, [tokens], study, report=lambda _, loss: losses.append(loss))
    return np.array(losses)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, text):
    """Folder of a random model whose distributions are neither flat nor certain."""
    from distillaw.models.fresh import build_model

    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    model = build_model(shape_for_params(5e4, vocab=300, context=32), seed=1)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    model.save_pretrained(folder)
    load_tokenizer(str(text.tokenizer_folder)).save_pretrained(str(folder))
    return folder


@pytest.fixture
def distilled(trunk, teacher):
    """A student of that teacher."""
    return replace(trunk, teacher_run=str(teacher), teacher_fingerprint=fingerprint(locate(str(teacher))))


def _store(folder, text, teacher, scheme):
    """Targets of the first tokens that a student reads; returns the identity of the store."""
    model = load_teacher(teacher, load_tokenizer(str(text.tokenizer_folder)), context=32)
    request = TargetRequest(scheme=scheme, context=32, tokens=TOKENS)
    maker = TargetMaker(teacher=model, split=text.split("student", context=32), scheme=scheme, seed=0)
    with opened_for_building(folder, make_plan(request, model, text)) as plan:
        build_shards(folder, plan, maker)
    return plan.identity


@pytest.mark.parametrize(("temperature", "weight", "micro"), [(1.0, 1.0, 0), (2.0, 0.5, 0), (1.0, 1.0, 32)])
def test_stored_full_targets_train_as_the_teacher_online_bit_for_bit(
    fresh_study, tmp_path, text, teacher, distilled, temperature, weight, micro
):
    recipe = replace(distilled.recipe, temperature=temperature, distill_weight=weight, micro_batch_tokens=micro)
    online = replace(distilled, recipe=recipe)
    identity = _store(tmp_path / "cache", text, teacher, Scheme(estimator="full"))
    stored = replace(online, targets=str(tmp_path / "cache"), targets_identity=identity)
    studies = fresh_study("online"), fresh_study("stored")
    assert (_losses(studies[0], online) == _losses(studies[1], stored)).all()
    assert _same(_weights(studies[0], online), _weights(studies[1], stored))
    results = [s.run(spec.run_id(TOKENS)).result() for s, spec in zip(studies, (online, stored), strict=True)]
    assert results[0]["loss"] == results[1]["loss"]
    assert results[1]["teacher_flops_spent"] == 0 < results[0]["teacher_flops_spent"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_shard_of_targets_is_named_in_training_and_mended_by_a_build(
    study, tmp_path, text, teacher, distilled, damage
):
    folder = tmp_path / "cache"
    identity = _store(folder, text, teacher, Scheme(samples=8))
    spec = replace(distilled, targets=str(folder), targets_identity=identity)
    shard = folder / "targets-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[-40] ^= 1
    match damage:
        case "truncated":
            shard.write_bytes(raw[:-1000])
        case "flipped":
            shard.write_bytes(raw)
        case "missing":
            shard.unlink()
    with pytest.raises(CacheError, match=r"targets-00000\.bin"):
        train_trunk(spec, [TOKENS], study)
    _store(folder, text, teacher, Scheme(samples=8))
    (run,) = train_trunk(spec, [TOKENS], study)
    assert run.state() == "done"


def _companions(spec, text):
    """Students of one stream and teacher: another size, rate, lambda; the third diverges at once."""
    shape = shape_for_params(5e4, vocab=300, context=32, head_dim=16, aspect=16)
    counts = count_params(shape)
    larger = replace(
        spec,
        label="0.05M",
        layers=shape.layers,
        width=shape.width,
        ffn=shape.ffn,
        heads=shape.heads,
        params=counts.non_embedding,
        total_params=counts.total,
    )
    mixed = replace(spec, recipe=replace(spec.recipe, distill_weight=0.5), peak_lr=0.004)
    return [spec, larger, replace(spec, peak_lr=1e18), mixed]


def test_students_trained_together_are_those_trained_alone_bit_for_bit(fresh_study, distilled, text):
    """Other sizes, lambdas, rates and budgets; one diverges; the rest is killed twice, at different steps, and lags."""
    specs = _companions(distilled, text)
    budgets = [[TOKENS, 2 * TOKENS], [TOKENS], [TOKENS], [2 * TOKENS]]
    wanted = dict(zip(specs, budgets, strict=True))
    together, alone = fresh_study("together"), fresh_study("alone")
    with pytest.raises(StopTraining):  # two students get ahead of the other two
        train_trunks({spec: wanted[spec] for spec in (specs[0], specs[3])}, together, report=stop_after(6))
    with pytest.raises(StopTraining):  # in the first cooldown
        train_trunks(wanted, together, report=stop_after(8 + 14))
    errors = train_trunks(wanted, together)
    assert list(errors) == [specs[2]] and "diverged" in str(errors[specs[2]])
    for spec in specs:
        if spec is specs[2]:
            continue
        train_trunk(spec, wanted[spec], alone)
        for tokens in wanted[spec]:
            assert _same(_weights(together, spec, tokens), _weights(alone, spec, tokens))
            a, b = (study.run(spec.run_id(tokens)).result() for study in (together, alone))
            assert a["loss"] == b["loss"] and a["steps"] == b["steps"]


def test_recomputed_activations_change_nothing(fresh_study, trunk):
    again = replace(trunk, recipe=replace(trunk.recipe, checkpoint_activations=True))
    np.testing.assert_allclose(_losses(fresh_study("b"), again), _losses(fresh_study("a"), trunk), rtol=1e-6)


@pytest.mark.slow
def test_bf16_trains_and_stays_close(fresh_study, distilled):
    half = replace(distilled, recipe=replace(distilled.recipe, precision="bf16"))
    a, b = fresh_study("a"), fresh_study("b")
    full, rough = _losses(a, distilled), _losses(b, half)
    assert (full != rough).any()
    np.testing.assert_allclose(rough, full, rtol=0.02)
    assert rough[-4:].mean() < rough[:4].mean() - 0.02
    weights = _weights(b, half)
    assert all(value.dtype == torch.float32 for value in weights.values())


@pytest.mark.parametrize("cooldown", [0.2, 1.0])
@pytest.mark.parametrize("decay", ["linear", "sqrt", "cosine"])
def test_the_rate_follows_the_shape_of_the_cooldown(study, trunk, monkeypatch, decay, cooldown):
    """Rates as the optimiser gets them; with `cooldown = 1` and `cosine` the cosine schedule of the textbooks."""
    rates = []
    monkeypatch.setattr("distillaw.train.loop.set_learning_rate", lambda _, rate: rates.append(rate))
    recipe = replace(trunk.recipe, decay=decay, cooldown=cooldown, warmup_tokens=512)
    train_trunk(replace(trunk, recipe=recipe), [TOKENS], study)
    peak, branch = trunk.peak_lr, round(16 * (1 - cooldown))
    shape = {
        "linear": lambda x: 1 - x,
        "sqrt": lambda x: 1 - math.sqrt(x),
        "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    }[decay]
    expected = [
        peak * min(1, (t + 1) / 4) * (1 if t < branch else 0.01 + 0.99 * shape((t + 1 - branch) / (16 - branch)))
        for t in range(16)
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_the_cosine_schedule_is_a_cooldown_of_everything(fresh_study, trunk):
    """Every budget has its own, from step 0; a run resumed in it is the uninterrupted one bit for bit."""
    spec = replace(trunk, recipe=replace(trunk.recipe, decay="cosine", cooldown=1.0))
    whole, parts = fresh_study("whole"), fresh_study("parts")
    train_trunk(spec, [TOKENS, 2 * TOKENS], whole)
    with pytest.raises(StopTraining):
        train_trunk(spec, [TOKENS, 2 * TOKENS], parts, report=stop_after(21))  # in the second budget
    train_trunk(spec, [TOKENS, 2 * TOKENS], parts)
    for tokens in (TOKENS, 2 * TOKENS):
        assert _same(_weights(whole, spec, tokens), _weights(parts, spec, tokens))
