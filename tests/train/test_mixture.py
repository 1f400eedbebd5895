"""A mixture of experts in the engine: the routers' losses are part of the step, it learns, and experts stay busy."""

import numpy as np
import pytest
import torch

from distillaw.data.corpus import read_documents
from distillaw.data.tokenizer import encode_documents, train_tokenizer
from distillaw.models.fresh import build_model
from distillaw.models.upcycle import balance_loss, measure_routing, router_z_loss, upcycle
from distillaw.runs.spec import Recipe
from distillaw.shapes import Shape
from distillaw.train.optim import build_optimizer, set_learning_rate
from distillaw.train.stacked import can_stack
from distillaw.train.student import Signal, Student

SHAPE = Shape(layers=2, width=32, ffn=64, heads=2, kv_heads=2, head_dim=16, vocab=300, context=64)
RECIPE = Recipe(context=64, distill_weight=0.0, z_weight=0.0)


@pytest.fixture(scope="module")
def ids():
    documents = [text[:4000] for text, _ in zip(read_documents("sotu"), range(40), strict=False)]
    tokenizer = train_tokenizer(documents, vocab_size=300)
    return [np.array([0, *each]) for each in encode_documents(tokenizer, documents)]


def mixture(**settings):
    dense = build_model(SHAPE, seed=0)
    return upcycle(dense, (2, 4), generator=torch.Generator().manual_seed(0), **settings).train()


def test_a_step_adds_the_routers_losses_in_proportion_to_its_tokens(ids):
    tokens = torch.from_numpy(ids[0][: 2 * 65].reshape(2, 65))
    heavy, none = Student(mixture(balance=0.5, z_weight=0.25), RECIPE), Student(mixture(balance=0.0), RECIPE)
    with_losses, without = (student(tokens, Signal(), 512) for student in (heavy, none))
    said = heavy.routers.said
    assert [one.logits.shape for one in said] == [(128, 2), (128, 4)]
    wanted = sum(0.5 * balance_loss(o.logits, o.chosen) + 0.25 * router_z_loss(o.logits) for o in said) * 128 / 512
    torch.testing.assert_close(with_losses.total - without.total, wanted)
    torch.testing.assert_close(with_losses.next_token, without.next_token)
    without.total.backward()
    assert all(layer.mlp.gate.weight.grad.abs().max() > 0 for layer in none.model.model.layers)
    assert not can_stack(heavy) and can_stack(Student(build_model(SHAPE, seed=0), RECIPE))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_it_learns_and_keeps_its_experts_busy(ids, checkpoint):
    model = mixture(balance=0.01)
    student = Student(model, Recipe(context=64, distill_weight=0.0, checkpoint_activations=checkpoint))
    optimizer = build_optimizer(model, width=SHAPE.width, weight_decay=0.0)
    experts = {id(layer.mlp.experts.down_proj) for layer in model.model.layers}
    scales = {g["lr_scale"] for g in optimizer.param_groups for p in g["params"] if id(p) in experts}
    assert scales == {64 / SHAPE.width}  # matrices of experts follow the rate of matrices
    stream = np.concatenate(ids)[: 40 * 8 * 65].reshape(40, 8, 65)
    set_learning_rate(optimizer, 0.01)
    losses = []
    for batch in stream:
        parts = student(torch.from_numpy(batch), Signal(), 8 * 64)
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()
        losses.append(parts.next_token.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.8
    use = measure_routing(model.eval(), ids[-5:], context=64)
    assert [len(layer["shares"]) for layer in use] == [2, 4]
    for layer in use:
        assert sum(layer["shares"]) == pytest.approx(1) and min(layer["shares"]) > 0.3 / len(layer["shares"])
        assert 0 <= layer["dropped"]["2"] <= layer["dropped"]["1.25"] <= layer["dropped"]["1"] < 0.6
    down = model.model.layers[1].mlp.experts.down_proj
    assert not torch.allclose(down[0], down[1])  # copies have parted


def test_routing_counts_every_token_once(ids):
    model = mixture().eval()
    use = measure_routing(model, ids[:3], context=64)
    chosen = []
    handle = model.model.layers[1].mlp.gate.register_forward_hook(lambda m, a, out: chosen.append(out[2]))
    with torch.no_grad():
        for each in ids[:3]:
            windows = [each[i : i + 64] for i in range(0, len(each) - 1, 64)]
            windows = [w[: len(each) - 1 - 64 * i] for i, w in enumerate(windows)]
            for window in windows:
                model(input_ids=torch.from_numpy(window)[None])
    handle.remove()
    counts = torch.bincount(torch.cat(chosen).flatten(), minlength=4)
    assert counts.sum() == sum(len(each) - 1 for each in ids[:3])
    assert np.allclose(use[1]["shares"], counts / counts.sum(), atol=0.02)  # the last windows see more before them
