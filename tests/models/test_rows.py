"""Embeddings and heads with other rows: exact where a row stays, the mean where it is new."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from distillaw.errors import ConfigError
from distillaw.models.vocabulary import give_rows, renumber_tokens

KEPT = [0, 1, 2, 5, 7, *range(40, 200), 269]
IDS = torch.tensor([[7, 41, 199, 269, 2, 88, 120, 5]])


@pytest.mark.parametrize(
    "kind", ["llama", "qwen3", "gemma2", "gpt_neox", "gpt2", "phi", "granite", "mixtral", "opt", "falcon_h1"]
)
@pytest.mark.parametrize("padding", [0, 18])
def test_logits_of_what_stays_are_the_old_ones_bit_for_bit(random_model, kind, padding, tmp_path):
    model = random_model(kind, vocab_size=270 + padding)
    with torch.no_grad():
        old = model(input_ids=IDS).logits[..., KEPT]
        give_rows(model, [(i,) for i in KEPT])
        moved = torch.tensor([[KEPT.index(i) for i in IDS[0]]])
        new = model(input_ids=moved).logits
    assert new.shape[-1] == len(KEPT) and torch.equal(new, old)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=moved).logits, new)


@pytest.mark.parametrize("tied", [False, True])
def test_a_new_row_is_the_mean_of_its_parts_on_both_sides(random_model, tied):
    model = random_model("llama", tie_word_embeddings=tied)
    inside, outside = (m.weight.clone() for m in (model.get_input_embeddings(), model.get_output_embeddings()))
    before = sum(p.numel() for p in model.parameters())
    give_rows(model, [*((i,) for i in range(270)), (3, 9), (4, 4, 10)])
    new_in, new_out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    for new, old in ((new_in, inside), (new_out, outside)):
        assert torch.equal(new[:270], old)
        torch.testing.assert_close(new[270], (old[3] + old[9]) / 2)
        torch.testing.assert_close(new[271], (2 * old[4] + old[10]) / 3)
    assert (new_in is new_out) == tied and model.config.vocab_size == 272
    assert sum(p.numel() for p in model.parameters()) == before + 2 * 32 * (1 if tied else 2)


def test_random_rows_have_the_initial_size_and_the_seed_decides(random_model):
    drawn = []
    for seed in (0, 0, 1):
        model = random_model("llama")
        give_rows(model, [*((i,) for i in range(270)), *[(1, 2)] * 400], generator=torch.Generator().manual_seed(seed))
        drawn.append(model.get_input_embeddings().weight[270:].clone())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std().item() == pytest.approx(0.02, rel=0.05)


def test_ids_of_special_tokens_move_along(random_model):
    model = random_model("llama")
    model.config.eos_token_id = [5, 6, 7]
    model.config.pad_token_id = 6
    renumber_tokens(model, {old: new for new, old in enumerate(KEPT)})
    assert model.config.eos_token_id == [3, 4] and model.config.pad_token_id is None and model.config.bos_token_id == 0


def test_rows_that_are_not_there_are_refused(random_model):
    with pytest.raises(ConfigError, match="270 rows"):
        give_rows(random_model("llama"), [(0,), (270,)])
