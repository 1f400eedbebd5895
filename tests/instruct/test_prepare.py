"""Conversations become examples: cut at whole turns, bad ones counted, rows of a batch blind to each other."""

import math

import numpy as np
import pytest
import torch
from families import chatml_tokenizer, sentencepiece_like, sums, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from distillaw.errors import ConfigError, DataError
from distillaw.instruct.conversations import Conversation, conversation_hash
from distillaw.instruct.masks import Masker, choose_template
from distillaw.instruct.prepare import Pair, prepare_pairs, prepare_sides
from distillaw.instruct.stages import Collator, check_packing, preference_figures, score_examples, training_rows
from distillaw.instruct.start import keep_lines
from distillaw.models.teacher import check_documents_apart
from distillaw.runs.files import append_json_lines, read_json_lines


@pytest.fixture(scope="module")
def masker():
    tokenizer = chatml_tokenizer()
    choose_template(tokenizer, "chatml", model="tiny")
    return Masker(tokenizer)


def talk(*texts, **more):
    roles = ("user", "assistant")
    messages = tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))
    return Conversation(messages=messages, where=f"chats.jsonl, about {texts[0]}", **more)


def prepared(conversations, masker, max_tokens=64, **more):
    return prepare_sides(conversations, masker, max_tokens=max_tokens, validation=0.2, **more)


SOME = [talk(f"Hello {i}", "I am fine.") for i in range(30)]


def test_long_conversations_lose_whole_trailing_turns(masker):
    long = talk("What is two?", "Two.", "How are you?", "I am fine.", "thank you", "word " * 60)
    sides = prepared([*SOME, long], masker)
    whole = masker.mask(talk(*(each["content"] for each in long.messages[:4])))
    (found,) = (e for e in (*sides.train, *sides.heldout) if e.opening == conversation_hash(long.opening))
    assert found.ids == tuple(whole.ids[: whole.turns[-1].end]) and sides.account.shortened == 1
    assert found.answer_tokens == sum(turn.end - turn.start for turn in whole.turns)
    assert max(len(e.ids) for e in sides.train) <= 64


def test_what_cannot_be_used_is_counted_and_the_first_is_named(masker):
    bad = [
        talk("tell", "all<|im_end|>"),
        talk("one", "word " * 90),
        talk("cut", "off", truncated=True),
        talk("empty", " "),
        SOME[0],
    ]
    account = prepared([*SOME, *bad], masker).account
    assert account.read == 35 and account.skipped == {
        "cannot be rendered or masked": 1,
        "first answer ends beyond 64 tokens": 1,
        "answer cut off": 1,
        "an answer is empty": 1,
        "said before, word for word": 1,
    }
    assert "about tell: the assistant's text holds the control token" in str(account)
    kept = prepared([*SOME, bad[2]], masker, keep_truncated=True).account
    assert not kept.skipped
    with pytest.raises(DataError, match="4 of 34 conversations cannot be rendered"):
        prepared([*SOME, *(talk(f"tell {i}", "<|im_end|>") for i in range(4))], masker)
    with pytest.raises(DataError, match="nothing to train on: 1 conversations; 1 left out: first answer ends beyond"):
        prepared([bad[1]], masker)


@pytest.fixture(scope="module")
def examples(masker):
    conversations = [Conversation(messages=tuple(row["messages"]), where=str(i)) for i, row in enumerate(sums(40))]
    return prepared(conversations, masker).train


def batch_loss(model, batch):
    """Sum of -ln p of the labels of each batch, by a plain forward pass."""
    labels = batch.pop("labels")
    logits = model(**batch, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").item()


@torch.no_grad()
def test_packed_conversations_have_the_loss_they_have_alone(masker, examples):
    model = tiny_model(chatml_tokenizer(), seed=3).eval()
    alone = score_examples(model, examples).loss_sum
    packed = training_rows(examples, packing=True, max_tokens=96)
    assert len(packed) < len(examples) / 2 and sum(map(sum, packed["seq_lengths"])) == sum(len(e.ids) for e in examples)
    assert sum(sum(t >= 0 for t in row) for row in packed["labels"]) == sum(e.answer_tokens for e in examples)
    by_ids = {tuple(e.ids): loss for e, loss in zip(examples, alone, strict=True)}
    for row in packed:
        expected, place = 0.0, 0
        for length in row["seq_lengths"]:
            expected += by_ids[tuple(row["input_ids"][place : place + length])]
            place += length
        assert batch_loss(model, Collator(pad=2, packed=True)([row])) == pytest.approx(expected, rel=1e-5)
    whole = batch_loss(model, Collator(pad=2, packed=True)(list(packed)))  # padded to the longest row
    assert whole == pytest.approx(alone.sum(), rel=1e-5)
    plain = training_rows(examples, packing=False, max_tokens=96)
    assert batch_loss(model, Collator(pad=2, packed=False)(list(plain))) == pytest.approx(alone.sum(), rel=1e-5)


def test_a_model_that_keeps_conversations_apart_may_pack_them():
    check_packing(tiny_model(chatml_tokenizer()))


@pytest.mark.parametrize(
    ("kind", "more"), [("mamba", {}), ("opt", {"ffn_dim": 64, "num_attention_heads": 2, "word_embed_proj_dim": 32})]
)
def test_a_model_that_looks_across_is_refused_packing_and_document_masks(kind, more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64, **more}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    with pytest.raises(ConfigError, match=rf"--packing: in this model \({kind}\)"):
        check_packing(model)
    with pytest.raises(ConfigError, match=rf"of this kind \({kind}\) sees the document before"):
        check_documents_apart("m", model.eval(), 0)


def test_pairs_share_their_prompt_and_only_answers_are_scored():
    tokenizer = sentencepiece_like()
    choose_template(tokenizer, "minichat", model="tiny")
    asked = [({"role": "user", "content": f"What is {i}?"},) for i in range(30)]
    pairs = [Pair(prompt=a, chosen="A number.", rejected=f"你 {i}", where="x") for i, a in enumerate(asked)]
    same = Pair(prompt=asked[0], chosen="Yes ", rejected="Yes", where="x")
    sides = prepare_pairs(iter([*pairs, same]), Masker(tokenizer), max_tokens=400, validation=0.2)
    assert sides.account.skipped == {"both answers are the same": 1} and len(sides.train) + len(sides.heldout) == 30
    for pair in (*sides.train, *sides.heldout):
        assert tokenizer.decode(pair.prompt).endswith("[|Assistant|]")
        assert tokenizer.decode(pair.chosen) == "A number.</s>" and pair.rejected[-1] == tokenizer.eos_token_id
        assert pair.example(pair.chosen).mask == (False,) * len(pair.prompt) + (True,) * len(pair.chosen)


def test_margins_by_hand():
    policy = np.array([1.0, 2.0, 3.0, 5.0])  # -ln p: two chosen, two rejected
    reference = np.array([2.0, 2.0, 1.0, 6.0])
    found = preference_figures(policy, reference, beta=0.5)
    margins = 0.5 * np.array([(2 - 1) - (1 - 3), (2 - 2) - (6 - 5)])
    assert found["margin"]["mean"] == pytest.approx(margins.mean()) and found["accuracy"]["mean"] == 0.5
    assert found["loss"]["mean"] == pytest.approx(np.mean([math.log1p(math.exp(-m)) for m in margins]))
    assert found["likelier"]["mean"] == 1.0 and found["likelier"]["interval"][1] == pytest.approx(1.0)
    start = preference_figures(reference, reference, beta=0.5)
    assert start["loss"]["mean"] == pytest.approx(math.log(2)) and start["accuracy"]["mean"] == 0.5
    wilson = preference_figures(np.zeros(40), np.r_[np.ones(15), -np.ones(5), np.zeros(20)], beta=1.0)["accuracy"]
    for share in wilson["interval"]:  # the shares from which 15 of 20 are 1.645 standard errors away
        assert abs(0.75 - share) / math.sqrt(share * (1 - share) / 20) == pytest.approx(1.6448536)


def test_a_journal_survives_a_torn_line_and_line_breaks_of_unicode(tmp_path):
    journal = tmp_path / "log.jsonl"
    append_json_lines(journal, [{"step": 1, "text": "a\u2028b\x85c\nd"}, {"step": 2}])
    with journal.open("a") as stream:
        stream.write('{"step": 3, "te')
    assert [row["step"] for row in keep_lines(journal)] == [1, 2]
    append_json_lines(journal, [{"step": 3}])
    assert [row["step"] for row in keep_lines(journal, lambda row: row["step"] != 2)] == [1, 3]
    assert read_json_lines(journal)[0]["text"] == "a\u2028b\x85c\nd" and len(journal.read_text().splitlines()) == 2
