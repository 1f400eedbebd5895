"""Trunks that start from a model on disk, whatever its kind: tied, grouped heads, another family."""

import json
from dataclasses import replace

import pytest
import torch
from stops import stop_after, train_trunk
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import CacheError, ConfigError, VocabularyError
from distillaw.models.scoring import make_heldout, score_heldout
from distillaw.runs.files import write_json
from distillaw.sweep.single import started
from distillaw.train.group import TrunkGroup
from distillaw.train.loop import StopTraining

TOKENS = 1024
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture
def tokenizer(text):
    return load_tokenizer(str(text.tokenizer_folder))


@pytest.fixture(params=["llama", "qwen2"])
def folder(request, tmp_path, tokenizer):
    """A tied model with grouped heads, and its tokenizer."""
    torch.manual_seed(3)
    kinds = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    }
    out = tmp_path / request.param
    kinds[request.param]().save_pretrained(out)
    tokenizer.save_pretrained(str(out))
    return out


def _weights(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def _same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_it_starts_with_the_models_weights_and_its_loss_is_recorded(study, trunk, folder, tokenizer, text):
    spec = replace(started(trunk, str(folder), tokenizer), peak_lr=1e-3)
    assert _same(TrunkGroup([spec], study).trainer(spec).state.model.state_dict(), _weights(folder))
    (run,) = train_trunk(spec, [TOKENS], study)
    result = run.result()
    scores = score_heldout(
        AutoModelForCausalLM.from_pretrained(folder), make_heldout(text.heldout_documents(), context=32)
    )
    assert result["start_loss"] == pytest.approx(scores.loss, rel=1e-6)
    assert result["init"] == "pretrained" and result["loss"] < result["start_loss"]
    model = AutoModelForCausalLM.from_pretrained(run.path)
    assert model.config.tie_word_embeddings and model.config.num_key_value_heads == 2
    assert result["total_params"] == sum(p.numel() for p in model.parameters())


def test_a_cut_is_known_by_its_record(trunk, folder, tokenizer):
    write_json(folder / "prune.json", {"identity": "x"})
    assert started(trunk, str(folder), tokenizer).init == "pruned"


def test_fresh_takes_the_architecture_and_draws_by_the_seed(study, trunk, folder, tokenizer):
    spec = started(trunk, str(folder), tokenizer, draws_weights=True)
    other = replace(spec, seed=spec.seed + 1)
    first, again, second = (TrunkGroup([s], study).trainer(s).state.model.state_dict() for s in (spec, spec, other))
    assert _same(first, again) and not _same(first, second) and not _same(first, _weights(folder))
    (run,) = train_trunk(replace(spec, peak_lr=1e-3), [TOKENS], study)
    assert run.result()["init"] == "fresh" and run.result()["start_loss"] is None


def test_all_weights_have_one_rate(study, trunk, folder, tokenizer):
    spec = started(trunk, str(folder), tokenizer)
    groups = TrunkGroup([spec], study).trainer(spec).state.optimizer.param_groups
    assert {group["lr_scale"] for group in groups} == {1.0}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_stopped_trunk_resumes_bit_for_bit_without_the_folder(fresh_study, trunk, folder, tokenizer, fresh):
    spec = replace(started(trunk, str(folder), tokenizer, draws_weights=fresh), peak_lr=1e-3)
    (wanted,) = train_trunk(spec, [TOKENS], fresh_study("whole"))
    stopped = fresh_study("stopped")
    with pytest.raises(StopTraining):
        train_trunk(spec, [TOKENS], stopped, report=stop_after(5))
    (folder / "model.safetensors").rename(folder / "gone")
    (got,) = train_trunk(spec, [TOKENS], stopped)
    assert _same(_weights(got.path), _weights(wanted.path))
    assert got.result()["loss"] == wanted.result()["loss"]


def test_its_identity_is_its_weights_not_its_place(trunk, folder, tokenizer, tmp_path):
    moved = tmp_path / "elsewhere"
    spec = started(trunk, str(folder), tokenizer)
    folder.rename(moved)
    assert started(trunk, str(moved), tokenizer).trunk_id == spec.trunk_id
    assert spec.trunk_id != trunk.trunk_id


def test_a_model_changed_since_is_refused(study, trunk, folder, tokenizer):
    spec = started(trunk, str(folder), tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    model.save_pretrained(folder)
    with pytest.raises(CacheError, match="not the model that"):
        train_trunk(spec, [TOKENS], study)


def test_another_vocabulary_and_too_short_a_context_are_refused(trunk, folder, tokenizer):
    with pytest.raises(ConfigError, match="context is 64 tokens"):
        started(replace(trunk, recipe=replace(trunk.recipe, context=128)), str(folder), tokenizer)
    data = json.loads((folder / "tokenizer.json").read_text())
    del data["model"]["merges"][-1]
    last = max(data["model"]["vocab"], key=data["model"]["vocab"].get)
    data["model"]["vocab"].pop(last)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(VocabularyError, match="another vocabulary"):
        started(trunk, str(folder), tokenizer)


def test_rows_that_no_token_owns_are_refused(study, trunk, folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(320)
    model.save_pretrained(folder)
    with pytest.raises(ConfigError, match="320 rows of embedding for the text's 300 tokens"):
        train_trunk(started(trunk, str(folder), tokenizer), [TOKENS], study)
