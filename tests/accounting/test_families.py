"""The table of real models: counts against what their makers state, to the last parameter, and names."""

import pytest

from distillaw.accounting.families import families, model, named_models
from distillaw.errors import ConfigError

MODELS = named_models()


@pytest.mark.parametrize("each", MODELS, ids=[each.name for each in MODELS])
class TestEveryModel:
    def test_counts_are_those_that_others_state(self, each):
        assert each.stated_total or each.stated_non_embedding
        assert each.stated_total in (None, each.total_params)
        assert each.stated_non_embedding in (None, each.params)

    def test_states_its_sources(self, each):
        for source in (each.shape_source, each.tokens_source, each.tokenizer_source, each.stated_source):
            assert len(source.text) > 8
            assert source.certainty in ("seen", "recalled")

    def test_tokens_and_their_bound_come_together(self, each):
        assert (each.tokens is None) == (each.tokens_bound is None)
        assert each.tokens_bound in (None, "exact", "about", "at least", "at most")
        assert each.tokens is None or 1e11 < each.tokens < 1e14

    def test_every_token_has_a_row(self, each):
        assert each.tokenizer_size <= each.vocab < 1.01 * each.tokenizer_size + 128

    def test_forward_flop_are_near_two_per_parameter(self, each):
        head = each.vocab * each.architecture.width
        assert each.flops_per_token(512) == pytest.approx(2 * (each.params + head), rel=0.08)
        assert each.flops_per_token() > each.flops_per_token(512) or each.architecture.context == 512


def test_a_tokenizer_has_one_size():
    sizes: dict[str, int] = {}
    for each in MODELS:
        assert sizes.setdefault(each.tokenizer, each.tokenizer_size) == each.tokenizer_size


@pytest.mark.parametrize(
    ("billions", "name"),  # as printed by the model cards: (all, without embeddings), digits as there
    [((7.61, 6.53), "Qwen2.5-7B"), ((0.49, 0.36), "Qwen2.5-0.5B"), ((0.6, 0.44), "Qwen3-0.6B-Base")],
)
def test_non_embedding_counts_of_the_qwen_cards(billions, name):
    each = model(name)
    assert each.total_params / 1e9 == pytest.approx(billions[0], abs=0.0057)  # 7.6156 is printed as 7.61
    assert each.params / 1e9 == pytest.approx(billions[1], abs=0.005)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("pythia-1.4b", "pythia-1.4b"),
        ("Pythia 1.4B", "pythia-1.4b"),
        ("EleutherAI/pythia-1.4b", "pythia-1.4b"),
        ("llama_3.1_8b", "Llama-3.1-8B"),
        ("Meta-Llama-3-8B", "Llama-3-8B"),
        ("allenai/OLMo-2-1124-7B", "OLMo-2-7B"),
    ],
)
def test_names_are_found_however_they_are_written(spelling, name):
    assert model(spelling).name == name


def test_families_are_ordered_by_size():
    assert len(families()) == 12
    for family in families().values():
        sizes = [each.params for each in family.models]
        assert sizes == sorted(sizes)


def test_a_family_is_not_a_model():
    with pytest.raises(ConfigError, match=r"'qwen2.5' is a family.*Qwen2.5-0.5B, Qwen2.5-1.5B"):
        model("qwen2.5")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"near it: Llama-3.1-8B"):
        model("lama-3.1-8b")
    with pytest.raises(ConfigError, match=r"near it: Qwen3-8B-Base"):  # the 8B before another Qwen3
        model("qwen3-8b")
    with pytest.raises(ConfigError, match=r"families: gpt-2, pythia"):
        model("zzz")
