import copy
import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillaw.accounting.architecture import count_params
from distillaw.accounting.config import read_architecture
from distillaw.accounting.flops import forward_flops
from distillaw.errors import CacheError, ConfigError, DistillawWarning, VocabularyError
from distillaw.models import teacher as teacher_module
from distillaw.models.source import fingerprint
from distillaw.models.teacher import apply_head, load_teacher


def probe() -> torch.Tensor:
    return torch.randint(270, (2, 12), generator=torch.Generator().manual_seed(0))


def test_any_family_is_loaded_frozen_and_gives_its_models_logits(family, save_teacher, tokenizer):
    folder, model = save_teacher(family)
    teacher = load_teacher(folder, tokenizer, context=64)
    with torch.no_grad():
        wanted = model(input_ids=probe(), use_cache=False).logits
    torch.testing.assert_close(teacher.logits(probe()), wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max().item())
    torch.testing.assert_close(apply_head(teacher.head, teacher.hidden(probe())), teacher.logits(probe()))
    assert (teacher.vocab_size, teacher.trimmed_rows) == (270, 0)
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert teacher.model.dtype == torch.float32
    assert teacher.params > 0
    assert teacher.flops_per_token(32) > teacher.params  # at least one multiplication per weight


def test_a_family_keeps_documents_apart_or_is_refused(family, save_teacher, tokenizer):
    """A recurrent state goes on over the end of a text, and OPT in transformers counts positions itself."""
    folder, model = save_teacher(family)
    if family in ("mamba", "falcon_h1", "opt"):
        with pytest.raises(ConfigError, match=rf"document_mask = true, but a model of this kind \({family}\) sees"):
            load_teacher(folder, tokenizer, document_mask=True)
        return
    teacher = load_teacher(folder, tokenizer, document_mask=True)
    packed = probe()
    packed[:, [0, 5, 9]] = tokenizer.eos_token_id
    with torch.no_grad():
        for a, b in ((0, 5), (5, 9), (9, 12)):
            wanted = model(input_ids=packed[:, a:b], use_cache=False).logits
            near = {"rtol": 1e-5, "atol": 1e-5 * wanted.abs().max().item()}
            torch.testing.assert_close(teacher.logits(packed)[:, a:b], wanted, **near)


def test_sizes_and_flops_are_those_of_accounting(save_teacher, tokenizer):
    folder, _ = save_teacher("qwen2")
    teacher, architecture = load_teacher(folder, tokenizer), read_architecture(folder)
    assert teacher.params == count_params(architecture).non_embedding
    assert teacher.flops_per_token(32) == forward_flops(architecture, context=32).total


def test_measured_flops_are_those_of_accounting_where_both_exist(save_teacher, tokenizer, monkeypatch):
    folder, _ = save_teacher("llama")
    teacher = load_teacher(folder, tokenizer)
    counted = forward_flops(read_architecture(folder), context=64, causal=False).matmuls
    monkeypatch.setattr(teacher_module, "architecture_of", lambda config: None)
    assert teacher_module.model_flops(teacher.model, 64) == counted


def test_rows_that_no_token_owns_are_trimmed(save_teacher, tokenizer):
    folder, model = save_teacher("qwen2", vocab_size=320)
    teacher = load_teacher(folder, tokenizer)
    assert (teacher.trimmed_rows, teacher.vocab_size, len(teacher.head.weight)) == (50, 270, 270)
    with torch.no_grad():
        wanted = model(input_ids=probe()).logits[..., :270]
    torch.testing.assert_close(teacher.logits(probe()), wanted)


def test_padding_rows_that_a_token_of_the_teacher_owns_are_not_trimmed(save_teacher, tokenizer):
    theirs = copy.deepcopy(tokenizer)
    theirs.add_tokens(["<tool_call>"], special_tokens=True)
    folder, _ = save_teacher(vocab_size=320, with_tokenizer=theirs)
    with pytest.raises(VocabularyError, match=r"1 tokens differ, e.g. '<tool_call>' is 270 there, absent here"):
        load_teacher(folder, tokenizer)


def test_another_tokenizer_is_refused_with_three_differing_tokens(save_teacher, tokenizer):
    from distillaw.data.tokenizer import train_tokenizer

    folder, _ = save_teacher(with_tokenizer=train_tokenizer(["quite another text " * 20], vocab_size=270))
    with pytest.raises(VocabularyError, match="is 257 there") as refused:
        load_teacher(folder, tokenizer)
    assert str(refused.value).count(" there, ") == 3
    assert "docs/teachers.md" in str(refused.value)


def test_fewer_rows_than_tokens_are_refused(save_teacher, tokenizer):
    folder, _ = save_teacher(vocab_size=268)
    with pytest.raises(VocabularyError, match=r"268 rows for 270 tokens; 2 have no row, e.g. .* \(268\)"):
        load_teacher(folder, tokenizer)


def test_a_folder_without_tokenizer_is_refused_or_helped_out(save_teacher, tokenizer, tmp_path):
    folder, _ = save_teacher(with_tokenizer=None)
    with pytest.raises(CacheError, match="copy the tokenizer files"):
        load_teacher(folder, tokenizer)
    tokenizer.save_pretrained(str(tmp_path / "elsewhere"))
    assert load_teacher(folder, tokenizer, teacher_tokenizer=tmp_path / "elsewhere").vocab_size == 270


def test_a_context_too_short_is_refused(save_teacher, tokenizer):
    for kind in ("llama", "gpt2"):
        folder, _ = save_teacher(kind)
        load_teacher(folder, tokenizer, context=64)
        with pytest.raises(ConfigError, match="context is 64 tokens, the study's 65; lower"):
            load_teacher(folder, tokenizer, context=65)


def test_encoder_decoders_are_refused(tmp_path, tokenizer):
    from transformers import BartConfig, T5Config

    for config in (BartConfig(vocab_size=270), T5Config(vocab_size=270)):
        config.save_pretrained(tmp_path / config.model_type)
        with pytest.raises(ConfigError, match=f"an encoder-decoder \\({config.model_type}\\)"):
            load_teacher(tmp_path / config.model_type, tokenizer)


def test_a_model_that_sees_later_tokens_is_refused(save_teacher, tokenizer):
    folder, _ = save_teacher("bert", num_key_value_heads=None)
    with pytest.raises(ConfigError, match="sees later tokens"):
        load_teacher(folder, tokenizer)


def test_missing_weights_are_refused_instead_of_drawn_at_random(save_teacher, tokenizer):
    folder, _ = save_teacher()
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.endswith("down_proj.weight"))
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CacheError, match=f"1 weights of the model are missing.*{gone}"):
        load_teacher(folder, tokenizer)


def test_a_truncated_file_an_adapter_and_an_empty_folder_are_named(save_teacher, tokenizer, tmp_path):
    with pytest.raises(CacheError, match=r"no config.json"):
        load_teacher(tmp_path, tokenizer)
    folder, _ = save_teacher()
    shutil.copytree(folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="an adapter, not a model"):
        load_teacher(tmp_path / "adapter", tokenizer)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CacheError, match="no model can be loaded"):
        load_teacher(folder, tokenizer)


def test_a_head_that_cannot_be_taken_apart_falls_back_to_full_logits(save_teacher, tokenizer, monkeypatch):
    folder, model = save_teacher("gemma2", vocab_size=300)
    monkeypatch.setattr(teacher_module, "head_of", lambda m: _uncapped(m))
    with pytest.warns(DistillawWarning, match="full logits are used"):
        teacher = load_teacher(folder, tokenizer)
    assert teacher.head is None
    with torch.no_grad():
        torch.testing.assert_close(teacher.logits(probe()), model(input_ids=probe()).logits[..., :270])


def _uncapped(model):
    from distillaw.distill.heads import Head

    return Head(model.lm_head.weight)


def test_a_name_on_the_hub_is_taken_from_the_cache(save_teacher, tokenizer, tmp_path, monkeypatch):
    folder, _ = save_teacher()
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--owner--tiny-llama"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    teacher = load_teacher("owner/tiny-llama", tokenizer)
    assert (teacher.name, teacher.fingerprint) == ("owner/tiny-llama", fingerprint(folder))
    with pytest.raises(CacheError, match=r"owner/other: neither a folder here.*hf download owner/other"):
        load_teacher("owner/other", tokenizer)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nothing", "just-a-word", "a/b/c/d"])
def test_a_name_that_is_nothing_is_refused(name, tokenizer):
    with pytest.raises(CacheError, match="no such model here"):
        load_teacher(name, tokenizer)


def test_the_fingerprint_names_weights_and_architecture_but_not_who_saved_them(save_teacher):
    folder, model = save_teacher("granite")
    first, config = fingerprint(folder), json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "9", "use_cache": False}))
    assert fingerprint(folder) == first
    (folder / "config.json").write_text(json.dumps(config | {"logits_scaling": 4.0}))
    other = fingerprint(folder)
    (folder / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(folder)
    assert len({first, other, fingerprint(folder)}) == 3
    with pytest.raises(CacheError, match="so no teacher"):
        fingerprint(folder.parent)


@pytest.mark.parametrize("scheme", ["bitsandbytes", "torchao"])
def test_quantised_folders_load_and_teach(scheme, tmp_path, tokenizer, random_model):
    pytest.importorskip("accelerate")
    pytest.importorskip(scheme)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the quantisation packages themselves
        model = random_model("llama", hidden_size=128, head_dim=32)
        model.save_pretrained(tmp_path / "full")
        quantised = _quantised(scheme, tmp_path / "full")
        quantised.save_pretrained(tmp_path / "small")
        tokenizer.save_pretrained(str(tmp_path / "small"))
        teacher = load_teacher(tmp_path / "small", tokenizer, context=64)
        with torch.no_grad():
            wanted = quantised.eval()(input_ids=probe()).logits
            exact = model(input_ids=probe()).logits
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "small")}
    assert size["small"] < 0.75 * size["full"]
    assert teacher.head is not None
    torch.testing.assert_close(teacher.logits(probe()), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wanted, exact, rtol=1e-4, atol=1e-4)  # it is quantised indeed
    assert teacher.params == count_params(read_architecture(tmp_path / "full")).non_embedding


def _quantised(scheme, folder):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

    if scheme == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(version=2), include_input_output_embeddings=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
