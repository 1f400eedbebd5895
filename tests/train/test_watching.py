"""What every run records of itself: how far its weights wander, and the noise of its gradients where that is free."""

import json
from dataclasses import replace

import numpy as np
import pytest
import ranked
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM

from distillaw.errors import ConfigError
from distillaw.large_batch.diffusion import log_steps
from distillaw.models.fresh import build_model
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining

TOKENS = 2048
STEPS = TOKENS // 128


def _rows(folder, name="distances.jsonl"):
    return [json.loads(line) for line in (folder.path / name).read_text().splitlines()]


def test_a_run_has_the_distance_of_its_final_weights_from_its_first(study, trunk):
    (run,) = train_trunk(trunk, [TOKENS], study)
    rows = _rows(run)
    assert {row["step"] + 1 for row in rows} == set(log_steps(STEPS)) | {13}  # 13: where the decay begins
    assert [row["total"] for row in rows[:12]] == sorted(row["total"] for row in rows[:12])
    first = dict(build_model(trunk.shape, seed=trunk.seed).named_parameters())
    final = dict(AutoModelForCausalLM.from_pretrained(run.path).named_parameters())
    apart = {name: float((final[name].detach().double() - first[name].detach().double()).norm()) for name in first}
    assert rows[-1]["total"] == pytest.approx(np.hypot.reduce(list(apart.values())), rel=1e-6)
    layer = [value for name, value in apart.items() if name.startswith("model.layers.1.")]
    assert rows[-1]["group:model.layers.1"] == pytest.approx(np.hypot.reduce(layer), rel=1e-6)
    assert rows[-1]["lr"] < rows[-3]["lr"] == trunk.peak_lr


@pytest.mark.parametrize("stop_at", [5, 14])
def test_a_stopped_run_continues_its_curve(study, fresh_study, trunk, stop_at):
    (whole,) = train_trunk(trunk, [TOKENS], study)
    other = fresh_study("stopped")
    with pytest.raises(StopTraining):
        train_trunk(trunk, [TOKENS], other, report=stop_after(stop_at))
    (resumed,) = train_trunk(trunk, [TOKENS], other)
    assert _rows(resumed) == _rows(whole)


def test_a_run_may_go_without_and_its_weights_are_the_same(study, fresh_study, trunk, monkeypatch):
    (watched,) = train_trunk(trunk, [TOKENS], study)
    monkeypatch.setenv("DISTILLAW_DISTANCES", "never")
    other = fresh_study("unwatched")
    with pytest.raises(StopTraining):
        train_trunk(trunk, [TOKENS], other, report=stop_after(5))
    monkeypatch.delenv("DISTILLAW_DISTANCES")
    (unwatched,) = train_trunk(trunk, [TOKENS], other)  # its first weights are gone: no half a curve
    assert _rows(unwatched) == [] and unwatched.result()["loss"] == watched.result()["loss"]
    monkeypatch.setenv("DISTILLAW_DISTANCES", "sometimes")
    with pytest.raises(ConfigError, match="give always or never"):
        train_trunk(trunk, [TOKENS], fresh_study("odd"))


def test_accumulation_gives_the_noise_scale_and_leaves_the_run_as_it_is(study, fresh_study, trunk):
    """|g_b|^2 and |g_B|^2 of the first step, against gradients computed one window at a time."""
    (plain,) = train_trunk(trunk, [TOKENS], study)
    assert "noise_scale" not in _rows(plain, "metrics.jsonl")[0]
    cut = replace(trunk, recipe=replace(trunk.recipe, micro_batch_tokens=32))
    (run,) = train_trunk(cut, [TOKENS], fresh_study("cut"))
    row = _rows(run, "metrics.jsonl")[0]
    small_sq, big_sq = _norms_of_the_first_batch(cut, study)
    assert row["grad_sq_small"] == pytest.approx(small_sq, rel=1e-3)  # the engine adds a z-loss
    assert row["grad_sq_big"] == pytest.approx(big_sq, rel=1e-3)
    assert row["grad_sq_big"] == pytest.approx(row["grad_norm"] ** 2, rel=1e-5)
    assert (row["small_tokens"], run.result()["batch_tokens"]) == (32, 128)
    trace = (small_sq - big_sq) / (1 / 32 - 1 / 128)
    assert row["noise_scale"] == pytest.approx(trace / ((128 * big_sq - 32 * small_sq) / 96), rel=1e-2)


def _norms_of_the_first_batch(spec, study) -> tuple[float, float]:
    group = TrunkGroup([spec], study)
    model = build_model(spec.shape, seed=spec.seed)
    whole, squares = None, []
    for tokens, _, _ in group.feed.batches(0):
        model.zero_grad()
        logits = model(tokens[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradient = torch.cat([p.grad.flatten().double() for p in model.parameters()])
        squares.append(float(gradient @ gradient))
        whole = gradient if whole is None else whole + gradient
    assert whole is not None and len(squares) == 4
    return float(np.mean(squares)), float((whole / 4) @ (whole / 4))


def test_two_ranks_give_the_noise_scale_of_one_that_accumulates(fresh_study, trunk):
    one = fresh_study("one")
    (alone,) = train_trunk(replace(trunk, recipe=replace(trunk.recipe, micro_batch_tokens=64)), [TOKENS], one)
    two = fresh_study("two")
    ranked.run(2, ranked.train, two.path, trunk, [TOKENS])
    shared = two.run(trunk.run_id(TOKENS))
    a, b = _rows(alone, "metrics.jsonl")[0], _rows(shared, "metrics.jsonl")[0]
    for key in ("grad_sq_small", "grad_sq_big", "small_tokens", "noise_scale"):
        assert a[key] == pytest.approx(b[key], rel=1e-4)
    assert [r["total"] for r in _rows(shared)] == pytest.approx([r["total"] for r in _rows(alone)], rel=1e-4)


def test_sharded_ranks_follow_their_distance_too(study, fresh_study, trunk):
    (alone,) = train_trunk(trunk, [TOKENS], study)
    two = fresh_study("sharded")
    ranked.run(2, ranked.train, two.path, trunk, [TOKENS], sharding="fsdp")
    rows = _rows(two.run(trunk.run_id(TOKENS)))
    assert [r["total"] for r in rows] == pytest.approx([r["total"] for r in _rows(alone)], rel=1e-4)
    assert "noise_scale" not in _rows(two.run(trunk.run_id(TOKENS)), "metrics.jsonl")[0]
