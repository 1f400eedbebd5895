import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard as HubCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.errors import RunError
from distillaw.models import export
from distillaw.models.export import export_model, model_card
from distillaw.runs.places import MARK, claim_folder

RESULT = {
    "run_id": "student-0.1M-from-0.3M-s0-2e3cdcad-240000t",
    "params": 111024,
    "total_params": 160176,
    "tokens": 240128,
    "teacher_run": "teacher-0.3M-alone-s0-08796c69-300000t",
    "teacher_loss": 3.2826,
    "teacher_params": 310480,
    "teacher_tokens": 300032,
    "lambda": 1.0,
    "temperature": 1.0,
    "init": "fresh",
    "seed": 0,
    "loss": 3.374968509,
    "loss_se": 0.0306159,
    "peak_lr": 0.011,
    "batch_tokens": 256,
    "steps": 938,
    "split": "student",
    "unique_tokens": 240128,
    "train_flops": 230776455168.0,
    "teacher_flops": 188452454400.0,
    "seconds": 37.3,
    "device": "cpu",
    "vocab_size": 270,
    "context": 64,
}
RECIPE = {"context": 64, "warmup_tokens": 10_000, "cooldown": 0.2, "temperature": 1.0, "distill_weight": 1.0}
SPEC = {"recipe": RECIPE}
HASHES = {"data_hash": "050b92de84", "tokenizer_hash": "fca9bc2d6d6b62cf"}
MANIFEST = {"spec": {"corpus": "hub:owner/corpus"}, **HASHES}


def card(**changes) -> str:
    given = {"result": RESULT, "spec": SPEC, "manifest": MANIFEST, "command": "distillaw study run study.toml"}
    return model_card(**(given | changes))


def test_an_export_gives_identical_logits_and_generates_text(family, random_model, tokenizer, tmp_path):
    model = random_model(family)
    export_model(model, tokenizer, tmp_path, card())
    loaded, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.arange(30).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert words.get_vocab() == tokenizer.get_vocab()
    text = "the teacher sleeps"
    inputs = words(text, return_tensors="pt")
    out = loaded.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=5)
    assert words.decode(out[0]).startswith(text)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_the_folder_holds_what_the_hub_expects_and_nothing_else(random_model, tokenizer, tmp_path):
    export_model(random_model("llama"), tokenizer, tmp_path, card())
    assert {file.name for file in tmp_path.iterdir()} - {MARK} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    end = tokenizer.eos_token_id
    assert (generation["eos_token_id"], generation["pad_token_id"], generation["bos_token_id"]) == (end, end, end)
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True


def test_the_front_matter_is_what_the_hub_reads(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(card(), encoding="utf-8")
    data = HubCard.load(file).data
    assert (data.library_name, data.pipeline_tag, data.datasets) == (
        "transformers",
        "text-generation",
        ["owner/corpus"],
    )
    assert data.tags == ["distillaw", "knowledge-distillation"]
    (score,) = data.eval_results
    assert (score.metric_type, score.metric_value) == ("loss", RESULT["loss"])


def test_the_text_states_figures_and_limits():
    text = card()
    for said in (
        "3.3750 ± 0.0306 nats/token",
        "2.31e11 FLOP",
        "distilled from `teacher-0.3M-alone-s0-08796c69-300000t`",
        "240k tokens of `hub:owner/corpus`",
        "| cooldown | 0.2 |",
        "distillaw study run study.toml",
        "050b92de84",
        "not trained to follow instructions",
        "No licence is stated",
    ):
        assert said in text, said


def test_a_model_trained_alone_has_no_teacher_in_its_card():
    alone = RESULT | dict.fromkeys(("teacher_run", "teacher_loss", "teacher_params", "teacher_tokens"))
    text = card(result=alone)
    assert "trained on text alone" in text
    assert "knowledge-distillation" not in text


def test_a_private_path_of_the_teacher_stays_private():
    text = card(result=RESULT | {"teacher_run": "/home/someone/secret/SmolLM2", "teacher_tokens": None})
    assert "distilled from `SmolLM2`" in text
    assert "someone" not in text


def test_an_export_that_fails_leaves_the_earlier_one_and_other_files(random_model, tokenizer, tmp_path, monkeypatch):
    first = random_model("llama")
    claim_folder(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    export_model(first, tokenizer, tmp_path, card())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_json", full)
    with pytest.raises(RunError, match="No space left"):
        export_model(random_model("llama", num_hidden_layers=1), tokenizer, tmp_path, card())
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 2
    assert (tmp_path / "result.json").exists()
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("kill_at", [0, 1, 3, 5])
def test_an_export_killed_while_moving_does_not_load_and_is_done_again(
    kill_at, random_model, tokenizer, tmp_path, monkeypatch
):
    moves, replace = iter(range(100)), os.replace

    def dying(source, target):
        if Path(target).parent == tmp_path and next(moves) == kill_at:
            raise KeyboardInterrupt
        replace(source, target)

    model = random_model("llama")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            export_model(model, tokenizer, tmp_path, card())
    assert not (tmp_path / "config.json").exists()
    export_model(model, tokenizer, tmp_path, card())
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.weight, model.lm_head.weight)
