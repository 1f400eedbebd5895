"""Candidate teachers on the user's text: against plain loops, closed forms and the bootstrap."""

import json
import math

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillaw.data.corpus import Reading, read_excerpt
from distillaw.data.tokenizer import start_token, train_tokenizer
from distillaw.errors import CacheError, ConfigError, DataError, DistillawWarning
from distillaw.evaluate import scout
from distillaw.evaluate.scout import difference, scout_teachers


def plain_nats(folder, documents, *, context, stride):
    """Sum of -ln p over each document, window after window, each token seeing what the window rule lets it see."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sums = []
    for document in documents:
        ids = [tokenizer.eos_token_id, *tokenizer(document, add_special_tokens=False)["input_ids"]]
        total, last = 0.0, 0
        while last < len(ids) - 1:
            before, last = last, min(last + (stride if last else context), len(ids) - 1)
            first = max(0, last - context)
            with torch.no_grad():
                log_probs = torch.log_softmax(model(torch.tensor([ids[first:last]])).logits[0], -1)
            total -= sum(log_probs[at - 1 - first, ids[at]].item() for at in range(before + 1, last + 1))
        sums.append(total)
    return np.array(sums)


@pytest.mark.parametrize("stride", [16, 5])
def test_bits_per_byte_of_two_tokenizers_equal_a_plain_loop(pair, text, stride):
    found = scout_teachers(pair, text, max_bytes=2500, context=16, stride=stride)
    documents = read_excerpt(text, max_bytes=2500).documents
    size = sum(len(each.encode()) for each in documents)
    assert len(documents) > 5
    assert size > sum(map(len, documents))  # some of it takes two bytes a character
    for folder, each in zip(pair, found, strict=True):
        nats = plain_nats(folder, documents, context=16, stride=stride)
        np.testing.assert_allclose(each.scores.loss_sum, nats, rtol=1e-5)
        tokens = sum(len(ids) for ids in AutoTokenizer.from_pretrained(folder)(documents)["input_ids"])
        assert (each.tokens, each.bytes) == (tokens, size)
        assert each.bits_per_byte == pytest.approx(nats.sum() / math.log(2) / size, rel=1e-6)
        assert each.nats_per_token == pytest.approx(nats.sum() / tokens, rel=1e-6)
    assert found[0].bytes_per_token != found[1].bytes_per_token


def test_a_uniform_model_costs_log_v_a_token_whatever_its_tokenizer(candidate, text):
    folders = [candidate(f"uniform-{vocab}", vocab, uniform=True) for vocab in (260, 290)]
    for vocab, each in zip((260, 290), scout_teachers(folders, text), strict=True):
        assert each.vocab == vocab
        assert each.nats_per_token == pytest.approx(math.log(vocab), rel=1e-6)
        assert each.bits_per_byte == pytest.approx(math.log2(vocab) / each.bytes_per_token, rel=1e-6)


def test_padding_and_batches_change_nothing(pair, text, monkeypatch):
    together = scout_teachers(pair[:1], text, context=16)[0]
    monkeypatch.setattr("distillaw.models.scoring.BATCH_TOKENS", 1)
    alone = scout_teachers(pair[:1], text, context=16)[0]
    np.testing.assert_allclose(together.scores.loss_sum, alone.scores.loss_sum, rtol=1e-5)


def test_standard_errors_agree_with_the_bootstrap_over_documents(pair, text):
    first, second = scout_teachers(pair, text)
    assert first.documents == 60
    picks = np.random.default_rng(1).integers(0, 60, (6000, 60))
    size = first.scores.tokens[picks].sum(1)
    bits = [each.scores.loss_sum[picks].sum(1) / size / math.log(2) for each in (first, second)]
    assert first.bits_per_byte_se == pytest.approx(bits[0].std(), rel=0.1)
    gap = difference(first, second)
    assert gap.mean == pytest.approx(first.bits_per_byte - second.bits_per_byte, rel=1e-9)
    assert gap.se == pytest.approx((bits[0] - bits[1]).std(), rel=0.1)
    assert gap.se < math.hypot(first.bits_per_byte_se, second.bits_per_byte_se)  # they share the documents
    back = difference(second, first)
    assert (back.mean, back.se) == (-gap.mean, gap.se)


def test_sizes_and_shared_tokenizers(pair, candidate, text):
    twin = candidate("twin", 270, params=3e4)
    small, large, other = scout_teachers([*pair, twin], text, max_bytes=3000)
    assert small.same_tokenizer_as == (str(twin),) and other.same_tokenizer_as == (str(pair[0]),)
    assert large.same_tokenizer_as == ()
    assert small.tokenizer == other.tokenizer != large.tokenizer
    module = AutoModelForCausalLM.from_pretrained(pair[1])
    assert large.total_params == sum(p.numel() for p in module.parameters())
    assert large.params == large.total_params - 2 * 300 * module.config.hidden_size


class TestStartToken:
    def test_is_the_one_that_the_tokenizer_puts_first(self, pair, tmp_path):
        tokenizer = AutoTokenizer.from_pretrained(pair[0])
        from tokenizers.processors import TemplateProcessing

        tokenizer.bos_token = "a"  # a token other than the end of text
        tokenizer._tokenizer.post_processor = TemplateProcessing(
            single="a $A", special_tokens=[("a", tokenizer.bos_token_id)]
        )
        assert tokenizer.bos_token_id != tokenizer.eos_token_id
        assert start_token("m", tokenizer) == tokenizer.bos_token_id

    def test_is_the_end_of_text_otherwise(self, pair):
        tokenizer = AutoTokenizer.from_pretrained(pair[0])
        assert start_token("m", tokenizer) == tokenizer.eos_token_id

    def test_must_exist(self, pair):
        tokenizer = AutoTokenizer.from_pretrained(pair[0])
        tokenizer.bos_token = tokenizer.eos_token = None
        with pytest.raises(ConfigError, match="neither an end-of-text nor a start token"):
            start_token("m", tokenizer)


def test_a_tokenizer_that_loses_text_is_named(candidate, documents, text):
    tokenizer = train_tokenizer(documents, vocab_size=270)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    folder = candidate("lossy", 270, tokenizer=tokenizer)
    with pytest.warns(DistillawWarning, match="does not give back .* of .* documents"):
        scout_teachers([folder], text, max_bytes=3000)


class TestCache:
    def test_the_same_model_and_text_are_measured_once(self, pair, text, tmp_path, monkeypatch):
        said = []
        first = scout_teachers(pair, text, max_bytes=2000, out=tmp_path)
        monkeypatch.setattr(scout, "load_teacher", None)
        again = scout_teachers(pair, text, max_bytes=2000, out=tmp_path, say=said.append)
        for one, two in zip(first, again, strict=True):
            assert (one.is_cached, two.is_cached) == (False, True)
            assert (one.bits_per_byte, one.bits_per_byte_se) == (two.bits_per_byte, two.bits_per_byte_se)
            assert (one.params, one.tokenizer, one.tokens) == (two.params, two.tokenizer, two.tokens)
        assert sum("measured before" in line for line in said) == 2
        assert len(list(tmp_path.glob("*.json"))) == 2

    @pytest.mark.parametrize("change", [{"max_bytes": 2500}, {"context": 8}, {"stride": 4}])
    def test_another_question_is_measured_anew(self, pair, text, tmp_path, change):
        scout_teachers(pair[:1], text, out=tmp_path, **{"max_bytes": 2000, "context": 16})
        (new,) = scout_teachers(pair[:1], text, out=tmp_path, **({"max_bytes": 2000, "context": 16} | change))
        assert not new.is_cached

    def test_other_weights_are_measured_anew(self, candidate, text, tmp_path):
        folder = candidate("changing", 270)
        (old,) = scout_teachers([folder], text, max_bytes=2000, out=tmp_path)
        candidate("changing", 270, params=3e4)
        (new,) = scout_teachers([folder], text, max_bytes=2000, out=tmp_path)
        assert not new.is_cached and new.fingerprint != old.fingerprint

    def test_what_was_measured_before_an_interruption_is_kept(self, pair, text, tmp_path, monkeypatch):
        real = scout.load_teacher

        def dies(source, *args, **kwargs):
            if source.name == str(pair[1]):
                raise KeyboardInterrupt
            return real(source, *args, **kwargs)

        monkeypatch.setattr(scout, "load_teacher", dies)
        with pytest.raises(KeyboardInterrupt):
            scout_teachers(pair, text, max_bytes=2000, out=tmp_path)
        monkeypatch.setattr(scout, "load_teacher", real)
        found = scout_teachers(pair, text, max_bytes=2000, out=tmp_path)
        assert [each.is_cached for each in found] == [True, False]

    def test_a_damaged_result_is_named(self, pair, text, tmp_path):
        scout_teachers(pair[:1], text, max_bytes=2000, out=tmp_path)
        (file,) = tmp_path.glob("*.json")
        file.write_text(file.read_text()[:40])
        with pytest.raises(CacheError, match=r"damaged, not JSON.*Delete it"):
            scout_teachers(pair[:1], text, max_bytes=2000, out=tmp_path)


class TestExcerpt:
    def test_is_what_sorting_by_hash_gives_within_the_budget(self, text, documents):
        import hashlib

        order = sorted(set(documents), key=lambda each: hashlib.sha256(each.encode()).digest())
        ends = np.cumsum([len(each.encode()) for each in order])
        for budget in range(700, int(ends[-1]) + 200, 397):
            chosen = read_excerpt(text, max_bytes=budget)
            assert chosen.documents == order[: int((ends <= budget).sum())]
            assert sum(chosen.bytes_per_document) <= budget
        assert read_excerpt(text).documents == order

    def test_does_not_depend_on_the_order_or_repeats_of_documents(self, text, documents, tmp_path):
        other = tmp_path / "other.jsonl"
        other.write_text("".join(json.dumps({"text": each}) + "\n" for each in [*documents[::-1], documents[3]]))
        assert read_excerpt(other, max_bytes=3000) == read_excerpt(text, max_bytes=3000)
        assert read_excerpt(other, max_bytes=2000).text_hash != read_excerpt(text, max_bytes=3000).text_hash

    def test_beginnings_of_documents(self, text):
        assert max(map(len, read_excerpt(text, Reading(max_document_chars=20)).documents)) == 20


class TestErrors:
    def test_texts(self, pair, text, tmp_path):
        (tmp_path / "empty.txt").write_text("  \n")
        with pytest.raises(DataError, match="0 documents with text"):
            scout_teachers(pair, tmp_path / "empty.txt")
        (tmp_path / "one.txt").write_text("one document\n" * 50)
        with pytest.raises(DataError, match=r"1 document with text.*--section-chars 4000"):
            scout_teachers(pair, tmp_path / "one.txt")
        assert len(scout_teachers(pair[:1], tmp_path / "one.txt", Reading(section_chars=100))) == 1
        with pytest.raises(ConfigError, match="no such file"):
            scout_teachers(pair, tmp_path / "none.txt")
        with pytest.raises(ConfigError, match=r"--max-bytes 50: fewer than two.*60 documents.*--max-document-chars"):
            scout_teachers(pair, text, max_bytes=50)

    def test_models(self, pair, text, tmp_path):
        with pytest.raises(CacheError, match="no such model here"):
            scout_teachers([pair[0], tmp_path / "nothing" / "here"], text)
        with pytest.raises(ConfigError, match="given twice"):
            scout_teachers([pair[0], pair[0].parent / "." / pair[0].name], text)
        with pytest.raises(ConfigError, match="no candidate"):
            scout_teachers([], text)

    def test_windows(self, pair, text):
        with pytest.raises(ConfigError, match=r"--context 64: .*sees 32 tokens at most"):
            scout_teachers(pair, text, context=64)
        with pytest.raises(ConfigError, match="--stride 40: it lies between 1 and the context, 32"):
            scout_teachers(pair, text, stride=40)
        with pytest.raises(ConfigError, match="--context 0"):
            scout_teachers(pair, text, context=0)

    def test_the_context_is_what_the_shortest_candidate_allows(self, pair, candidate, text):
        longer = candidate("longer", 280, context=128)
        found = scout_teachers([pair[0], longer], text, max_bytes=2000)
        assert {each.context for each in found} == {32}
        assert scout_teachers([longer], text, max_bytes=2000)[0].context == 128
