"""A byte-pair tokenizer as pieces and merges that can be changed, and a Hugging Face tokenizer again afterwards.

    bpe = read_bpe("SmolLM2", tokenizer)
    changed = rebuilt(tokenizer, replace(bpe, pieces=..., merges=...))

Two kinds are known: byte-level ones (GPT-2, Llama 3, SmolLM2, Qwen), whose pieces are spelt in an alphabet of 256
letters that stand for bytes, and those made from SentencePiece with byte fallback (Llama 2, Mistral, Gemma), whose
pieces are characters with a lower one eighth block for the space and `<0x00>` to `<0xFF>` for what has no piece. In
both any text can be said, whichever other pieces there are. Torch-free.

Every new merge comes after all old ones, so the old tokenizer's work is done first and then neighbours of it are
joined. What is promised of any text: a new token stands for a run of whole old tokens, and a text in which no new merge
applies is tokenised as before, token by token. `Piece.parts` is the run, whence a new row can start. When pieces go,
added tokens and the 256 bytes stay, and with a piece all that its merges are made of. So any text can still be said,
and one whose tokens all remain is tokenised as before: of the merges that made them none is gone, and those that are
gone took no part. Ids are numbered anew without gaps, in the old order.
"""

import copy
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.data.tokenizer import encode_documents
from distillaw.errors import ConfigError, DataError

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


COVERAGE = 0.9995
"""Share of the text's characters that get pieces where a tokenizer falls back to bytes (SentencePiece's default)."""
LONGEST = 16
"""Old pieces in a learnt one at most; without spaces between words whole sentences would be learnt."""
_FIRST_LETTER = 0x10000
"""Code point that stands for piece 0: from there on no letter is a blank, which would end a word."""
_BATCH = 256
"""Documents tokenised at once: enough for all cores, few enough for memory."""
CHINESE_MARKS = frozenset("，。、；：？！“”‘’（）《》【】…—「」『』〈〉·～￥")
"""Punctuation that counts as Chinese besides the characters U+4E00 to U+9FA5 (as in MiniMA's script)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A new piece."""

    piece: str
    parts: tuple[int, ...]
    """The old ids that it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A tokenizer's pieces with new ones at the end."""

    bpe: Bpe
    new: tuple[Piece, ...]
    """In the order of their ids, which follow the old ones without a gap."""


def learn_pieces(tokenizer: "PreTrainedTokenizerBase", bpe: Bpe, documents: Sequence[str], *, count: int) -> Extension:
    """Go on merging where the tokenizer stopped, on another text.

    With byte fallback, characters without a piece come first: the most frequent ones up to `COVERAGE`. The merges are
    the most frequent neighbours, found by the `tokenizers` library on the old pieces as letters. Nothing is merged with
    a digit or across what the tokenizer splits at.

    Args:
        bpe: its pieces, ids without gaps.
        count: new pieces, exactly so many.

    Raises:
        DataError: the text yields fewer.
    """
    growing = _Growing(bpe)
    if not bpe.byte_level:
        for character in _new_characters(tokenizer, bpe, documents)[:count]:
            growing.add_character(character)
    started = backend(tokenizer, growing.extension().bpe) if growing.new else tokenizer.backend_tokenizer
    lines = list(_lines(started, growing.extension().bpe, documents))
    spelling = growing.extension().bpe.spelling
    # merges into pieces that exist, or that another merge made, take no row: some more than `count` are learnt
    for a, b in _learn(lines, count + count // 4 + 64):
        if len(growing.new) == count:
            break
        first, second = ("".join(spelling[ord(x) - _FIRST_LETTER] for x in word) for word in (a, b))
        growing.merge(first, second)
    if len(growing.new) < count:
        raise DataError(
            f"the text yields {len(growing.new)} new pieces that occur twice, {count} are wanted; give more text or "
            "fewer --pieces"
        )
    return growing.extension()


def adopt_pieces(
    tokenizer: "PreTrainedTokenizerBase",
    bpe: Bpe,
    other: Bpe,
    *,
    count: int | None = None,
    chinese: bool = False,
    multiple: int = 1,
) -> Extension:
    """Take over the pieces of another tokenizer that this one lacks, in the other's order.

    A piece that the merges do not reach gets the ones that make it, from the left; the pieces on the way cost rows too.
    Those that the tokenizer would split before merging are left out, and those with digits.

    Args:
        bpe: its pieces, ids without gaps.
        other: where pieces come from, of either kind.
        count: at most so many new rows; None: all.
        chinese: only pieces with a Chinese character or mark; others without digits pad the size.
        multiple: of it the size becomes one, as far as there are pieces to pad it with.

    Source:
        MiniMA's vocabulary (arXiv 2311.07052).
    """
    growing = _Growing(bpe)
    cutter = tokenizer.backend_tokenizer.pre_tokenizer
    wanted, spare = [], []

    def splits(text: str) -> bool:
        return cutter is not None and len(cutter.pre_tokenize_str(text)) > 1

    for piece in sorted(other.pieces, key=other.pieces.__getitem__):
        text = other.text_of(piece)
        if text is None or not text.strip() or any(letter.isdigit() for letter in text) or splits(text):
            continue
        (wanted if not chinese or is_chinese(text) else spare).append(text)
    room = len(wanted) * LONGEST if count is None else count
    for text in sorted(wanted, key=len):  # shorter ones first: longer ones are merged from them
        if len(growing.new) >= room:
            break
        growing.spell(text, room=room)
    goal = -(-(len(bpe.pieces) + len(growing.new)) // multiple) * multiple - len(bpe.pieces)
    for text in spare:
        if len(growing.new) >= goal:
            break
        growing.spell(text, room=goal)
    return growing.extension()


def is_chinese(text: str) -> bool:
    """Whether it holds a character U+4E00 to U+9FA5 or a Chinese punctuation mark."""
    return any("\u4e00" <= letter <= "\u9fa5" or letter in CHINESE_MARKS for letter in text)


class _Growing:
    """Pieces and merges that are added one at a time."""

    def __init__(self, old: Bpe) -> None:
        self._old = old
        self._pieces, self._merges = dict(old.pieces), list(old.merges)
        self._ranks = {merge: rank for rank, merge in enumerate(old.merges)}
        self._parts: dict[str, tuple[int, ...]] = {}
        self.new: list[Piece] = []

    def extension(self) -> Extension:
        """What has become of it."""
        grown = replace(self._old, pieces=dict(self._pieces), merges=tuple(self._merges))
        return Extension(bpe=grown, new=tuple(self.new))

    def add_character(self, character: str) -> None:
        """A character that was spelt in bytes."""
        self._add(character, tuple(self._old.pieces[byte] for byte in byte_pieces(character)))

    def merge(self, first: str, second: str) -> None:
        """Join two pieces; a row only if nothing is spelt so yet. Parts that were left out leave it out too."""
        joined = first + second
        known = first in self._pieces and second in self._pieces
        if not known or (first, second) in self._ranks or joined in self._old.added:
            return
        self._ranks[first, second] = len(self._merges)
        self._merges.append((first, second))
        if joined not in self._pieces:
            self._add(joined, self._parts_of(first) + self._parts_of(second))

    def spell(self, text: str, *, room: int) -> None:
        """Make a text one piece, if the rows that it takes are there."""
        letters = self._old.letters_of(text)
        unknown = [letter for letter in dict.fromkeys(letters) if letter not in self._pieces]
        symbols = self._encoded(letters)
        if len(self.new) + len(unknown) + len(symbols) - 1 > room:
            return
        if (unknown and self._old.byte_level) or "".join(letters) in self._old.added:
            return  # a byte that the tokenizer never had, or a token found before merging
        for letter in unknown:
            self.add_character(letter)
        while len(symbols) > 1 and symbols[0] + symbols[1] not in self._old.added:  # a merge may apply twice
            self.merge(symbols[0], symbols[1])
            symbols = self._encoded(letters)

    def _add(self, piece: str, parts: tuple[int, ...]) -> None:
        self._parts[piece] = parts
        self._pieces[piece] = len(self._pieces)
        self.new.append(Piece(piece=piece, parts=parts))

    def _parts_of(self, piece: str) -> tuple[int, ...]:
        return self._parts.get(piece) or (self._old.pieces[piece],)

    def _encoded(self, letters: list[str]) -> list[str]:
        """What the merges make of letters, the most urgent first."""
        symbols = list(letters)
        while True:
            ranks = [self._ranks.get(pair, len(self._ranks)) for pair in pairwise(symbols)]
            if not ranks or min(ranks) == len(self._ranks):
                return symbols
            at = ranks.index(min(ranks))
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]


def _new_characters(tokenizer: "PreTrainedTokenizerBase", bpe: Bpe, documents: Iterable[str]) -> list[str]:
    """Characters without a piece that the text needs, the most frequent first, up to the coverage."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    counts: Counter[str] = Counter()
    for text in documents:
        counts.update(normalizer.normalize_str(text) if normalizer else text.replace(" ", SPACE))
    unknown = Counter({x: n for x, n in counts.items() if x not in bpe.pieces and x.isprintable()})
    missing, kept = unknown.total(), []
    for letter, n in sorted(unknown.items(), key=lambda item: (-item[1], item[0])):
        if missing <= (1 - COVERAGE) * counts.total():  # the rarest are left to the bytes
            break
        missing -= n
        kept.append(letter)
    return kept


def _lines(tokenizer: "Tokenizer", bpe: Bpe, documents: Sequence[str]) -> Iterator[str]:
    """The text in old pieces, each a letter; words apart, where no piece may cross.

    A text that spells a special token has written characters, as in `encode_documents`.
    """
    tokenizer = copy.deepcopy(tokenizer)  # the switch stays with the tokenizer, which is the model's
    tokenizer.encode_special_tokens = True
    ends = {index for piece, index in bpe.pieces.items() if _stands_alone(piece, bpe)}
    opens = {index for piece, index in bpe.pieces.items() if not bpe.byte_level and piece.startswith(SPACE)}
    for first in range(0, len(documents), _BATCH):
        chunk = list(documents[first : first + _BATCH])
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
            line, before = [], None
            for index, word in zip(encoding.ids, encoding.word_ids, strict=True):
                if index in ends:
                    line.append(" ")
                    continue
                line.append((" " if word != before or index in opens else "") + chr(_FIRST_LETTER + index))
                before = word
            yield "".join(line)


def _stands_alone(piece: str, bpe: Bpe) -> bool:
    """Added tokens, bytes of the fallback, and what holds a digit or a line's end are never merged."""
    odd = any(letter in "0123456789\n\t" for letter in piece)  # of byte-level letters only ASCII means itself
    return piece in bpe.added or odd or (not bpe.byte_level and is_byte(piece))


def _learn(lines: list[str], count: int) -> list[Merge]:
    """The most frequent neighbours, one after the other."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = len(set().union(*map(set, lines)) - {" "})
    trainer = trainers.BpeTrainer(
        vocab_size=letters + count, min_frequency=2, show_progress=False, max_token_length=LONGEST
    )
    learner.train_from_iterator(lines, trainer=trainer)
    return [(a, b) for a, b in json.loads(learner.to_str())["model"]["merges"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """A tokenizer's pieces without some."""

    bpe: Bpe
    kept: tuple[int, ...]
    """The old id of each new one, ascending."""


def count_pieces(tokenizer: "PreTrainedTokenizerBase", documents: Sequence[str]) -> Counter[int]:
    """How often a text uses each id."""
    counts: Counter[int] = Counter()
    for first in range(0, len(documents), _BATCH):
        for ids in encode_documents(tokenizer, list(documents[first : first + _BATCH])):
            counts.update(ids)
    return counts


def trim_pieces(
    bpe: Bpe, counts: Mapping[int, int], *, keep: int | None = None, min_count: int = 1, multiple: int = 1
) -> Trimmed:
    """Leave out what is not used.

    Args:
        keep: size wanted: the pieces used most, as many as fit with what they are made of.
        min_count: without `keep`: pieces used so often stay.
        multiple: of it the size becomes one by pieces that are used less, where there are any.

    Raises:
        ConfigError: `keep` is less than what must stay, or more than there is.
    """
    made_of = _closures(bpe)
    kept = set(bpe.always_kept)
    if keep is not None and not len(kept) <= keep <= len(bpe.pieces):
        raise ConfigError(
            f"--keep {keep}: the {len(kept)} added tokens and bytes stay, and there are {len(bpe.pieces)} pieces; "
            "choose a number between"
        )
    # of equals the oldest; ids follow the merges
    order = sorted(bpe.pieces, key=lambda piece: (-counts.get(bpe.pieces[piece], 0), bpe.pieces[piece]))
    if keep is None:
        for piece in order:
            if counts.get(bpe.pieces[piece], 0) >= min_count:
                kept |= made_of(piece)
        keep = min(-(-len(kept) // multiple) * multiple, len(bpe.pieces))
    for piece in order:
        if len(kept) == keep:
            break
        if len(kept) + len(more := made_of(piece) - kept) <= keep:
            kept |= more
    old = sorted(bpe.pieces[piece] for piece in kept)
    spelling = bpe.spelling
    pieces = {spelling[index]: new for new, index in enumerate(old)}
    merges = tuple((a, b) for a, b in bpe.merges if a in kept and b in kept and a + b in kept)
    return Trimmed(bpe=replace(bpe, pieces=pieces, merges=merges), kept=tuple(old))


def _closures(bpe: Bpe) -> Callable[[str], set[str]]:
    """Piece -> it and all that any merge makes it of."""
    parts: dict[str, set[str]] = {}
    for a, b in bpe.merges:
        parts.setdefault(a + b, set()).update((a, b))

    def made_of(piece: str) -> set[str]:
        found, todo = set(), [piece]
        while todo:
            if (one := todo.pop()) not in found:
                found.add(one)
                todo.extend(parts.get(one, ()))
        return found

    return made_of
