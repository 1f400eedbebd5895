"""Chat masks token by token, for nine families of templates and five kinds of tokenizers."""

import pytest
from families import (
    byte_level,
    chatml_tokenizer,
    cohere_tokenizer,
    deepseek_tokenizer,
    gemma_tokenizer,
    llama3_tokenizer,
    phi3_tokenizer,
    published,
    qwen_tokenizer,
    sentencepiece_like,
    space_first,
)

from distillaw.errors import ConfigError, DataError
from distillaw.instruct.conversations import Conversation
from distillaw.instruct.masks import Masker, choose_template, template_names

TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello! How are you?"},
    {"role": "assistant", "content": "I am fine."},
    {"role": "user", "content": "thank you"},
    {"role": "assistant", "content": "Naïve 你好 🙂"},
)
ODD = (
    {"role": "user", "content": "  What is two and two? \n"},
    {"role": "assistant", "content": " 你 four\n\nare two \n"},
)
LLAMA2 = (
    "{%- for m in messages -%}{%- if m['role'] == 'user' -%}"
    "{{- bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' -}}"
    "{%- elif m['role'] == 'assistant' -%}{{- ' ' + m['content'].strip() + ' ' + eos_token -}}"
    "{%- endif -%}{%- endfor -%}"
)
FAMILIES = {
    "chatml": (chatml_tokenizer, "chatml"),
    "llama3": (llama3_tokenizer, "llama3"),
    "minichat": (sentencepiece_like, "minichat"),
    "zephyr": (sentencepiece_like, "zephyr"),
    "zephyr-bytes": (llama3_tokenizer, "zephyr"),
    "minichat-bytes": (llama3_tokenizer, "minichat"),
}
PUBLISHED = {
    "cohere": cohere_tokenizer,
    "deepseekv3": deepseek_tokenizer,
    "gemma": gemma_tokenizer,
    "llama3": llama3_tokenizer,
    "phi3": phi3_tokenizer,
    "qwen2_5": qwen_tokenizer,
}
"""Templates as the models ship them, by their names in TRL."""
FAMILIES |= {f"{name}-published": (make, str(published(name))) for name, make in PUBLISHED.items()}


def masker(family):
    make, template = FAMILIES[family]
    tokenizer = make()
    choose_template(tokenizer, template, model="tiny")
    return tokenizer, Masker(tokenizer)


def marked(tokenizer, found):
    """The assistant's tokens of each turn, as the vocabulary writes them."""
    return [tokenizer.convert_ids_to_tokens(found.ids[turn.start : turn.end]) for turn in found.turns]


def mask(masker, messages):
    return masker.mask(Conversation(messages=messages, where="chats.jsonl, line 7"))


@pytest.mark.parametrize(
    ("family", "tokens", "mask_of"),
    [
        (
            "chatml",
            "<|im_start|> user Ċ Hello ! ĠHow Ġare Ġyou ? <|im_end|> Ċ "
            "<|im_start|> assistant Ċ I Ġam Ġfine . <|im_end|> Ċ",
            [False] * 14 + [True] * 5 + [False],
        ),
        (
            "llama3",
            "<|begin_of_text|> <|start_header_id|> user <|end_header_id|> Ċ Ċ Hello ! ĠHow Ġare Ġyou ? <|eot_id|> "
            "<|start_header_id|> assistant <|end_header_id|> Ċ Ċ I Ġam Ġfine . <|eot_id|>",
            [False] * 18 + [True] * 5,
        ),
        (
            "gemma-published",
            "<bos> <start_of_turn> user <0x0A> H el lo! ▁How ▁are ▁you ? <end_of_turn> <0x0A> "
            "<start_of_turn> m o d el <0x0A> I ▁am ▁f in e . <end_of_turn> <0x0A>",
            [False] * 19 + [True] * 7 + [False],
        ),
        (
            "phi3-published",  # its control tokens take the line's end after them
            "<|user|> ▁Hel lo! ▁How ▁are ▁you ? <|end|> <|assistant|> ▁I ▁am ▁f in e . <|end|> <|endoftext|>",
            [False] * 9 + [True] * 7 + [False],
        ),
        (
            "cohere-published",
            "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|USER_TOKEN|> Hello ! ĠHow Ġare Ġyou ? <|END_OF_TURN_TOKEN|> "
            "<|START_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> I Ġam Ġfine . <|END_OF_TURN_TOKEN|>",
            [False] * 12 + [True] * 5,
        ),
        (
            "deepseekv3-published",
            "<｜begin▁of▁sentence｜> <｜User｜> Hello ! ĠHow Ġare Ġyou ? "
            "<｜Assistant｜> I Ġam Ġfine . <｜end▁of▁sentence｜>",
            [False] * 9 + [True] * 5,
        ),
    ],
)
def test_token_by_token(family, tokens, mask_of):
    tokenizer, masks = masker(family)
    found = mask(masks, TALK[1:3])
    assert tokenizer.convert_ids_to_tokens(found.ids) == tokens.split()
    assert found.mask == mask_of


def test_minichat_token_by_token_and_piece_by_piece():
    """In the reference each piece is tokenised on its own: the space after the marker is SentencePiece's."""
    tokenizer, masks = masker("minichat")
    found = mask(masks, TALK)

    def piece(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    expected, learnt = [bos, *piece("Be brief."), eos], []
    for question, answer in ((TALK[1], TALK[2]), (TALK[3], TALK[4])):
        expected += [*piece(f"[|User|] {question['content']}"), eos, *piece("[|Assistant|]")]
        learnt.append((len(expected), len(expected) + len(piece(answer["content"])) + 1))
        expected += [*piece(answer["content"]), eos]
    assert found.ids == expected
    assert [(turn.start, turn.end) for turn in found.turns] == learnt
    assert marked(tokenizer, found)[1][0] == "▁"  # the model's own to write: the prompt ends without a space
    assert masks.render(TALK[1:2], prompt=True).text.endswith("[|User|] Hello! How are you?</s>[|Assistant|]")
    assert masks.render(TALK[1:2]).text.startswith("<s>‘MiniChat’是一个由‘Beccurio’开发的AI语言模型。")


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_what_is_learnt_is_what_trl_marks_in_the_published_template(family):
    """Its `_training` version marks answers by hand; it learns what follows the end token too."""
    tokenizer, masks = masker(f"{family}-published")
    found = mask(masks, TALK[1:])
    tokenizer.chat_template = published(f"{family}_training").read_text()
    theirs = tokenizer.apply_chat_template(list(TALK[1:]), return_dict=True, return_assistant_tokens_mask=True)
    assert found.ids == theirs["input_ids"]
    marked = [bool(learnt) for learnt in theirs["assistant_masks"]]
    for i, learnt in enumerate(found.mask):
        if marked[i] and not learnt:
            marked[i] = tokenizer.decode([found.ids[i]]) not in ("\n", "<|endoftext|>", "<｜Assistant｜>")
    assert found.mask == marked


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("talk", [TALK, TALK[1:], TALK[1:3], ODD])
def test_masked_tokens_say_the_answers_and_their_end_and_nothing_else(family, talk):
    tokenizer, masks = masker(family)
    if "gemma" in family and talk[0]["role"] == "system":
        with pytest.raises(DataError, match=r"refuses it .*System role not supported"):
            mask(masks, talk)
        return
    found = mask(masks, talk)
    answers = [each["content"] for each in talk if each["role"] == "assistant"]
    assert len(found.turns) == len(answers)
    for turn, answer in zip(found.turns, answers, strict=True):
        ids = found.ids[turn.start : turn.end]
        assert ids[-1] == masks.end_token() and masks.end_token() not in ids[:-1]
        assert tokenizer.decode(ids[:-1]).strip() == answer.strip()
    rest = [i for i, learnt in zip(found.ids, found.mask, strict=True) if not learnt]
    for answer in answers:
        assert answer.strip() not in tokenizer.decode(rest)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_precedes_an_answer_is_the_prompt_for_it(family):
    """So the model learns to go on from exactly the tokens that it is given later."""
    tokenizer, masks = masker(family)
    first = 1 if "gemma" in family else 0  # it takes no system line
    opens = tokenizer("<think>\n")["input_ids"] if "deepseek" in family else []  # a prompt that begins a thought
    found = mask(masks, TALK[first:])
    for turn, messages in zip(found.turns, (TALK[first:2], TALK[first:4]), strict=True):
        assert [*found.ids[: turn.start], *opens] == masks.prompt_ids(messages)


def test_the_mask_is_that_of_generation_marks_where_a_template_has_them():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' -}}{%- if m['role'] == 'assistant' -%}"
        "{%- generation -%}{{- m['content'] + '<|im_end|>' -}}{%- endgeneration -%}{%- else -%}"
        "{{- m['content'] + '<|im_end|>' -}}{%- endif -%}{{- '\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )
    theirs = tokenizer.apply_chat_template(list(TALK), return_dict=True, return_assistant_tokens_mask=True)
    found = mask(Masker(tokenizer), TALK)
    assert found.ids == theirs["input_ids"] and found.mask == [bool(m) for m in theirs["assistant_masks"]]


def test_a_template_without_prompt_for_generation_that_strips_and_adds_spaces():
    tokenizer = sentencepiece_like()
    tokenizer.chat_template = LLAMA2
    found = mask(Masker(tokenizer), (*ODD, *TALK[1:3]))
    first, second = marked(tokenizer, found)
    assert first[0] == "▁" and first[-1] == second[-1] == "</s>" and second[0] == "▁"
    assert tokenizer.decode(found.ids[found.turns[0].start : found.turns[0].end - 1]).strip() == "你 four\n\nare two"


def test_a_template_that_moves_the_system_line_is_followed():
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = (  # as Mistral's: the system line stands in the last question
        "{%- for m in messages -%}{%- if m['role'] == 'user' -%}{{- 'user:' -}}"
        "{%- if loop.index0 == messages|length - 2 and messages[0]['role'] == 'system' -%}"
        "{{- messages[0]['content'] + ' ' -}}{%- endif -%}{{- m['content'] -}}"
        "{%- elif m['role'] == 'assistant' -%}{{- 'answer:' + m['content'] + eos_token -}}{%- endif -%}{%- endfor -%}"
    )
    found = mask(Masker(tokenizer), TALK)
    said = [tokenizer.decode(found.ids[turn.start : turn.end]) for turn in found.turns]
    assert said == ["I am fine.<|im_end|>", "Naïve 你好 🙂<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "talk", "said"),
    [
        ("{{ messages[0]['content'] }}", TALK[1:3], "writes the assistant's message 0 times"),
        (
            "{% for m in messages %}{{ m['content'] | upper }}{{ eos_token }}{% endfor %}",
            TALK[1:3],
            "changes a message",
        ),
        ("{% for m in messages %}{{ m['content'] }} ## {% endfor %}", TALK[1:3], "would not learn to stop"),
        ("{{ raise_exception('no system line') }}", TALK, "refuses it (no system line)"),
    ],
)
def test_a_template_that_cannot_be_masked_names_the_conversation(template, talk, said):
    tokenizer = chatml_tokenizer()
    good = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    tokenizer.chat_template = good
    masks = Masker(tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(DataError) as told:
        mask(masks, talk)
    assert "chats.jsonl, line 7" in str(told.value) and said in str(told.value)


@pytest.mark.parametrize(
    "family", ["chatml", "llama3", "zephyr", "minichat-bytes", "gemma-published", "phi3-published", "cohere-published"]
)
def test_what_a_user_spells_is_text(family):
    """A message that spells every control token has the tokens of any other, and one that ends a turn ends none."""
    tokenizer, masks = masker(family)
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    spelt = "".join(tokenizer.decode([i]) for i in sorted(special))
    plain, odd = ([{"role": "user", "content": f"Hello{text}!"}, TALK[2]] for text in ("", spelt))
    found = mask(masks, tuple(odd))
    assert [i for i in found.ids if i in special] == [i for i in mask(masks, tuple(plain)).ids if i in special]
    assert f"Hello{spelt}!" in tokenizer.decode(found.ids)
    assert marked(tokenizer, found) == marked(tokenizer, mask(masks, tuple(plain)))
    prompts = [masks.prompt_ids(talk[:1]) for talk in (plain, odd)]
    assert len({sum(i in special for i in ids) for ids in prompts}) == 1 and len(prompts[1]) > len(prompts[0])


def test_a_spelling_changes_no_token_of_other_messages():
    """A tokenizer that puts a space before a text, but not after a special token, does so around spellings too."""
    tokenizer = space_first()
    choose_template(tokenizer, "chatml", model="tiny")
    masks = Masker(tokenizer)
    plain, odd = (
        mask(masks, (*TALK[1:3], {"role": "user", "content": said}, {"role": "assistant", "content": "Hello"}))
        for said in ("thank you", "thank <s>you")
    )
    assert marked(tokenizer, odd) == marked(tokenizer, plain)
    turns = [tokenizer.decode(found.ids).split("<|im_end|>") for found in (plain, odd)]
    assert turns[0][:2] == turns[1][:2] and turns[0][3:] == turns[1][3:]
    assert turns[1][2] == turns[0][2].replace("you", "<s>you")


def test_a_message_may_hold_any_character():
    """Also those of the signs that hide what it spells: neither half a sign nor one that says nothing is an error."""
    tokenizer, masks = masker("chatml")
    for odd in ("\ue0f2abc\ue0f3", "\ue0f2ff\ue0f3", "\ue0f2", "\ue0f3<|im_end|>\ue0f2"):
        found = mask(masks, ({"role": "user", "content": f"Hello{odd}!"}, TALK[2]))
        assert f"Hello{odd}!" in tokenizer.decode(found.ids)


def test_text_that_cannot_be_an_answer_names_the_conversation():
    _, masks = masker("chatml")
    for talk, said in (
        ((TALK[1], {"role": "assistant", "content": " \n"}), "an answer is empty"),
        ((TALK[1], {"role": "assistant", "content": "stop<|im_end|>now"}), "control token '<|im_end|>'"),
    ):
        with pytest.raises(DataError, match="line 7: ") as told:
            mask(masks, talk)
        assert said in str(told.value)


def test_a_tokenizer_that_cannot_write_an_answer_is_found_out():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "b": 3, "yes": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' + eos_token + ' ' }}{% endfor %}"
    masks = Masker(tokenizer)
    assert mask(masks, (TALK[1], {"role": "assistant", "content": "yes"})).turns
    with pytest.raises(DataError, match="cannot write this text"):
        mask(masks, (TALK[1], {"role": "assistant", "content": "never"}))


def test_templates_are_chosen_or_named():
    assert template_names() == ["chatml", "llama3", "minichat", "zephyr"]
    bare = byte_level(["<|endoftext|>"], eos="<|endoftext|>")
    with pytest.raises(ConfigError, match=r"no chat template.*--template: chatml, llama3, minichat, zephyr"):
        choose_template(bare, None, model="tiny")
    with pytest.raises(ConfigError, match=r"lacks <\|im_end\|>, <\|im_start\|>; minichat and zephyr need only"):
        choose_template(bare, "chatml", model="tiny")
    with pytest.raises(ConfigError, match="did you mean 'chatml'"):
        choose_template(bare, "chtml", model="tiny")
    assert choose_template(bare, "zephyr", model="tiny") == "zephyr" and choose_template(bare, None, model="t") == "own"


def test_a_template_from_a_file(tmp_path):
    tokenizer = sentencepiece_like()
    (tmp_path / "mine.jinja").write_text(LLAMA2)
    choose_template(tokenizer, str(tmp_path / "mine.jinja"), model="tiny")
    assert Masker(tokenizer).end_token() == tokenizer.eos_token_id
    with pytest.raises(ConfigError, match="cannot be read"):
        choose_template(tokenizer, str(tmp_path / "none.jinja"), model="tiny")
