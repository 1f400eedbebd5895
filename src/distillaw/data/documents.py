"""Which documents two texts share, and documents that are there twice: the same but for white space, or nearly.

A document is known by a hash of its text without white space; the splits of a data folder list theirs, so that two
folders' texts can be compared. A world's splits are ranges of its positions and need no list: two folders of one world
share what splits of one name share.

Text that is held out and read in training makes losses too low, and most where the model is largest; text that a
teacher and its students share makes targets over-confident. Common corpora have both (Lee et al. 2021,
arXiv:2107.06499). Near copies are found by MinHash (Broder 1997; rensa) on documents as sets of their runs of 24
letters and digits, which needs no words and sees through case, punctuation and line breaks; two are near copies from an
estimated Jaccard similarity of 0.8 (standard error 0.035). Not seen: a passage of one document inside a longer one, and
translations or paraphrases.

Of a teacher from outside its run's folder says which split of which data folder it was trained on, and documents are
compared; of a model whose folder does not say, nothing is known (`exposure`).
"""

import hashlib
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from distillaw.data.shards import DOCUMENTS, TokenStore
from distillaw.errors import CacheError, ConfigError
from distillaw.runs.files import read_json
from distillaw.runs.store import SPEC
from distillaw.worlds.oracle import is_oracle

CUTS = ("max_document_chars", "section_chars")
"""Settings of [data] that decide what a document is: only texts that were cut alike can be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """How much of one text is also in another, by document."""

    student: float
    """Share of the students' documents."""
    validation: float
    """Share of the held-out ones."""


def document_names(digests: Iterable[bytes]) -> np.ndarray:
    """Names of documents from their digests, uint64: their first eight bytes."""
    return np.frombuffer(b"".join(digest[:8] for digest in digests), dtype="<u8")


def write_names(folder: Path, names: Mapping[str, np.ndarray]) -> None:
    """Keep the documents of every split in a data folder.

    Args:
        names: split -> names, uint64.
    """
    np.savez_compressed(folder / DOCUMENTS, **{split: np.sort(each) for split, each in names.items()})


def shared_documents(store: TokenStore, other: TokenStore, splits: Collection[str]) -> Shared | None:
    """How much of a store's text some splits of another hold.

    Args:
        store: whose students and held-out documents are in question.
        other: another folder, or the same.
        splits: of the other: `teacher`, `student`, or `union` for both.

    Returns:
        None where nobody can tell: folders of an earlier version, or texts that were cut into other documents.
    """
    parts = {"teacher", "student"} if "union" in splits else set(splits)
    if store.data_hash == other.data_hash:
        return Shared(student=float("student" in parts), validation=0.0)
    spec, others = store.manifest["spec"], other.manifest["spec"]
    if spec.get("world") or others.get("world"):
        is_same = spec.get("world") == others.get("world")
        return Shared(student=float(is_same and "student" in parts), validation=0.0)
    mine, read = store.folder / DOCUMENTS, other.folder / DOCUMENTS
    if not (mine.exists() and read.exists()) or any(spec.get(key) != others.get(key) for key in CUTS):
        return None
    with np.load(mine) as own, np.load(read) as theirs:
        seen = np.concatenate([theirs[part] for part in sorted(parts)])
        return Shared(**{split: float(np.isin(own[split], seen).mean()) for split in ("student", "validation")})


COPY_VERSION = 1
"""Of what counts as a copy; in the manifest of the data."""
SIMILAR = 0.8
"""From which two documents are near copies, as in Lee et al. 2021."""
RUN = 24
"""Characters of a run, about five English words."""
SLOTS = 128
"""Standard error of an estimated similarity s: sqrt(s (1 - s) / SLOTS), 0.035 at the threshold."""
_BANDS = 16
"""Of 8 slots: copies at the threshold share a whole band with probability 0.95, at similarity 0.9 with 0.9999."""
_MOST = 1 << 21
"""Characters of a document that are compared, about two novels: bounds the memory of a document to some 100 MB."""
_PIECE = 1 << 20
"""Characters or similarities computed at once: a few MB."""
COPY_RULE = (
    f"documents that differ by white space alone are read once; of two on different sides whose runs of {RUN} letters "
    f"and digits agree by {SIMILAR:.0%} (MinHash of {SLOTS} slots) the held-out one stays, else the earlier one"
)


def content_digest(text: str) -> bytes:
    """A name of the text without its white space, 16 bytes: equal for copies that differ by blanks and line breaks."""
    whole = unicodedata.normalize("NFC", text)
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(whole), _PIECE):
        digest.update("".join(whole[start : start + _PIECE].split()).encode())
    return digest.digest()


def sketch(text: str) -> np.ndarray:
    """The MinHash of a document, uint32, shape (SLOTS,).

    Raises:
        ConfigError: rensa is not installed.
    """
    try:
        from rensa import RMinHash
    except ImportError:
        raise ConfigError('looking for copies of documents needs rensa: pip install "distillaw[train]"') from None
    hashes = _hash_runs(text)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, [0, len(hashes)], SLOTS, 0)
    return np.array(matrix.to_rows()[0], dtype=np.uint32)


def copies_in_words(exact: int, near: Mapping[tuple[str, str], int]) -> str:
    """What was dropped; `near` counts by (its side, the side of the one that stays)."""
    parts = [f"{count:,} of the {side}'s text near {_OF[other]}" for (side, other), count in sorted(near.items())]
    return f"copies dropped: {exact:,} exact, " + (", ".join(parts) or "no near one across splits")


_OF = {"validation": "held-out text", "teacher": "the teacher's", "student": "the student's"}


def drop_near_copies(sketches: np.ndarray, sides: np.ndarray, first: str) -> dict[int, int]:
    """Which documents go, since they nearly repeat one that stays on another side.

    Args:
        sketches: of the documents in reading order, shape (documents, SLOTS).
        sides: where each one lies, strings, shape (documents,).
        first: the side whose documents always stay (and are not compared with each other).

    Returns:
        Each document that goes -> one that stays, by index.
    """
    rank = np.where(sides == first, 0, 1)
    pairs: set[tuple[int, int]] = set()
    for band in np.split(sketches, _BANDS, axis=1):
        pairs |= _close_pairs(_mixed(band), sketches, sides, rank)
    gone: dict[int, int] = {}
    for stays, goes in sorted(pairs, key=lambda pair: (rank[pair[0]], pair[1], pair[0])):
        if stays not in gone and goes not in gone:
            gone[goes] = stays
    return gone


def _close_pairs(keys: np.ndarray, sketches: np.ndarray, sides: np.ndarray, rank: np.ndarray) -> set[tuple[int, int]]:
    """(earlier, later) of documents with one key on two sides that are similar indeed.

    Each is compared with the first of its key that lies elsewhere, so that a thousand copies are a thousand pairs.
    """
    order = np.lexsort((np.arange(len(keys)), rank, keys))
    begins = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]])
    group = np.repeat(np.arange(len(begins)), np.diff(np.r_[begins, len(order)]))
    head = order[begins][group]
    other = sides[order] != sides[head]
    opposite = np.full(len(begins), -1)
    opposite[group[other][::-1]] = order[other][::-1]  # the first one of each group that lies elsewhere than its head
    partner = np.where(other, head, opposite[group])
    met = partner >= 0
    a, b = order[met], partner[met]
    a, b = a[(close := _are_similar(sketches, a, b))], b[close]
    swap = (rank[a] < rank[b]) | ((rank[a] == rank[b]) & (a < b))
    return set(zip(np.where(swap, a, b).tolist(), np.where(swap, b, a).tolist(), strict=True))


def _are_similar(sketches: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found = np.empty(len(a), dtype=bool)
    for start in range(0, len(a), _PIECE // SLOTS):
        part = slice(start, start + _PIECE // SLOTS)
        found[part] = (sketches[a[part]] == sketches[b[part]]).mean(axis=1) >= SIMILAR
    return found


def _hash_runs(text: str) -> np.ndarray:
    """A hash of every run of RUN letters and digits, uint64; of the whole text where it has fewer."""
    points = np.frombuffer(text[:_MOST].casefold().encode("utf-32-le"), dtype=np.uint32)
    kept = points[_letters()[points]]
    if len(kept) < RUN:
        digest = hashlib.blake2b(content_digest(text[:_MOST].casefold()), digest_size=8).digest()
        return np.frombuffer(digest, dtype=np.uint64)
    one = _mix(kept.astype(np.uint64), kept.astype(np.uint64))
    two = _mix(one[:-1], one[1:])
    four = _mix(two[:-2], two[2:])
    eight = _mix(four[:-4], four[4:])
    sixteen = _mix(eight[:-8], eight[8:])
    return _mix(sixteen[:-8], eight[16:])


def _mix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A 64-bit hash of pairs, in order (multipliers of splitmix64, Steele et al. 2014)."""
    mixed = first * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= second
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _mixed(columns: np.ndarray) -> np.ndarray:
    """One hash of each row."""
    mixed = np.zeros(len(columns), dtype=np.uint64)
    for column in columns.T:
        mixed = _mix(mixed, column.astype(np.uint64))
    return mixed


@cache
def _letters() -> np.ndarray:
    """Whether a code point is a letter or digit, shape (0x110000,)."""
    return np.fromiter((chr(point).isalnum() for point in range(sys.maxunicode + 1)), dtype=bool)


ALLOWED = 0.01
"""Share of documents that texts may have in common without one having been read: common corpora share notices."""
DEPTH = 8
"""Models that began from one another, followed this far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What is known of one teacher."""

    name: str
    shared: Shared | None
    """With the students' text; None where nobody can tell."""

    @property
    def is_known(self) -> bool:
        """Whether its text could be compared with the students'."""
        return self.shared is not None


def exposure(name: str, source: str, store: TokenStore) -> Exposure:
    """What a teacher has read of a text.

    Args:
        source: an oracle, a folder, or a name on the hub.
    """
    if is_oracle(source):
        return Exposure(name=name, shared=Shared(student=0.0, validation=0.0))
    try:
        return Exposure(name=name, shared=_read(Path(source), store))
    except (CacheError, OSError, ValueError, BadZipFile):  # a damaged folder says nothing
        return Exposure(name=name, shared=None)


def exposed(found: Exposure) -> str | None:
    """What is wrong with a teacher that has read what its students or its judges are to read; None: nothing known."""
    if found.shared is None or max(found.shared.student, found.shared.validation) <= ALLOWED:
        return None
    return (
        f"teacher {found.name} has read {found.shared.student:.0%} of the students' documents and "
        f"{found.shared.validation:.0%} of the held-out ones, so its students' losses would say nothing of other text"
    )


def refuse_exposed(found: Exposure) -> None:
    """Refuse a teacher that has read what its students or its judges are to read.

    Raises:
        ConfigError: it has.
    """
    if (wrong := exposed(found)) is not None:
        raise ConfigError(
            f"{wrong}; take its study's own split (--like STUDY, the folder it was trained in) and a teacher of the "
            "teachers' half, or another text"
        )


def _read(folder: Path, store: TokenStore, depth: int = DEPTH) -> Shared | None:
    """By the run in a folder, and by the model that it began from."""
    if depth == 0 or not (folder / SPEC).is_file():
        return None
    spec = read_json(folder / SPEC)
    split, text = spec.get("split"), _text_of(folder, spec, store)
    if not isinstance(split, str) or text is None:
        return None
    shared = shared_documents(store, text, [split])
    if shared is None or spec.get("init", "fresh") == "fresh":
        return shared
    before = _read(_began_from(folder, spec), store, depth - 1)
    if before is None:
        return None
    return Shared(student=max(shared.student, before.student), validation=max(shared.validation, before.validation))


def _text_of(folder: Path, spec: dict[str, Any], store: TokenStore) -> TokenStore | None:
    """The data folder that a run was trained on: its study's, or the students' own; None where neither is it."""
    name = spec.get("data_hash")
    if name == store.data_hash:
        return store
    beside = folder.resolve().parent.parent / "data"
    if not (beside / "manifest.json").is_file():
        return None
    text = TokenStore.open(beside)
    return text if text.data_hash == name else None


def _began_from(folder: Path, spec: dict[str, Any]) -> Path:
    """Where the weights that a run began from lie, cut or whole."""
    start = spec.get("start")
    if isinstance(start, dict):
        return Path(str(start.get("folder")))
    teacher = Path(str(spec.get("cut_from") or spec.get("teacher_run")))
    return teacher if teacher.is_absolute() else folder.resolve().parent / teacher
