"""Tokenizers with more or fewer pieces: what is promised of old text, of any text, and of the pieces themselves."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from distillaw.data.bpe import (
    adopt_pieces,
    byte_alphabet,
    count_pieces,
    is_chinese,
    learn_pieces,
    read_bpe,
    rebuilt,
    trim_pieces,
)
from distillaw.data.tokenizer import train_tokenizer
from distillaw.errors import ConfigError, DataError

ENGLISH = [
    "the teacher speaks and the student listens, then the student speaks",
    "a student of the teacher's is patient; the law of the gap was never the teacher's law",
    "in 1848 and 1861 the house, the senate and 12 others met; peace and commerce\n\tand revenue",
] * 3
CHINESE = [
    "老师说话，学生听。学生说话，老师听。老师和学生都说话。2024年老师说话。",
    "今天天气很好，我们去公园。明天天气不好，我们不去公园，学生去学校。",
] * 2


def _llama() -> LlamaTokenizer:
    """As Llama 2's: SentencePiece pieces, byte fallback, no splitting at spaces."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=140, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: i for i, piece in enumerate([*special, *model["vocab"]])}
    return LlamaTokenizer(vocab=vocabulary, merges=[tuple(m) for m in model["merges"]], add_bos_token=True)


def _llama3() -> PreTrainedTokenizerFast:
    """As Llama 3's: whole words before merges, and special tokens after the pieces that are not among them."""
    whole = json.loads(train_tokenizer(ENGLISH, vocab_size=330).backend_tokenizer.to_str())
    ends = {whole["model"]["vocab"].pop(token["content"]) for token in whole["added_tokens"]}
    assert ends == {0}
    whole["model"]["vocab"] = {p: i - 1 for p, i in whole["model"]["vocab"].items()}
    whole["model"]["ignore_merges"] = True
    size = len(whole["model"]["vocab"])
    whole["added_tokens"] = [
        whole["added_tokens"][0] | {"id": size + i, "content": name} for i, name in enumerate(("<|begin|>", "<|end|>"))
    ]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)),
        bos_token="<|begin|>",
        eos_token="<|end|>",
        clean_up_tokenization_spaces=False,
        chat_template="{{ messages }}",
    )


KINDS = {"gpt2": lambda: train_tokenizer(ENGLISH, vocab_size=330), "llama": _llama, "llama3": _llama3}


@pytest.fixture(params=list(KINDS))
def tokenizer(request, tmp_path):
    """Each kind, as it comes from a folder."""
    KINDS[request.param]().save_pretrained(str(tmp_path / "tokenizer"))
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


ANY = st.text(st.sampled_from("the teachrs spk. 老师说话学生听今天气公园，\n19zé😀書"), max_size=40)
LENIENT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@LENIENT
@given(text=ANY)
def test_a_new_token_is_a_run_of_old_ones_and_nothing_is_lost(tokenizer, text):
    bpe = read_bpe("t", tokenizer)
    grown = learn_pieces(tokenizer, bpe, CHINESE, count=20)
    longer = rebuilt("t", tokenizer, grown.bpe)
    parts = {len(bpe.pieces) + i: piece.parts for i, piece in enumerate(grown.new)}
    old, new = ids(tokenizer, text), ids(longer, text)
    assert [part for i in new for part in parts.get(i, (i,))] == old
    assert text_of(longer, new) == text_of(tokenizer, old)


def test_pieces_are_learnt_from_what_a_text_spells(tokenizer):
    """A spelling of a special token is characters, as in the token stream; the token itself is never a piece."""
    end = tokenizer.eos_token
    grown = learn_pieces(tokenizer, read_bpe("t", tokenizer), [f"{end} {end}"] * 9, count=3)
    made = [grown.bpe.text_of(each.piece) for each in grown.new]
    assert all(text in end and text != end for text in made), made
    assert tokenizer.convert_tokens_to_ids(end) in tokenizer(end, add_special_tokens=False)["input_ids"]


def test_learnt_pieces_shorten_their_text_and_leave_the_old_one(tokenizer):
    bpe = read_bpe("t", tokenizer)
    grown = learn_pieces(tokenizer, bpe, CHINESE, count=20)
    longer = rebuilt("t", tokenizer, grown.bpe)
    assert (
        sorted(grown.bpe.pieces.values()) == list(range(len(bpe.pieces) + 20)) and len(longer) == len(bpe.pieces) + 20
    )
    assert all(ids(longer, text) == ids(tokenizer, text) for text in ENGLISH)
    assert sum(len(ids(longer, t)) for t in CHINESE) < 0.75 * sum(len(ids(tokenizer, t)) for t in CHINESE)
    assert not any(x in "0123456789" for piece in grown.new for x in piece.piece if len(piece.piece) > 1)
    assert longer.bos_token_id == tokenizer.bos_token_id and longer.eos_token_id == tokenizer.eos_token_id
    assert longer("the")["input_ids"] == tokenizer("the")["input_ids"]  # what the tokenizer puts first is still there
    assert longer.chat_template == tokenizer.chat_template


def test_it_is_the_next_merges_that_are_learnt():
    """Independent: the library trained on the whole text in one go gives the same pieces if told where to stop."""
    small, large = (train_tokenizer(ENGLISH, vocab_size=size) for size in (290, 310))
    grown = learn_pieces(small, read_bpe("t", small), ENGLISH, count=20)
    whole = read_bpe("t", large)
    assert set(grown.bpe.merges[:33]) == set(whole.merges[:33])
    shorter = [sum(len(ids(t, text)) for text in ENGLISH) for t in (rebuilt("t", small, grown.bpe), large)]
    assert abs(shorter[0] - shorter[1]) <= 0.03 * shorter[1]


def test_pieces_of_another_tokenizer_are_adopted_whole(tokenizer):
    bpe = read_bpe("t", tokenizer)
    donors = {"bytes": train_tokenizer(CHINESE, vocab_size=330), "sentencepiece": _llama()}
    donor = read_bpe("d", donors["bytes"])
    grown = adopt_pieces(tokenizer, bpe, donor, chinese=True, multiple=8)
    longer = rebuilt("t", tokenizer, grown.bpe)
    wanted = {text for p in donor.pieces if (text := donor.text_of(p)) and is_chinese(text)}
    assert wanted and all("".join(bpe.letters_of(text)) in grown.bpe.pieces for text in wanted)
    for text in wanted:  # and the merges do reach it
        assert len([i for i in ids(longer, text) if i != grown.bpe.pieces.get("▁")]) == 1
    assert all(ids(longer, text) == ids(tokenizer, text) for text in ENGLISH)
    adopted = adopt_pieces(tokenizer, bpe, donor, count=5)
    assert len(adopted.new) <= 5


def test_the_size_is_rounded_up_only_where_it_must_be():
    """The reference script adds a whole block of 64 where the size is a multiple already."""
    tokenizer = train_tokenizer(ENGLISH, vocab_size=300)
    bpe = read_bpe("t", tokenizer)
    counts = count_pieces(tokenizer, ENGLISH)
    exact = len(trim_pieces(bpe, counts).kept)
    assert len(trim_pieces(bpe, counts, multiple=exact).kept) == exact
    assert len(trim_pieces(bpe, counts, multiple=exact - 1).kept) == min(2 * (exact - 1), 300)


@LENIENT
@given(text=ANY)
def test_trimming_loses_no_text_and_keeps_tokens_that_remain(tokenizer, text):
    bpe = read_bpe("t", tokenizer)
    less = trim_pieces(bpe, count_pieces(tokenizer, ENGLISH[:1]))
    shorter = rebuilt("t", tokenizer, less.bpe)
    old, new, moved = ids(tokenizer, text), ids(shorter, text), {o: n for n, o in enumerate(less.kept)}
    assert text_of(shorter, new) == text_of(tokenizer, old)
    if all(i in moved for i in old):
        assert new == [moved[i] for i in old]
    assert len(new) >= len(old)


def test_trimming_keeps_bytes_specials_and_what_pieces_are_made_of(tokenizer):
    bpe = read_bpe("t", tokenizer)
    counts = count_pieces(tokenizer, ENGLISH[:1])
    less = trim_pieces(bpe, counts)
    assert bpe.always_kept <= less.bpe.pieces.keys() and len(less.kept) < len(bpe.pieces)
    assert sorted(less.bpe.pieces.values()) == list(range(len(less.kept)))
    used = {bpe.spelling[i] for i in counts}
    assert used <= less.bpe.pieces.keys()
    shorter = rebuilt("t", tokenizer, less.bpe)
    assert text_of(shorter, [shorter.eos_token_id]) == text_of(tokenizer, [tokenizer.eos_token_id])
    assert text_of(shorter, shorter(ENGLISH[0])["input_ids"]) == text_of(tokenizer, tokenizer(ENGLISH[0])["input_ids"])
    twice = trim_pieces(bpe, counts, min_count=2)
    assert len(twice.kept) < len(less.kept)
    assert len(trim_pieces(bpe, counts, keep=len(less.kept) - 3).kept) == len(less.kept) - 3


def test_gaps_between_ids_are_closed():
    tokenizer = train_tokenizer(ENGLISH, vocab_size=300)
    bpe = read_bpe("t", tokenizer)
    gapped = replace(bpe, pieces={p: i + 50 * (i > 280) for p, i in bpe.pieces.items()})
    kept = trim_pieces(gapped, {i: 1 for i in gapped.pieces.values()})
    assert kept.bpe.pieces == bpe.pieces and max(kept.kept) == 349


def test_the_byte_alphabet_is_that_of_the_library():
    assert set(byte_alphabet().values()) == set(pre_tokenizers.ByteLevel.alphabet())
    coded = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é\n ~€")
    assert coded[0][0] == "".join(byte_alphabet()[byte] for byte in "é\n ~€".encode())


def test_what_cannot_be_done_says_so():
    tokenizer = train_tokenizer(ENGLISH, vocab_size=300)
    bpe = read_bpe("t", tokenizer)
    with pytest.raises(DataError, match="yields"):
        learn_pieces(tokenizer, bpe, ["老师"], count=50)
    with pytest.raises(ConfigError, match=r"--keep 10: the 257 added tokens and bytes stay"):
        trim_pieces(bpe, {}, keep=10)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ConfigError, match="WordLevel"):
        read_bpe("w", words)
