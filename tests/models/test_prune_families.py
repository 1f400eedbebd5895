"""Cuts of every family: slices named by the teacher's own modules, whole is the identity, saved is what was cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from distillaw.errors import ConfigError
from distillaw.models.cut import axes_of, family_shape, ranked_cut, uniform_cut
from distillaw.models.prune import Importance, measure_importance, prune

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
STEP = 2e-3
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**GROUPED, sliding_window=8),
    "qwen2": Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**GROUPED),
    "gemma": GemmaConfig(**GROUPED),
    "gemma2": Gemma2Config(**GROUPED, sliding_window=8),
    "gemma3": Gemma3TextConfig(**GROUPED, sliding_window=8),
    "gpt_neox": GPTNeoXConfig(**SIZES, rotary_pct=0.5, tie_word_embeddings=False),
}


@pytest.fixture(params=CONFIGS, scope="module")
def teacher(request):
    """A model of each family, every weight and gain random."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(48).view(2, 24)).logits


def _student(shape):
    """Half of the groups, three quarters of the rest; GPT-NeoX wants the width to be heads times their size."""
    if shape.kv_heads == shape.heads:
        return replace(shape, layers=3, width=16, heads=2, kv_heads=2, ffn=40)
    return replace(shape, layers=3, width=24, heads=2, kv_heads=1, ffn=40)


def _random_scores(shape):
    rng = np.random.default_rng(0)
    return Importance(
        by="gradient",
        windows=1,
        layers=rng.random(shape.layers),
        width=rng.random(shape.width),
        heads=rng.random((shape.layers, shape.heads)),
        ffn=rng.random((shape.layers, shape.ffn)),
    )


def test_a_cut_at_full_size_is_the_identity(teacher):
    shape = family_shape(teacher.config, "it")
    whole = prune(teacher, shape)
    assert type(whole) is type(teacher)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), teacher.parameters(), strict=True))
    assert torch.equal(_logits(whole), _logits(teacher))


def test_a_student_computes_what_the_teacher_does_without_the_other_units(teacher):
    """Heads, neurons and layers that are cut equal ones whose outputs are silenced in the teacher."""
    shape = family_shape(teacher.config, "it")
    student = replace(shape, heads=2, kv_heads=2 if shape.kv_heads == shape.heads else 1, ffn=40)
    if teacher.config.model_type == "gpt_neox":
        student = replace(shape, ffn=40)  # its width goes with its heads
    cut = ranked_cut(shape, student, _random_scores(shape))
    silent = AutoModelForCausalLM.from_config(teacher.config).eval()
    silent.load_state_dict(teacher.state_dict())
    for name, weight in silent.named_parameters():
        layer, axes = axes_of(name)
        if layer is None or axes[-1] not in ("heads", "ffn") or axes[0] != "width" or weight.dim() < 2:
            continue
        size = shape.head_dim if axes[-1] == "heads" else 1
        kept = cut.heads[layer] if axes[-1] == "heads" else cut.ffn[layer]
        gone = [size * unit + d for unit in range(weight.shape[1] // size) if unit not in kept for d in range(size)]
        with torch.no_grad():
            weight[:, gone] = 0
    got = _logits(prune(teacher, student, cut))
    torch.testing.assert_close(got, _logits(silent), rtol=1e-4, atol=1e-4)
    assert (got - _logits(teacher)).abs().max() > 0.01


def test_every_weight_is_kept_slices_of_one_weight(teacher):
    shape = family_shape(teacher.config, "it")
    student = _student(shape)
    cut = ranked_cut(shape, student, _random_scores(shape))
    pruned, theirs = prune(teacher, student, cut), teacher.state_dict()
    for name, got in pruned.state_dict().items():
        layer, axes = axes_of(name)
        whole = theirs[name if layer is None else name.replace(f"layers.{layer}.", f"layers.{cut.layers[layer]}.")]
        for dim, axis in enumerate(axes):
            heads = () if layer is None else cut.heads[layer]
            units = {
                "width": cut.width,
                "vocab": range(60),
                "head_dim": range(8),
                "heads": heads,
                "qkv": heads,
                "ffn": () if layer is None else cut.ffn[layer],
                "kv_heads": sorted({h * shape.kv_heads // shape.heads for h in heads}),
            }[axis]
            size = {"heads": 8, "kv_heads": 8, "qkv": 24}.get(axis, 1)
            rows = [size * unit + d for unit in units for d in range(size)]
            whole = whole.index_select(dim, torch.tensor(rows))
        assert torch.equal(got, whole), name


def test_a_saved_student_reloads_identically(teacher, tmp_path):
    shape = family_shape(teacher.config, "it")
    pruned = prune(teacher, _student(shape))
    pruned.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert type(again) is type(teacher)
    assert torch.equal(_logits(again), _logits(pruned))


@pytest.mark.parametrize("by", ["gradient", "activation"])
def test_units_that_say_nothing_do_not_matter_and_others_do(teacher, by):
    shape = family_shape(teacher.config, "it")
    silent = AutoModelForCausalLM.from_config(teacher.config).eval()
    silent.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        for name, weight in silent.named_parameters():
            layer, axes = axes_of(name)
            if layer == 1 and weight.dim() == 2 and axes in (("ffn", "width"), ("width", "ffn"), ("width", "heads")):
                # by gradient a unit is silent if nobody reads it, by activation if it says nothing
                if by == "gradient" and axes[0] == "width":
                    weight[:, : 8 if axes[1] == "heads" else 3] = 0
                if by == "activation" and axes[0] == "ffn":
                    weight[:3] = 0
            if layer == 1 and weight.dim() == 1 and axes == ("ffn",) and by == "activation":
                weight[:3] = 0
    batches = torch.randint(0, 60, (6, 24), generator=torch.Generator().manual_seed(0)).split(2)
    scores = measure_importance(silent, batches, by=by)
    assert scores.windows == 6 and scores.layers.shape == (shape.layers,) and (scores.width > 0).all()
    assert np.allclose(scores.ffn[1, :3], 0, atol=1e-7) and (scores.ffn[1, 3:] > 0).all() and (scores.ffn[0] > 0).all()
    if by == "gradient":
        assert scores.heads[1, 0] == 0 and (scores.heads[1, 1:] > 0).all()


def test_importance_does_not_depend_on_how_windows_are_batched(teacher):
    windows = torch.randint(0, 60, (6, 24), generator=torch.Generator().manual_seed(0))
    one, three = (measure_importance(teacher, windows.split(size)) for size in (1, 3))
    for axis in ("layers", "width", "heads", "ffn"):
        np.testing.assert_allclose(getattr(one, axis), getattr(three, axis), rtol=2e-3, atol=1e-6)


def test_gradient_importance_is_the_derivative_of_the_loss(teacher):
    """Against a finite difference of one neuron's mask."""
    window = torch.randint(0, 60, (1, 24), generator=torch.Generator().manual_seed(0))
    scores = measure_importance(teacher.double(), [window])
    block = 2
    neuron = int(np.argmax(scores.ffn[block]))  # norms are float32 whatever the model is
    modules = dict(teacher.named_modules())
    name = next(
        n for n in modules if n.endswith((f"layers.{block}.mlp.down_proj", f"layers.{block}.mlp.dense_4h_to_h"))
    )
    losses = []
    for factor in (1 + STEP, 1 - STEP):

        def scale(module, args, factor=factor):
            x = args[0].clone()
            x[..., neuron] *= factor
            return (x,)

        handle = modules[name].register_forward_pre_hook(scale)
        with torch.no_grad():
            logits = teacher(input_ids=window).logits[0, :-1]  # its own loss is float32
            losses.append(torch.nn.functional.cross_entropy(logits, window[0, 1:]).item())
        handle.remove()
    teacher.float()
    assert scores.ffn[block, neuron] == pytest.approx(abs(losses[0] - losses[1]) / (2 * STEP), rel=0.03)


def test_groups_that_share_keys_and_values_stay_whole(teacher):
    shape = family_shape(teacher.config, "it")
    if shape.kv_heads == shape.heads:
        pytest.skip("every head has its own keys and values")
    cut = ranked_cut(shape, _student(shape), _random_scores(shape))
    assert all(heads in ((0, 1), (2, 3)) for heads in cut.heads)
    assert uniform_cut(shape, _student(shape)).heads[0] == (0, 1)


def test_a_family_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="model type is 'gpt2'; what can be cut are llama, mistral"):
        family_shape(GPT2Config(), "models/gpt2")
    with pytest.raises(ConfigError, match=r"nothing is known of the weight 'transformer.h.0.attn.c_attn.weight'"):
        axes_of("transformer.h.0.attn.c_attn.weight")
