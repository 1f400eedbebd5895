"""Mixtures of experts made of dense models: the same function, the counts, the routers' losses and gradients."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

from distillaw.accounting.architecture import count_params
from distillaw.accounting.config import architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.errors import ConfigError
from distillaw.models.fresh import count_parameters
from distillaw.models.source import locate
from distillaw.models.teacher import load_teacher, load_weights
from distillaw.models.upcycle import Routers, balance_loss, layout, mixture_config, router_z_loss, upcycle

IDS = torch.randint(270, (2, 40), generator=torch.Generator().manual_seed(0))
LAYOUTS = {"pyramid_mixtral": (2, 4), "mixtral": (3, 3)}


def made(dense, experts, **settings):
    return upcycle(dense, experts, generator=torch.Generator().manual_seed(0), **settings)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_mixture_says_what_the_dense_model_said(random_model, tokenizer, kind, tied, tmp_path):
    dense = random_model("llama", tie_word_embeddings=tied)
    mixture = made(dense, LAYOUTS[kind])
    with torch.no_grad():
        wanted, got = dense(input_ids=IDS).logits, mixture(input_ids=IDS).logits
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert mixture.config.model_type == kind
    mixture.save_pretrained(tmp_path)
    tokenizer.save_pretrained(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(load_weights(locate(tmp_path), torch.device("cpu"), None)(IDS).logits, got)
    torch.testing.assert_close(load_teacher(tmp_path, tokenizer).logits(IDS), got)


def test_noise_leaves_the_first_expert_and_parts_the_others(random_model):
    dense = random_model("llama")
    experts = made(dense, (2, 4), noise=0.1).model.layers[1].mlp.experts.down_proj
    assert torch.equal(experts[0], dense.model.layers[1].mlp.down_proj.weight)
    ratio = (experts[1:] / experts[0] - 1).std().item()
    assert ratio == pytest.approx(0.1, rel=0.05) and not torch.equal(experts[1], experts[2])


@pytest.mark.parametrize("experts", [(2, 4), (4, 4)])
def test_counts_are_those_of_the_module_and_active_ones_of_the_dense_model(random_model, experts):
    dense = random_model("llama")
    mixture = made(dense, experts)
    count = count_params(architecture_from_config(mixture.config.to_dict()))
    assert (count.non_embedding, count.total) == count_parameters(mixture)
    routers = 32 * sum(experts)
    assert count.active_non_embedding == count_parameters(dense)[0] + routers
    flops = [forward_flops(architecture_from_config(m.config.to_dict()), context=64).total for m in (dense, mixture)]
    assert flops[1] - flops[0] == 2 * routers


def test_the_published_mixture_has_its_counts():
    """MiniMix-2/4x3B: 7.55B in all, 7.25B without embeddings, 3B active."""
    experts = layout(24, (2, 4), bottom=0.25)
    assert sum(experts) == 84 and experts[5:7] == (2, 4)
    count = count_params(
        architecture_from_config(
            {
                "model_type": "pyramid_mixtral",
                "hidden_size": 3072,
                "intermediate_size": 8192,
                "num_hidden_layers": 24,
                "num_attention_heads": 24,
                "num_key_value_heads": 24,
                "vocab_size": 49216,
                "num_experts_per_tok": 1,
                "num_local_experts": 4,
                "experts_per_layer": list(experts),
            }
        )
    )
    assert round(count.total / 1e9, 2) == 7.55 and round(count.non_embedding / 1e9, 2) == 7.25
    assert round(count.active_total / 1e9, 1) == 3.0 and round(count.active_non_embedding / 1e9, 2) == 2.72
    attention, norms, routers = 24 * 4 * 3072**2, (2 * 24 + 1) * 3072, 84 * 3072
    assert count.non_embedding == 84 * 3 * 3072 * 8192 + attention + norms + routers


def test_the_balance_loss_is_switchs():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    chosen = logits.topk(1).indices
    p = logits.double().softmax(-1).numpy()
    wanted = 4 * sum(np.mean(p.argmax(1) == e) * p[:, e].mean() for e in range(4))
    assert balance_loss(logits, chosen).item() == pytest.approx(wanted, rel=1e-6)
    theirs = load_balancing_loss_func((logits,), 4, 1)
    assert balance_loss(logits, chosen).item() == pytest.approx(theirs.item(), rel=1e-6)
    even = torch.arange(8)[:, None] % 4
    assert balance_loss(torch.zeros(8, 4), even).item() == pytest.approx(1.0)
    collapsed = torch.tensor([[50.0, 0, 0, 0]] * 8)
    assert balance_loss(collapsed, torch.zeros(8, 1, dtype=torch.long)).item() == pytest.approx(4.0)
    assert router_z_loss(torch.full((3, 4), 2.0)).item() == pytest.approx((2 + np.log(4)) ** 2, rel=1e-6)


def test_the_text_reaches_the_router_by_the_gradient_of_log_p(random_model):
    mixture = made(random_model("llama"), (2, 4)).train()
    block: MixtralSparseMoeBlock = mixture.model.layers[1].mlp
    x = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = block(x)[0]
    upstream = torch.randn(12, 32, generator=torch.Generator().manual_seed(3))
    (block(x)[0] * upstream).sum().backward()
    assert block.gate.weight.grad.abs().max() < 1e-8  # plain Mixtral: p / p, a constant
    block.zero_grad()
    routers = Routers.of(mixture)
    out = block(x)[0]
    assert torch.equal(out, y)  # the weight is 1 all the same
    (out * upstream).sum().backward()
    p = (x[0] @ block.gate.weight.detach().T).softmax(-1)
    onehot = torch.nn.functional.one_hot(p.argmax(-1), 4)
    wanted = ((upstream * y).sum(-1, keepdim=True) * (onehot - p)).T @ x[0]
    torch.testing.assert_close(block.gate.weight.grad, wanted, rtol=1e-4, atol=1e-6)
    routers.release()


def test_layouts_that_cannot_be_say_so(random_model):
    for experts, bottom in (((1,), 0.25), ((2, 4, 8), 0.25), ((2, 4), 0.0), ((2, 4), 1.0)):
        with pytest.raises(ConfigError, match=r"--experts|--pyramid"):
            layout(8, experts, bottom=bottom)
    assert layout(8, (4,)) == (4,) * 8 == layout(8, (4, 4))
    for kind in ("gpt2", "qwen2", "mixtral"):
        with pytest.raises(ConfigError, match="model type"):
            mixture_config(random_model(kind).config, (2, 4))
    with pytest.raises(ConfigError, match="experts_per_layer"):
        architecture_from_config(
            mixture_config(random_model("llama").config, (2, 4)).to_dict() | {"experts_per_layer": [2]}
        )


def test_a_pyramid_loads_without_distillaw(random_model, tmp_path):
    made(random_model("llama"), (2, 4)).save_pretrained(tmp_path)
    assert "import distillaw" not in (tmp_path / "pyramid.py").read_text().split('"""')[2]
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [len(layer.mlp.gate.weight) for layer in model.model.layers] == [2, 4]
