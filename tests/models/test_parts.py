import copy
import dataclasses

import pytest
import torch
from torch.nn import functional

from distillaw.models.teacher import apply_head, head_of, hidden_states, reproduces_logits


def test_hidden_states_and_head_give_the_models_logits(family, random_model):
    model = random_model(family)
    ids = torch.randint(270, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(input_ids=ids, use_cache=False).logits
    got = apply_head(head_of(model), hidden_states(model, ids))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max().item())
    assert reproduces_logits(model, head_of(model))


@pytest.mark.parametrize(
    ("kind", "forgotten"),
    [("gemma2", {"softcap": None}), ("granite", {"scale": 1.0}), ("cohere", {"scale": 1.0}), ("phi", {"bias": None})],
)
def test_a_head_without_one_of_its_constants_is_noticed(kind, forgotten, random_model):
    model = random_model(kind)
    assert not reproduces_logits(model, dataclasses.replace(head_of(model), **forgotten))


def test_gradients_through_the_parts_are_those_of_the_whole(random_model):
    whole = random_model("gemma2")
    parts = copy.deepcopy(whole)
    ids = torch.randint(270, (2, 9), generator=torch.Generator().manual_seed(2))
    whole(input_ids=ids, use_cache=False).logits.logsumexp(-1).sum().backward()
    head = head_of(parts)
    logits = functional.linear(hidden_states(parts, ids), head.weight)
    (torch.tanh(logits / head.softcap) * head.softcap).logsumexp(-1).sum().backward()
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
