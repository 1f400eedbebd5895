"""Preferences end to end on a tiny model: margins grow, the reference stays, a stopped run goes on."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from distillaw.instruct.spec import DpoSpec
from distillaw.instruct.stages import run_dpo
from distillaw.runs.store import RunFolder


def spec(model, pairs, **more):
    settings = {"template": "chatml", "lr": 2e-3, "epochs": 2, "batch": 8, "validation": 0.25, "max_tokens": 128}
    return DpoSpec(**{"model": str(model), "data": str(pairs), **settings, **more})


@pytest.fixture(scope="module")
def tuned(model, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("dpo") / "plain"
    return run_dpo(spec(model, pairs), out), out


def test_margins_grow_and_come_with_intervals(tuned):
    result, out = tuned
    before, after = result["preference"]["before"], result["preference"]["after"]
    assert before["loss"]["mean"] == pytest.approx(math.log(2)) and before["margin"]["mean"] == 0
    assert after["loss"]["interval"][1] < math.log(2) and after["margin"]["interval"][0] > 0
    assert 0.5 < after["accuracy"]["mean"] <= 1 and after["accuracy"]["interval"][0] < 1
    assert after["pairs"] == result["heldout_pairs"] >= 2 and result["stage"] == "dpo"
    assert result["loss"] == result["after"]["loss"] and RunFolder(out).state() == "done"


def test_the_first_loss_of_trl_is_ln_2_and_the_last_agrees_with_our_own_score(tuned):
    """The policy begins as the reference that we scored: TRL's margin is zero to rounding."""
    import json

    _, out = tuned
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[-1]["heldout"]["loss"] < math.log(2)


def test_a_second_call_does_nothing_and_an_interrupt_costs_nothing(tuned, model, pairs, tmp_path):
    result, out = tuned
    said = []
    assert run_dpo(spec(model, pairs), out, say=said.append) == result and "nothing to do" in said[-1]

    def interrupt(line):
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_dpo(spec(model, pairs), tmp_path / "run", say=interrupt)
    resumed = run_dpo(spec(model, pairs), tmp_path / "run", say=said.append)
    assert not any("reference log-probabilities" in line for line in said)  # kept on disk
    assert resumed["preference"]["after"]["loss"]["mean"] == pytest.approx(
        result["preference"]["after"]["loss"]["mean"], rel=1e-5
    )


def test_adapters_are_merged(model, pairs, tmp_path):
    result = run_dpo(spec(model, pairs, lora=4, lr=1e-2), tmp_path / "lora")
    assert result["preference"]["after"]["margin"]["interval"][0] > 0
    tuned, base = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (tmp_path / "lora" / "model", model))
    assert any(not torch.equal(tuned[name], base[name]) for name in base) and tuned.keys() == base.keys()
