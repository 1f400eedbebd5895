"""Tokenizers: a byte-level BPE trained on the corpus, or any of Hugging Face; the hash that names one; chat as tokens.

The hash covers the token-to-id map: two tokenizers with the same hash can share logits, others cannot. A tokenizer
takes any spelling of a special token for the token, and a rendered conversation no longer tells what the template wrote
from what a user did. So before rendering such spellings in messages are replaced by signs that no text contains;
afterwards they are put back and their places kept. The template's own tokens cut the text, as they do in any tokenizer;
what lies between two of them and spells one is tokenised once more, with special tokens switched off.
"""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
        raise ConfigError(f"data.vocab_size = {vocab_size}: a byte-level vocabulary needs at least 257 entries")
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
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """Any Hugging Face tokenizer, by folder, GGUF file or name; it must have an end-of-text token.

    Raises:
        ConfigError: it cannot be loaded, or has no end-of-text token.
    """
    from transformers import AutoTokenizer

    path = Path(name_or_path).expanduser()
    if not path.exists() and (path.is_absolute() or name_or_path.count("/") != 1):
        raise ConfigError(f"the tokenizer {name_or_path!r}: no such folder; give a folder or a name on the hub")
    try:
        if path.suffix == ".gguf":
            tokenizer = from_gguf(AutoTokenizer, path)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"the tokenizer {name_or_path!r} cannot be loaded ({first})") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer {name_or_path!r} has no end-of-text token; documents need one")
    return tokenizer


def from_gguf(auto: Any, file: Path) -> Any:
    """What one of transformers' Auto classes makes of a GGUF file, read once per process and copied for each caller.

    Whoever reads such a file, for its configuration too, goes through its whole vocabulary piece by piece: seconds.
    """
    about = file.stat()
    return copy.deepcopy(_read_gguf(auto, file.resolve(), about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=8)
def _read_gguf(auto: Any, file: Path, changed: int, size: int) -> Any:
    return auto.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 of the sorted token-to-id map, 16 hex digits."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])))
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def encode_documents(tokenizer: "PreTrainedTokenizerBase", documents: list[str]) -> list[list[int]]:
    """Token ids of each document, without special tokens; runs on all cores inside the tokenizer.

    A text that spells a special token (`<|endoftext|>`) has written characters: it does not end a document.
    """
    encoded = tokenizer(
        documents, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
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


def encode_to_score(
    name: str, tokenizer: "PreTrainedTokenizerBase", documents: list[str], *, most: int | None = None
) -> list[np.ndarray]:
    """Token ids of each document after the start token, int64, shape (1 + tokens,); its first `most` tokens alone."""
    start = start_token(name, tokenizer)
    return [np.array([start, *ids[:most]], dtype=np.int64) for ids in encode_documents(tokenizer, documents)]


_OPEN, _CLOSE = "\ue0f2", "\ue0f3"
_SIGN = re.compile(f"{_OPEN}([0-9a-f]+){_CLOSE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The text of a conversation."""

    text: str
    spelt: tuple[tuple[int, int], ...]
    """Characters [first, last) of each special token that a message only spells."""


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Id of every special token by its spelling."""
    found = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return found | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def special_pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str]:
    """Finds spellings of special tokens, the longest first; never where there is none."""
    longest_first = sorted(special_tokens(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def render_chat(
    control: re.Pattern[str], messages: Sequence[Mapping[str, str]], render: Callable[[list[dict[str, str]]], str]
) -> Rendered:
    """Messages through a template.

    Args:
        control: of `special_pattern`.
        messages: with `role` and `content`.
    """
    hide = re.compile(f"{control.pattern}|[{_OPEN}{_CLOSE}]")  # a message may hold the signs' own characters

    def signed(found: re.Match[str]) -> str:
        return f"{_OPEN}{found[0].encode().hex()}{_CLOSE}"

    parts = _SIGN.split(render([{**each, "content": hide.sub(signed, each["content"])} for each in messages]))
    text, spelt = parts[0], []
    for sign, after in zip(parts[1::2], parts[2::2], strict=True):
        first, said = len(text), bytes.fromhex(sign).decode()
        text += said
        if control.fullmatch(said):
            spelt.append((first, len(text)))
        text += after
    return Rendered(text=text, spelt=tuple(spelt))


def encode_chat(
    tokenizer: "PreTrainedTokenizerBase", control: re.Pattern[str], chat: Rendered
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and the characters of each (none where the tokenizer is a slow one).

    Raises:
        ConfigError: a message spells a special token, and the tokenizer cannot say which tokens come of it.
    """
    text = chat.text
    ids, offsets = _encode(tokenizer, text)
    if not chat.spelt:
        return ids, offsets
    if not tokenizer.is_fast:
        first, last = chat.spelt[0]
        raise ConfigError(
            f"{tokenizer.name_or_path}: a message spells the special token {text[first:last]!r}, and a tokenizer "
            "without tokenizer.json cannot say which tokens come of it; convert it "
            "(AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained)"
        )

    def is_spelt(first: int, last: int) -> bool:
        return any(begin < last and first < end for begin, end in chat.spelt)

    cuts = [
        k
        for k, (first, last) in enumerate(offsets)
        if control.fullmatch(text[first:last].strip()) and not is_spelt(first, last)
    ]
    found: list[tuple[int, tuple[int, int]]] = []
    for before, after in itertools.pairwise([-1, *cuts, len(ids)]):
        first = offsets[before][1] if before >= 0 else 0
        last = offsets[after][0] if after < len(ids) else len(text)
        special = text[slice(*offsets[before])] if before >= 0 else ""
        tokens = list(zip(ids, offsets, strict=True))
        found += (
            _as_text(tokenizer, special, text, first, last) if is_spelt(first, last) else tokens[before + 1 : after]
        )
        found += tokens[after : after + 1]
    return [token for token, _ in found], [span for _, span in found]


def _as_text(
    tokenizer: "PreTrainedTokenizerBase", special: str, text: str, first: int, last: int
) -> list[tuple[int, tuple[int, int]]]:
    """Tokens of text[first:last] where no special token is one but that which stands before.

    A tokenizer may put a space before a text but not before what follows a special token: then a line feed, which such
    tokenizers join with nothing, takes that place.
    """
    is_begun_anew = _encode(tokenizer, f"{special}a")[0][1:] == _encode(tokenizer, "a")[0]
    lead = "" if not special or is_begun_anew else "\n"
    ids, offsets = _encode(tokenizer, lead + text[first:last], split_special_tokens=True)
    shift = first - len(lead)
    tokens = [(token, (shift + begin, shift + end)) for token, (begin, end) in zip(ids, offsets, strict=True)]
    return [(token, span) for token, span in tokens if not lead or span[1] > first]


def _encode(
    tokenizer: "PreTrainedTokenizerBase", text: str, **options: object
) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False, **options
    )
    return list(encoded["input_ids"]), [tuple(span) for span in encoded.get("offset_mapping", ())]
