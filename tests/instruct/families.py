"""Small tokenizers of three kinds, trained on a few sentences, and tiny models over them; nothing is downloaded."""

from importlib import resources

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distillaw.models.fresh import build_model
from distillaw.shapes import Shape

TEXT = [
    "What is the capital of France? The capital of France is Paris. ",
    "Hello! How are you today? I am fine, thank you. ",
    "user assistant system [|User|] [|Assistant|] <|user|> <|assistant|> <|system|>\n",
    "Two and two are four. Be brief and kind. Naïve café — 你好，世界 🙂 ",
] * 5


def byte_level(specials, *, bos=None, eos):
    """As GPT-2, Llama 3, Qwen and SmolLM2 have: bytes, no normaliser, spaces inside tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


def sentencepiece_like():
    """As Llama 2 has: a space is a character of its own kind and one is put before each text; bytes for the unknown."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    ascii_only = [line.encode("ascii", "ignore").decode() for line in TEXT]
    bpe.train_from_iterator(
        ascii_only, trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False, max_token_length=8)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def space_first():
    """As Mistral's, and Llama 2's converted anew, have: a space before the text, none after a special token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )


def pieces(specials, *, bos, eos, prefix, rstrip=()):
    """As Gemma and Phi-3 have, with control tokens: pieces and bytes; some tokens take the white space after them."""
    control = [AddedToken(token, rstrip=token in rstrip, normalized=False, special=True) for token in specials]
    spelt = ["<unk>", *control, *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    bpe.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    words = [word for line in TEXT for word in line.encode("ascii", "ignore").decode().split()]
    words = words if prefix else [f" {word}" for word in words]
    bpe.train_from_iterator(words, trainers.BpeTrainer(vocab_size=420, special_tokens=spelt, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        unk_token="<unk>",
        additional_special_tokens=[token for token in control if str(token) not in (bos, eos)],
        clean_up_tokenization_spaces=False,
    )


def gemma_tokenizer():
    """With the control tokens of google/gemma-2b-it."""
    names = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    return pieces(names, bos="<bos>", eos="<eos>", prefix=False)


def phi3_tokenizer():
    """With the control tokens of microsoft/Phi-3-mini-4k-instruct, which take the line's end after them."""
    roles = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    names = ["<s>", "</s>", "<|endoftext|>", *roles]
    return pieces(names, bos="<s>", eos="<|endoftext|>", prefix=True, rstrip=roles)


def qwen_tokenizer():
    """With the control tokens of Qwen2.5, which opens no text."""
    return byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>")


def cohere_tokenizer():
    """With the control tokens of CohereLabs/aya-expanse-8b."""
    turns = ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"]
    roles = ["<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"]
    return byte_level(["<BOS_TOKEN>", *turns, *roles], bos="<BOS_TOKEN>", eos=turns[1])


def deepseek_tokenizer():
    """With the control tokens of DeepSeek-V3."""
    begin, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    return byte_level([begin, end, "<｜User｜>", "<｜Assistant｜>"], bos=begin, eos=end)


def published(name):
    """A .jinja file among those that TRL (Apache-2.0) keeps: as shipped, or with generation marks (`_training`)."""
    return resources.files("trl") / "chat_templates" / f"{name}.jinja"


def chatml_tokenizer():
    return byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], bos="<|im_start|>", eos="<|im_end|>")


def llama3_tokenizer():
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level(names, bos=names[0], eos=names[1])


def tiny_model(tokenizer, *, seed=0, context=256):
    """A Llama of some 30k weights over a tokenizer."""
    shape = Shape(layers=2, width=32, ffn=64, heads=4, kv_heads=2, head_dim=8, vocab=len(tokenizer), context=context)
    return build_model(shape, seed=seed, end_of_text=tokenizer.eos_token_id)


def save_model(folder, tokenizer, *, seed=0, train_steps=0):
    """A folder that `from_pretrained` loads; with steps, a model that has seen TEXT."""
    model = tiny_model(tokenizer, seed=seed)
    if train_steps:
        ids = torch.tensor(tokenizer("".join(TEXT))["input_ids"][: 8 * 48]).view(8, 48)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(train_steps):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


def sums(count=48):
    """Short conversations, some of two turns, as `messages`."""
    rows = []
    for i in range(count):
        a, b = i % 8, i // 8
        said = [
            {"role": "user", "content": f"What is {a} and {b}?"},
            {"role": "assistant", "content": f"{a} and {b} are {a + b}."},
        ]
        more = [{"role": "user", "content": "thank you"}, {"role": "assistant", "content": "Hello!"}]
        rows.append({"messages": said + more * (i % 3 == 0)})
    return rows
