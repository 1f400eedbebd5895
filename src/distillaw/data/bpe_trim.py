"""A byte-pair tokenizer without the pieces that a text does not need.

Added tokens and the 256 bytes stay, and with a piece all that its merges are made of. So any text can still be said,
and one whose tokens all remain is tokenised as before: of the merges that made them none is gone, and those that are
gone took no part. Ids are numbered anew without gaps, in the old order.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distillaw.data.bpe import Bpe
from distillaw.data.tokenizer import encode_documents
from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 256


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
        bpe: the tokenizer.
        counts: how often each id is used.
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
