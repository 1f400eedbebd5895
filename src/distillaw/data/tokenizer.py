"""A byte-level BPE trained on the corpus, or any Hugging Face tokenizer; and the hash that names it.

The hash covers the token-to-id map: two tokenizers with the same hash can share logits, others cannot.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
"""Separates documents in the token stream and opens each held-out document."""


def train_tokenizer(documents: Iterable[str], *, vocab_size: int) -> "PreTrainedTokenizerBase":
    """A byte-level BPE with exactly `vocab_size` entries: 256 bytes, the end-of-text token, learnt merges.

    Raises:
        ConfigError: vocab_size below 257, or the text is too small to learn that many merges.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < 257:
        raise ConfigError(
            f"data.vocab_size = {vocab_size}: a byte-level vocabulary needs at least 257 entries"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer=trainer)
    if bpe.get_vocab_size() != vocab_size:
        raise ConfigError(
            f"data.vocab_size = {vocab_size}: the text yields only {bpe.get_vocab_size()} pieces; "
            "lower vocab_size or add text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def word_tokenizer(words: list[str]) -> "PreTrainedTokenizerBase":
    """A tokenizer of whole words between spaces: word i is token i, and the end of text the last one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([*words, END_OF_TEXT])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """Any Hugging Face tokenizer, by folder, GGUF file or name; it must have an end-of-text token.

    Raises:
        ConfigError: it cannot be loaded, or has no end-of-text token.
    """
    from transformers import AutoTokenizer

    path = Path(name_or_path).expanduser()
    if not path.exists() and (path.is_absolute() or name_or_path.count("/") != 1):
        raise ConfigError(
            f"the tokenizer {name_or_path!r}: no such folder; give a folder or a name on the hub"
        )
    where = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (name_or_path, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(where[0]), trust_remote_code=False, **where[1])
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"the tokenizer {name_or_path!r} cannot be loaded ({first})") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer {name_or_path!r} has no end-of-text token; documents need one")
    return tokenizer


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of the sorted token-to-id map, 16 hex digits."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])))
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def encode_documents(tokenizer: "PreTrainedTokenizerBase", documents: list[str]) -> list[list[int]]:
    """Token ids of each document, without special tokens; runs on all cores inside the tokenizer.

    A text that spells a special token (`<|endoftext|>`) has written characters: it does not end a document.
    """
    encoded = tokenizer(
        documents,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    return encoded["input_ids"]


def start_token(name: str, tokenizer: "PreTrainedTokenizerBase") -> int:
    """What a document follows: the token that the tokenizer itself puts first, else the end of the text before.

    Raises:
        ConfigError: the tokenizer has neither.
    """
    ids = tokenizer("a")["input_ids"]
    if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id:
        return tokenizer.bos_token_id
    for token in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if token is not None:
            return token
    raise ConfigError(
        f"{name}: its tokenizer has neither an end-of-text nor a start token, so a document's first token cannot be "
        "scored. Set eos_token in its tokenizer_config.json to the token that separated documents in its training"
    )
