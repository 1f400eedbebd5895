"""Coordinate check (Yang et al. 2022, arXiv 2203.03466, appendix D): what a few steps change, as the model grows."""

import math
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from distillaw.errors import ConfigError
from distillaw.models.fresh import build_model
from distillaw.shapes import Shape, ffn_width
from distillaw.train.optim import build_optimizer, set_learning_rate

WIDTHS, DEPTHS = (32, 64, 128, 256), (2, 4, 8, 16)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STEPS, RATE, SEEDS, VOCAB = 5, 2e-3, (0, 1, 2), 256


def _shape(width: int, layers: int, *, tied: bool = False) -> Shape:
    return Shape(
        layers=layers,
        width=width,
        ffn=ffn_width(width),
        heads=width // 16,
        kv_heads=width // 16,
        head_dim=16,
        vocab=VOCAB,
        context=32,
        tied=tied,
    )


def _activations(model, tokens_BT) -> dict[str, torch.Tensor]:
    """Outputs by kind of layer, those of one kind stacked; `stream` is what the last block leaves."""
    found = defaultdict(list)

    def keep(kind):
        return lambda module, inputs, output: found[kind].append(output.detach())

    names = {"embed_tokens": "embedding", "lm_head": "logits", **{name: name for name in PROJECTIONS}}
    hooks = [
        module.register_forward_hook(keep(names[name.rsplit(".", 1)[-1]]))
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in names
    ]
    hooks.append(
        model.model.norm.register_forward_pre_hook(lambda m, inputs: found["stream"].append(inputs[0].detach()))
    )
    with torch.no_grad():
        model(input_ids=tokens_BT)
    for hook in hooks:
        hook.remove()
    return {kind: torch.stack(outputs) for kind, outputs in found.items()}


def _one_rate_for_all(model, optimizer, layers) -> None:
    """The control: no scaling with width."""
    for group in optimizer.param_groups:
        group["lr_scale"] = 1.0


def _depth_rule(model, optimizer, layers) -> None:
    """Proposed, docs/mup.md: what writes into the residual stream learns 2 / layers as fast."""
    writers = [p for n, p in model.named_parameters() if n.endswith(("o_proj.weight", "down_proj.weight"))]
    matrices = optimizer.param_groups[0]
    matrices["params"] = [p for p in matrices["params"] if not any(p is w for w in writers)]
    settings = {key: value for key, value in matrices.items() if key != "params"}
    scale = matrices["lr_scale"] * 2 / layers
    optimizer.add_param_group({**settings, "params": writers, "lr_scale": scale})


@cache
def _change(width: int, layers: int, rule=None) -> dict[str, float]:
    """Mean |change| of every kind of activation after a few steps on one batch; geometric mean over seeds."""
    logs = defaultdict(list)
    for seed in SEEDS:
        model = build_model(_shape(width, layers), seed=seed)
        optimizer = build_optimizer(model, width=width, weight_decay=0.0)
        if rule is not None:
            rule(model, optimizer, layers)
        set_learning_rate(optimizer, RATE)
        tokens_BT = torch.randint(VOCAB, (8, 33), generator=torch.Generator().manual_seed(seed))
        before = _activations(model, tokens_BT[:, :-1])
        for _ in range(STEPS):
            logits_BTV = model(input_ids=tokens_BT[:, :-1]).logits
            functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()
        for name, after in _activations(model, tokens_BT[:, :-1]).items():
            logs[name].append(math.log(float((after - before[name]).abs().mean())))
    return {name: math.exp(np.mean(values)) for name, values in logs.items()}


def _exponents(changes: list[dict[str, float]]) -> dict[str, float]:
    """Change ~ size^exponent over sizes that double each time."""
    doublings = np.arange(len(changes))
    return {
        name: float(np.polyfit(doublings, np.log2([change[name] for change in changes]), 1)[0]) for name in changes[0]
    }


def test_what_a_step_changes_does_not_depend_on_the_width():
    exponents = _exponents([_change(width, 2) for width in WIDTHS])
    assert set(exponents) == {"embedding", "stream", "logits", *PROJECTIONS}
    assert all(abs(e) < 0.2 for e in exponents.values()), exponents
    assert abs(exponents["logits"]) < 0.1, exponents


@pytest.mark.slow
def test_with_one_rate_for_all_it_does():
    exponents = _exponents([_change(width, 2, _one_rate_for_all) for width in WIDTHS])
    assert all(exponents[name] > 0.4 for name in ("stream", "logits", *PROJECTIONS)), exponents


@pytest.mark.slow
def test_with_depth_it_grows_slowly_and_the_proposed_rule_would_stop_that():
    ours = _exponents([_change(64, layers) for layers in DEPTHS])
    ruled = _exponents([_change(64, layers, _depth_rule) for layers in DEPTHS])
    for name in ("stream", "logits"):
        assert 0.15 < ours[name] < 0.5, ours
        assert abs(ruled[name]) < 0.15, ruled


def test_tied_heads_are_refused():
    with pytest.raises(ConfigError, match=r"ties its head .* Untie"):
        build_optimizer(build_model(_shape(32, 1, tied=True), seed=0), width=32, weight_decay=0.0)
