"""Students cut out of a teacher: every weight is a slice, whole is the identity, copies compute what groups did."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from distillaw.errors import ConfigError
from distillaw.models.cut import Cut, check_cut, shape_of, uniform_cut
from distillaw.models.fresh import build_model
from distillaw.models.prune import open_for_pruning, prune
from distillaw.shapes import Shape

TEACHER = Shape(layers=5, width=32, ffn=48, heads=4, kv_heads=4, head_dim=8, vocab=60, context=32)
STUDENT = replace(TEACHER, layers=2, width=24, ffn=40, heads=3, kv_heads=3)


@pytest.fixture(scope="module")
def teacher():
    """Gains unlike 1, so that a norm in the wrong place shows."""
    model = build_model(TEACHER, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


def _logits(model, tokens=None):
    tokens = torch.arange(40).view(2, 20) if tokens is None else tokens
    with torch.no_grad():
        return model.eval()(input_ids=tokens).logits


def test_the_cut_of_the_reference_recipe():
    """MiniMA: the first 4 and the last 4 of 32 layers go, every layer is cut alike."""
    large = Shape(layers=32, width=4096, ffn=11008, heads=32, kv_heads=32, head_dim=128, vocab=49216, context=4096)
    cut = uniform_cut(large, replace(large, layers=24, width=3072, ffn=8192, heads=24, kv_heads=24))
    assert cut.layers == tuple(range(4, 28))
    assert (len(cut.width), len(cut.heads[0]), len(cut.ffn[0])) == (3072, 24, 8192)
    assert len(set(cut.heads)) == len(set(cut.ffn)) == 1


def test_every_weight_is_the_slice_that_the_indices_name(teacher):
    cut = Cut(
        layers=(1, 4),
        width=tuple(range(31, 7, -1)),
        heads=((2, 0, 3), (1, 3, 0)),
        ffn=(tuple(range(0, 40)), tuple(range(47, 7, -1))),
    )
    student = dict(prune(teacher, STUDENT, cut).named_parameters())
    theirs = teacher.state_dict()
    width = list(cut.width)
    assert torch.equal(student["model.embed_tokens.weight"], theirs["model.embed_tokens.weight"][:, width])
    assert torch.equal(student["lm_head.weight"], theirs["lm_head.weight"][:, width])
    assert torch.equal(student["model.norm.weight"], theirs["model.norm.weight"][width])
    for i, layer in enumerate(cut.layers):
        rows = [8 * head + d for head in cut.heads[i] for d in range(8)]
        neurons = list(cut.ffn[i])

        def pair(name, i=i, layer=layer):
            return student[f"model.layers.{i}.{name}.weight"], theirs[f"model.layers.{layer}.{name}.weight"]

        for name in ("q_proj", "k_proj", "v_proj"):
            got, whole = pair(f"self_attn.{name}")
            assert torch.equal(got, whole[rows][:, width])
        got, whole = pair("self_attn.o_proj")
        assert torch.equal(got, whole[width][:, rows])
        for name in ("gate_proj", "up_proj"):
            got, whole = pair(f"mlp.{name}")
            assert torch.equal(got, whole[neurons][:, width])
        got, whole = pair("mlp.down_proj")
        assert torch.equal(got, whole[width][:, neurons])
        for name in ("input_layernorm", "post_attention_layernorm"):
            got, whole = pair(name)
            assert torch.equal(got, whole[width])


def test_a_cut_at_full_size_is_the_identity(teacher):
    whole = prune(teacher, TEACHER)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), teacher.parameters(), strict=True))
    assert torch.equal(_logits(whole), _logits(teacher))


def test_a_cut_in_another_order_is_the_same_model(teacher):
    """Units are unordered: permuting hidden dimensions, heads and neurons changes no logit beyond rounding."""
    flip = Cut(
        layers=tuple(range(5)),
        width=tuple(reversed(range(32))),
        heads=((3, 1, 0, 2),) * 5,
        ffn=(tuple(reversed(range(48))),) * 5,
    )
    torch.testing.assert_close(_logits(prune(teacher, TEACHER, flip)), _logits(teacher), rtol=1e-4, atol=1e-5)


def test_what_is_cut_away_was_what_the_others_did_not_use(teacher):
    """Heads, neurons and layers whose outputs are zero may go without a change; others may not."""
    silent = LlamaForCausalLM(teacher.config)
    silent.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        for layer in silent.model.layers:
            layer.self_attn.o_proj.weight[:, 16:] = 0
            layer.mlp.down_proj.weight[:, 40:] = 0
        for index in (0, 4):
            silent.model.layers[index].self_attn.o_proj.weight.zero_()
            silent.model.layers[index].mlp.down_proj.weight.zero_()
    shape = replace(TEACHER, layers=3, heads=2, kv_heads=2, ffn=40)
    torch.testing.assert_close(_logits(prune(silent, shape)), _logits(silent), rtol=1e-5, atol=1e-6)
    assert (_logits(prune(teacher, shape)) - _logits(teacher)).abs().max() > 0.05


def _grouped(**options):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
        **options,
    )
    return LlamaForCausalLM(config).eval()


def test_copied_keys_and_values_compute_what_the_groups_did():
    model = _grouped(rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-2)
    shape = shape_of(model.config, "it")
    alone = prune(model, replace(shape, kv_heads=8))
    assert alone.model.layers[0].self_attn.k_proj.weight.shape == (64, 32)
    torch.testing.assert_close(_logits(alone), _logits(model), rtol=1e-5, atol=1e-5)
    assert torch.equal(_logits(prune(model, shape)), _logits(model))
    assert alone.config.rms_norm_eps == 1e-2 and alone.config.rope_parameters["rope_theta"] == 500.0


def test_groups_are_cut_whole():
    model = _grouped()
    shape = shape_of(model.config, "it")
    half = replace(shape, heads=4, kv_heads=2)
    cut = uniform_cut(shape, half)
    kept = replace(cut, heads=((6, 7, 0, 1),) * 2)
    got, theirs = prune(model, half, kept).state_dict(), model.state_dict()
    name = "model.layers.1.self_attn.{}.weight"
    rows = torch.cat([torch.arange(24, 32), torch.arange(0, 8)])  # key-value heads 3 and 0
    assert torch.equal(got[name.format("k_proj")], theirs[name.format("k_proj")][rows])
    with pytest.raises(ConfigError, match=r"heads \[1, 2, 4, 5\].*key-value heads \[0, 1\].*whole groups of 2"):
        prune(model, half, replace(cut, heads=((1, 2, 4, 5),) * 2))
    with pytest.raises(ConfigError, match="4 of its query heads share keys and values, 2 of its"):
        prune(model, replace(shape, heads=4, kv_heads=1))


def test_a_tied_teacher_gives_an_untied_student_and_padding_rows_go():
    model = _grouped(tie_word_embeddings=True)
    shape = shape_of(model.config, "it")
    student = prune(model, replace(shape, tied=False, vocab=50, kv_heads=8))
    assert student.lm_head.weight is not student.model.embed_tokens.weight
    torch.testing.assert_close(_logits(student), _logits(model)[..., :50], rtol=1e-5, atol=1e-5)


def test_mistral_without_a_window_is_of_the_family(tmp_path):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=None,
        max_position_embeddings=64,
    )
    model = MistralForCausalLM(config).eval()
    shape = shape_of(config, "it")
    torch.testing.assert_close(_logits(prune(model, shape)), _logits(model), rtol=1e-5, atol=1e-5)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    student = prune(open_for_pruning(tmp_path), shape)
    assert student.dtype == torch.float32
    assert torch.equal(student.lm_head.weight, model.lm_head.weight.float())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 6}, "it has 6 layers, its teacher 5"),
        ({"width": 40}, "it has 40 width, its teacher 32"),
        ({"heads": 5, "kv_heads": 5}, "it has 5 heads, its teacher 4"),
        ({"ffn": 49}, "it has 49 ffn, its teacher 48"),
        ({"head_dim": 4}, "heads are cut whole.*8 dimensions, its own 4.*head_dim = 8"),
        ({"heads": 2, "kv_heads": 2, "width": 31}, "width 31 is no multiple of its 2 heads"),
        ({"context": 64}, "64 context, but the teacher has 32"),
        ({"vocab": 61}, "61 tokens of vocabulary"),
    ],
)
def test_a_student_larger_than_its_teacher_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        check_cut(TEACHER, replace(STUDENT, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": (0, 5)}, r"layers keeps 2 units \(2 different, 0 to 5\); 2 different ones of 5"),
        ({"width": (0,) * 24}, r"width keeps 24 units \(1 different"),
        ({"ffn": (tuple(range(40)),)}, "layers of ffn keeps 1 units"),
        ({"heads": ((0, 1), (0, 1, 2))}, "heads keeps 2 units"),
    ],
)
def test_indices_that_do_not_fit_are_refused(teacher, change, words):
    with pytest.raises(ConfigError, match=words):
        prune(teacher, STUDENT, replace(uniform_cut(TEACHER, STUDENT), **change))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "activation is 'gelu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    ],
)
def test_other_families_are_refused_with_the_reason(options, words):
    with pytest.raises(ConfigError, match=f"no student can be cut out of it: .*{words}"):
        shape_of(LlamaConfig(**options), "it")


def test_a_windowed_or_unknown_model_is_refused():
    from transformers import GPT2Config

    with pytest.raises(ConfigError, match="model type is 'gpt2'"):
        shape_of(GPT2Config(), "it")
    with pytest.raises(ConfigError, match="window of 4096 tokens"):
        shape_of(MistralConfig(), "it")
