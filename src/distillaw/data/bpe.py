"""A byte-pair tokenizer as pieces and merges that can be changed, and a Hugging Face tokenizer again afterwards.

    bpe = read_bpe("SmolLM2", tokenizer)
    changed = rebuilt(tokenizer, replace(bpe, pieces=..., merges=...))

Two kinds are known: byte-level ones (GPT-2, Llama 3, SmolLM2, Qwen), whose pieces are spelt in an alphabet of 256
letters that stand for bytes, and those made from SentencePiece with byte fallback (Llama 2, Mistral, Gemma), whose
pieces are characters with a lower one eighth block for the space and `<0x00>` to `<0xFF>` for what has no piece. In
both any text can be said, whichever other pieces there are. Torch-free.
"""

import json
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

SPACE = "\u2581"
"""What SentencePiece writes for a space."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_STALE = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json", "special_tokens_map.json")
"""Files of older formats that would contradict tokenizer.json."""

Merge = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bpe:
    """What such a tokenizer knows."""

    pieces: dict[str, int]
    """Piece -> id, special and other added tokens too."""
    merges: tuple[Merge, ...]
    """Which neighbours become one piece, the first the most urgent."""
    added: frozenset[str]
    """Tokens that are found in the text before anything else is done, special ones among them."""
    byte_level: bool
    """Byte-level, or SentencePiece with byte fallback."""

    @property
    def spelling(self) -> dict[int, str]:
        """Id -> piece."""
        return {index: piece for piece, index in self.pieces.items()}

    @property
    def always_kept(self) -> frozenset[str]:
        """Without these some text could not be said: added tokens and the 256 bytes."""
        if self.byte_level:
            return self.added | (frozenset(byte_alphabet().values()) & self.pieces.keys())
        return self.added | {piece for piece in self.pieces if is_byte(piece)}

    def text_of(self, piece: str) -> str | None:
        """The text of a piece; None of an added token, a byte, or a part of a character."""
        if piece in self.added or (not self.byte_level and is_byte(piece)):
            return None
        if not self.byte_level:
            return piece.replace(SPACE, " ")
        letters = {letter: byte for byte, letter in byte_alphabet().items()}
        try:
            return bytes(letters[letter] for letter in piece).decode()
        except (KeyError, UnicodeDecodeError):
            return None

    def letters_of(self, text: str) -> list[str]:
        """A text in the smallest pieces: letters that stand for bytes, or characters."""
        if self.byte_level:
            return [byte_alphabet()[byte] for byte in text.encode()]
        return list(text.replace(" ", SPACE))


def is_byte(piece: str) -> bool:
    """Whether a piece is one of the 256 of byte fallback."""
    return _BYTE.fullmatch(piece) is not None


def byte_pieces(character: str) -> tuple[str, ...]:
    """The pieces of byte fallback that spell a character."""
    return tuple(f"<0x{byte:02X}>" for byte in character.encode())


@cache
def byte_alphabet() -> dict[int, str]:
    """Byte -> the letter of byte-level pieces that stands for it.

    Source:
        GPT-2's `bytes_to_unicode`: printable Latin-1 characters stand for themselves, the other 68 bytes, in order,
        for U+0100 onwards.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def read_bpe(name: str, tokenizer: "PreTrainedTokenizerBase") -> Bpe:
    """The pieces and merges of a tokenizer.

    Raises:
        ConfigError: it is no byte-pair tokenizer, or one that has no piece for some bytes.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{name}: its tokenizer has no tokenizer.json; convert it first (AutoTokenizer, save_pretrained)"
        )
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    model = whole["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ConfigError(
            f"{name}: its tokenizer is of the kind {model['type']}; vocabularies of byte-pair tokenizers (BPE), "
            "byte-level or with byte fallback, can be changed"
        )
    byte_level = '"ByteLevel"' in json.dumps(whole["decoder"])
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    bpe = Bpe(
        pieces=model["vocab"] | added,
        merges=tuple((a, b) for a, b in model["merges"]),
        added=frozenset(added),
        byte_level=byte_level,
    )
    if not byte_level and (not model["byte_fallback"] or len(bpe.always_kept - bpe.added) < 256):
        raise ConfigError(
            f"{name}: its tokenizer has neither byte-level pieces nor all 256 of byte fallback, so text beyond its "
            "pieces is lost already; its vocabulary is not changed here"
        )
    return bpe


def backend(tokenizer: "PreTrainedTokenizerBase", bpe: Bpe) -> "Tokenizer":
    """The tokenizer with these pieces and merges in place of its own, for counting."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(_edited(tokenizer, bpe)))


def rebuilt(name: str, tokenizer: "PreTrainedTokenizerBase", bpe: Bpe) -> "PreTrainedTokenizerBase":
    """A Hugging Face tokenizer like the given one, but for its pieces and merges; chat template and all.

    Raises:
        ConfigError: its class makes something else of such files.
    """
    from transformers import AutoTokenizer

    edited = _edited(tokenizer, bpe)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tokenizer.save_pretrained(str(folder))
        for stale in _STALE:
            (folder / stale).unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(edited, ensure_ascii=False), encoding="utf-8")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("added_tokens_decoder", None)  # ids of before; tokenizer.json has those of now
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        made = AutoTokenizer.from_pretrained(str(folder))
    if made.get_vocab() != bpe.pieces:
        raise ConfigError(
            f"{name}: its tokenizer class ({type(tokenizer).__name__}) makes {len(made)} entries of the changed "
            f"vocabulary of {len(bpe.pieces)}; save it as a PreTrainedTokenizerFast first"
        )
    return made


def _edited(tokenizer: "PreTrainedTokenizerBase", bpe: Bpe) -> dict:
    """tokenizer.json with other pieces and merges; ids everywhere follow."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    # added tokens are among the model's pieces too: the library numbers those that are not after all others
    pieces = dict(sorted(bpe.pieces.items(), key=lambda item: item[1]))
    whole["model"] |= {"vocab": pieces, "merges": [list(merge) for merge in bpe.merges]}
    for token in whole["added_tokens"]:
        token["id"] = bpe.pieces[token["content"]]
    whole["added_tokens"].sort(key=lambda token: token["id"])
    _renumber(whole["post_processor"], bpe.pieces)
    return whole


def _renumber(processor: dict | None, pieces: dict[str, int]) -> None:
    """Set the ids that a post-processor puts around a text."""
    if processor is None:
        return
    for part in processor.get("processors", []):
        _renumber(part, pieces)
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [pieces[token] for token in special["tokens"]]
    for key in ("sep", "cls"):  # BERT- and RoBERTa-like processors: (token, id)
        if key in processor:
            processor[key] = [processor[key][0], pieces[processor[key][0]]]
