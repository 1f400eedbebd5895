"""Fine-tuning end to end on a tiny model: what is learnt, exported, stopped early, killed and gone on with."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from families import save_model, sums
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.errors import ConfigError, DivergedError
from distillaw.instruct.spec import SftSpec
from distillaw.instruct.stages import run_sft
from distillaw.runs.files import read_json_lines
from distillaw.runs.paired import read_scores
from distillaw.runs.store import RunFolder
from in_fork import Forked

TINY = {"template": "chatml", "lr": 5e-3, "epochs": 2, "batch": 8, "validation": 0.2, "max_tokens": 128}
WILD = {"lr": 1.0, "epochs": 40, "batch": 4, "patience": 2, "warmup": 0.0}
"""Far too fast: the held-out loss jumps about, so some two epochs in a row are no better."""


def spec(model, chats, **more):
    return SftSpec(**{"model": str(model), "data": str(chats), **TINY, **more})


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def plain(model, chats, tmp_path_factory):
    """A finished run, and what was said."""
    out, said = tmp_path_factory.mktemp("runs") / "plain", []
    return run_sft(spec(model, chats), out, say=said.append), out, said


def test_a_run_learns_and_leaves_a_standard_folder(plain, model):
    result, out, said = plain
    assert result["loss"] < result["before"]["loss"] - 1 and result["change"]["interval"][1] < 0
    assert result["after"]["perplexity"] == pytest.approx(np.exp(result["loss"])) and result["loss_se"] > 0
    assert result["role"] == "student" and result["init"] == "pretrained" and result["stage"] == "sft"
    assert result["lambda"] is None and result["teacher_run"] is None and result["best_epoch"] == 2
    assert result["tokens"] < result["all_tokens"] and result["train_flops"] > 0
    folder = RunFolder(out)
    assert folder.state() == "done" and folder.result() == result
    assert read_scores(out / "heldout.parquet").loss == pytest.approx(result["loss"])
    steps = [
        row["step"] for line in (out / "metrics.jsonl").read_text().splitlines() if "loss" in (row := json.loads(line))
    ]
    assert steps == list(range(1, 2 * -(-result["rows"] // 8) + 1))
    assert not (out / "checkpoints").exists() and any(line.startswith("epoch 2: held-out loss") for line in said)


def test_the_model_carries_its_template_and_stops_at_its_end_token(plain):
    result, out, _ = plain
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert tokenizer.apply_chat_template(sums(1)[0]["messages"], tokenize=False).startswith("<|im_start|>user\n")
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert model.config.use_cache and result["end_token"] == "<|im_end|>"
    card = (out / "model" / "README.md").read_text()
    assert f"{result['loss']:.4f}" in card and "chat template `chatml`" in card


def test_the_loss_trl_descends_is_that_of_the_assistants_tokens(plain, model, chats, tmp_path):
    """The first logged loss, before any step, is our own score of the batch: here one batch of everything."""
    result = run_sft(spec(model, chats, epochs=1, batch=64, micro_batch=4), tmp_path / "one")
    from distillaw.instruct.stages import read_sides, score_examples
    from distillaw.instruct.start import open_model

    start = open_model(spec(model, chats))
    train = read_sides(spec(model, chats), start).train
    expected = score_examples(AutoModelForCausalLM.from_pretrained(model), train).loss
    first = json.loads((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(expected, rel=1e-5) and result["rows"] == len(train)


def test_a_second_call_computes_nothing_and_another_run_is_not_written_over(plain, model, chats, tmp_path):
    result, out, _ = plain
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.is_file() and not f.name.startswith(".lock")}
    said = []
    assert run_sft(spec(model, chats), out, say=said.append) == result and "nothing to do" in said[-1]
    assert before == {f: f.stat().st_mtime_ns for f in before}
    with pytest.raises(ConfigError, match=r"holds another run \(lr 0.005, now 0.001\)"):
        run_sft(spec(model, chats, lr=1e-3), out)
    with pytest.raises(ConfigError, match="holds something else"):
        run_sft(spec(model, chats), out / "model")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21
def test_packing_noise_and_adapters(model, chats, tmp_path):
    packed = run_sft(spec(model, chats, packing=True, batch=2), tmp_path / "packed")
    assert packed["rows"] < packed["conversations"] and packed["change"]["interval"][1] < 0
    noisy = run_sft(spec(model, chats, neftune=5.0), tmp_path / "noisy")
    silent = run_sft(spec(model, chats), tmp_path / "silent")
    assert noisy["loss"] != silent["loss"] and noisy["before"] == silent["before"]
    lora = run_sft(spec(model, chats, lora=4, lr=2e-2), tmp_path / "lora")
    assert lora["change"]["interval"][1] < 0 and lora["train_flops"] == pytest.approx(2 / 3 * silent["train_flops"])
    tuned, base = weights(tmp_path / "lora" / "model"), weights(model)
    assert tuned.keys() == base.keys() and not (tmp_path / "lora" / "model" / "adapter_config.json").exists()
    changed = {name for name in base if not torch.equal(tuned[name], base[name])}
    assert changed and all("proj" in name for name in changed)  # merged: linear layers, no head, no embedding
    model_again = AutoModelForCausalLM.from_pretrained(tmp_path / "lora" / "model").eval()
    assert _heldout_loss(model_again, model, chats) == pytest.approx(lora["loss"], rel=1e-5)
    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "lora" / "adapter").eval()
    assert _heldout_loss(apart.get_base_model(), model, chats) == pytest.approx(lora["loss"], rel=1e-5)


def _heldout_loss(tuned, model, chats):
    from distillaw.instruct.stages import read_sides, score_examples
    from distillaw.instruct.start import open_model

    return score_examples(tuned, read_sides(spec(model, chats), open_model(spec(model, chats))).heldout).loss


def test_patience_ends_a_run_and_the_best_epoch_is_kept(model, chats, tmp_path):
    short = spec(model, chats, **WILD)
    result = run_sft(short, tmp_path / "wild")
    losses = [
        row["heldout"]["loss"]
        for line in (tmp_path / "wild" / "metrics.jsonl").read_text().splitlines()
        if "heldout" in (row := json.loads(line))
    ]
    assert result["epochs_run"] == len(losses) < 40 and result["best_epoch"] == losses.index(min(losses)) + 1
    assert len(losses) - result["best_epoch"] == 2 and result["loss"] == pytest.approx(min(losses))


def test_a_run_that_diverges_says_so(model, chats, tmp_path):
    with pytest.raises(DivergedError, match="Lower --lr"):
        run_sft(spec(model, chats, lr=1e30, epochs=4, warmup=0.0), tmp_path / "gone")
    assert RunFolder(tmp_path / "gone").state() == "failed"


def test_an_interrupt_keeps_what_was_done(model, chats, tmp_path):
    def interrupt(line):
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_sft(spec(model, chats, lora=2), out, say=interrupt)
    assert RunFolder(out).state() == "planned"
    resumed = run_sft(spec(model, chats, lora=2), out)
    whole = run_sft(spec(model, chats, lora=2), tmp_path / "whole")
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-5)


def test_a_disk_that_fills_at_the_export_costs_no_training(model, chats, tmp_path, monkeypatch):
    from distillaw.errors import RunError
    from distillaw.instruct import stages

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    out, said = tmp_path / "run", []
    with monkeypatch.context() as patch:
        patch.setattr(stages, "export_model", full)
        with pytest.raises(RunError, match="No space left"):
            run_sft(spec(model, chats, **WILD), out)
    logged = (out / "metrics.jsonl").read_text()
    result = run_sft(spec(model, chats, **WILD), out, say=said.append)
    assert (out / "metrics.jsonl").read_text() == logged and not any(line.startswith("epoch") for line in said)
    assert result["epochs_run"] < 40 and (out / "model" / "config.json").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"neftune": 5.0, "micro_batch": 2},
        pytest.param({"packing": True, "lora": 4, "batch": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(model, chats, tmp_path, more):
    """kill -9 amid an epoch, the checkpoint after the last torn as a kill while saving leaves it."""
    settings = {**TINY, "epochs": 3, "batch": 4, **more}
    out = tmp_path / "run"
    often = SftSpec(model=str(model), data=str(chats), checkpoint_seconds=1e-6, **settings)
    victim = Forked(run_sft, often, out)
    try:
        step = _wait_for_step(out, 3, victim)
    finally:
        victim.kill()
        victim.wait()
    assert RunFolder(out).state() == "running" and not (out / "result.json").exists()
    torn = out / "checkpoints" / f"checkpoint-{step + 50}"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    said = []
    resumed = run_sft(SftSpec(model=str(model), data=str(chats), **settings), out, say=said.append)
    whole = run_sft(SftSpec(model=str(model), data=str(chats), **settings), tmp_path / "whole")
    assert any(line.startswith("going on from step") for line in said)
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-5) and resumed["before"] == whole["before"]
    for name, tensor in weights(tmp_path / "whole" / "model").items():
        torch.testing.assert_close(weights(out / "model")[name], tensor, rtol=1e-5, atol=1e-7)
    logged = [
        [row["loss"] for row in read_json_lines(folder / "metrics.jsonl") if "loss" in row]
        for folder in (out, tmp_path / "whole")
    ]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


def _wait_for_step(out: Path, step: int, victim: Forked) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and victim.poll() is None:
        steps = [
            int(f.parent.name.removeprefix("checkpoint-")) for f in out.glob("checkpoints/checkpoint-*/complete.json")
        ]
        if steps and max(steps) >= step:
            return max(steps)
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint at step {step} before the end ({victim.poll()})")


def test_a_data_file_that_changed_is_another_run(plain, model, chats, tmp_path):
    _, out, _ = plain
    other = tmp_path / "chats.jsonl"
    other.write_text(Path(chats).read_text() + json.dumps(sums(49)[-1]) + "\n")
    with pytest.raises(ConfigError, match="holds another run"):
        run_sft(spec(model, other), out)


def test_no_bad_data_leaves_a_run_behind(model, tmp_path):
    bad = tmp_path / "chats.jsonl"
    bad.write_text(json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n")
    with pytest.raises(ValueError, match="line 1: nobody answers"):
        run_sft(spec(model, bad), tmp_path / "run")
    assert not (tmp_path / "run" / "spec.json").exists()
    bad.write_text("".join(json.dumps(row) + "\n" for row in sums(20)))
    assert run_sft(spec(model, bad, epochs=1), tmp_path / "run")["conversations"] > 0  # mended, the same --out works


def test_a_model_with_its_own_template_needs_none(plain, chats, tmp_path):
    _, out, _ = plain
    again = run_sft(spec(out / "model", chats, template=None, epochs=1), tmp_path / "again")
    assert again["template"] == "own" and again["end_token"] == "<|im_end|>"


def test_a_plain_text_template_works_with_any_tokenizer(chats, tmp_path):
    from families import sentencepiece_like

    model = save_model(tmp_path / "model", sentencepiece_like())
    result = run_sft(spec(model, chats, template="zephyr", epochs=1, max_tokens=256), tmp_path / "run")
    assert result["end_token"] == "</s>" and result["change"]["interval"][1] < 0
    assert os.path.exists(tmp_path / "run" / "model" / "chat_template.jinja")
