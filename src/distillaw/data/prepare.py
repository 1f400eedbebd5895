"""From text to token shards: documents are split first, then the tokenizer is trained, then all is encoded.

Splits are disjoint by document: a teacher is over-confident on its own training text, so students read other
documents (arXiv 2502.08606v2 halves its corpus likewise), and nobody reads the held-out ones. Copies are dropped
before splitting, near copies across splits after it (documents.py), so that one text cannot stand on two sides;
the manifest counts them. Which documents each split holds is kept beside it (documents.py).

Token ids that others made (token_files.py) stay where they are: splits are lists of pieces of their files. Only what is
held out is copied. Runs of whole documents are drawn for the splits, single ones until there are some 65,000. Of a
world nothing is read, trained or encoded: tokens are its own, and each split has its own range of positions.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillaw.data.corpus import Reading, check_apart, files_of_ids, read_documents, tokenizer_of_ids
from distillaw.data.documents import (
    COPY_RULE,
    COPY_VERSION,
    content_digest,
    copies_in_words,
    document_names,
    drop_near_copies,
    sketch,
    write_names,
)
from distillaw.data.shards import (
    BESIDE,
    FORMAT,
    HELDOUT_BOUNDS,
    PIECES,
    ShardWriter,
    TokenStore,
    manifest_hash,
    pieces_hash,
)
from distillaw.data.token_files import TokenFile, copy_parquet, open_tokens
from distillaw.data.tokenizer import encode_documents, load_tokenizer, tokenizer_hash, train_tokenizer, word_tokenizer
from distillaw.errors import CacheError, ConfigError, DataError
from distillaw.quantities import format_count
from distillaw.runs.config import from_table
from distillaw.runs.files import file_sha256, saving, write_json
from distillaw.runs.pace import Telling
from distillaw.runs.places import building, check_absent, check_folder, copy_into
from distillaw.runs.process import check_addresses
from distillaw.worlds.spec import WorldSpec
from distillaw.worlds.world import World, open_world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SPLITS = ("teacher", "student", "validation")
SPARE_TOKENS = 4096
"""Of a world beyond what is asked for, since the ragged end of a split makes no window."""
TOKENIZER_SAMPLE_CHARS = 20_000_000
"""Text the tokenizer is trained on at most; more changes a small vocabulary by next to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """The [data] table of a study."""

    corpus: str = "sotu"
    """`sotu` (shipped), a path to .txt / .jsonl / .parquet files, a saved dataset, `hub:owner/name`, or several with
    shares: `mix:0.7*A + 0.3*B` (data/corpus.py); or token ids that another tool wrote (docs/shards.md)."""
    text_column: str = "text"
    """The field that holds the text in .jsonl, Parquet and datasets; of token ids the column of their lists."""
    tokenizer: str = ""
    """A Hugging Face tokenizer (folder or name); empty: a byte-level BPE is trained on the corpus. Where the corpus is
    token ids: the one that made them."""
    vocab_size: int = 512
    """Entries of the trained vocabulary; ignored when `tokenizer` is given."""
    validation_documents: int = 64
    """Documents held out; errors are clustered by document, so at least 60 are wanted."""
    validation_tokens_per_document: int = 512
    """Each held-out document is scored on its first tokens only, so that long ones do not dominate."""
    teacher_share: float = 0.5
    """Share of the training text that teachers read; students read the rest."""
    max_document_chars: int = 0
    """Keep only the first characters of each document; 0 keeps all."""
    section_chars: int = 0
    """Cut documents into sections of about this size, each a document; for corpora of few long texts."""
    seed: int = 0
    """Decides which document goes to which split."""
    world: WorldSpec | None = None
    """A synthetic language instead of a corpus (docs/worlds.md): the [data.world] table."""
    world_tokens: int = 4_000_000
    """Training text drawn from the world, teachers' and students' together (`teacher_share` divides it)."""

    @property
    def source(self) -> str:
        """What records call the text."""
        return self.corpus if self.world is None else self.world.label


def check_home(spec: DataSpec, folder: Path) -> None:
    """Refuse, before anything is written, a folder that cannot hold this text's tokens and what is trained on them.

    Args:
        spec: the text.
        folder: of the study or run; the tokens go into its `data`.

    Raises:
        ConfigError: it holds what is not ours, or lies in the corpus.
    """
    check_folder(folder)
    check_apart(spec.corpus, folder)
    if not (folder / "data" / "manifest.json").exists():
        check_absent(folder / "data")


def prepare_data(spec: DataSpec, folder: Path, *, say: Callable[[str], None] = lambda message: None) -> TokenStore:
    """Tokenise a corpus into `folder`, or open what is there if it was made from the same spec.

    Args:
        folder: where shards, tokenizer and manifest go.
        say: told now and then how far it is.

    Raises:
        CacheError: the folder was made from another spec, or is damaged.
        ConfigError: something else lies there.
        DataError: the corpus is too small for the splits.
    """
    check_addresses()
    if (folder / "manifest.json").exists():
        store = TokenStore.open(folder, verify=True)
        if differences := _differences(store.manifest["spec"], asdict(spec)):
            raise CacheError(
                f"{folder} holds tokens made from another [data] table: {differences}. Use another study folder, or "
                "delete this one"
            )
        if spec.world is None and not store.manifest.keys() & {"duplicates", "sources"}:
            say(f"{folder}: an earlier version prepared this text; near copies across splits were not looked for")
        return store
    with saving(folder), building(folder) as part:
        if spec.world is not None:
            _build_world(spec, spec.world, part, say)
        elif files := files_of_ids(spec.corpus, spec.text_column):
            _build_ids(spec, files, part, say)
        else:
            _build_corpus(spec, part, say)
    return TokenStore.open(folder)


def world_of(store: TokenStore) -> World:
    """The world that a token store was made from.

    Raises:
        ConfigError: its text is no world's.
    """
    spec = store.manifest["spec"]
    table = spec.get("world") if isinstance(spec, dict) else None
    if table is None:
        raise ConfigError(
            f"{store.folder}: the text is no world's, so nobody knows its exact distribution and no oracle can teach "
            "it. Make the text from a world with a [data.world] table, or name a model as teacher"
        )
    return open_world(from_table(WorldSpec, without_none(table), f"{store.folder}/manifest.json: world"))


def without_none(table: dict) -> dict:
    """A table as TOML would have it: JSON writes what is not set as null."""
    return {
        name: without_none(value) if isinstance(value, dict) else value
        for name, value in table.items()
        if value is not None
    }


def read_spec(folder: Path) -> DataSpec:
    """The text that a data folder was made from.

    Raises:
        CacheError: there is none, or it is damaged.
    """
    table = TokenStore.open(folder).manifest["spec"]
    return from_table(DataSpec, without_none(table), f"{folder}/manifest.json: spec")


def copy_data(source: Path, folder: Path, *, say: Callable[[str], None] = lambda message: None) -> None:
    """Take the tokens of another folder as they are: its text, splits and tokenizer; what is there is left alone.

    Raises:
        CacheError: the source is damaged.
        ConfigError: something else lies there.
    """
    if (folder / "manifest.json").exists():
        return
    TokenStore.open(source, verify=True)
    say(f"taking text, splits and tokenizer of {source}")
    with saving(folder), building(folder) as part:
        copy_into(source, part)


def _differences(old: dict, new: dict) -> str:
    """What changed, in words; a setting that did not exist when the folder was made had its default."""
    old = asdict(DataSpec()) | old
    changed = [k for k in new if old[k] != new[k]]
    return ", ".join(f"{k} was {old[k]!r}, now {new[k]!r}" for k in changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sorted:
    """Which document of the corpus goes where."""

    sides: np.ndarray
    """The split of every document that is read, strings, shape (documents,); empty for one that is dropped."""
    names: np.ndarray
    """Of every document, uint64 (data/documents.py), shape (documents,)."""
    sizes: np.ndarray
    """Their characters, shape (documents,)."""
    exact: int
    """Dropped as copies, whichever side they would have gone to."""
    near: Counter[tuple[str, str]]
    """Dropped as near copies: (its side, the side of the one that stays)."""

    @property
    def characters(self) -> int:
        """Of what is kept."""
        return int(self.sizes[self.sides != ""].sum())

    @property
    def words(self) -> str:
        """What was dropped."""
        return copies_in_words(self.exact, self.near)

    def to_json(self) -> dict[str, object]:
        """The manifest's `duplicates`."""
        near = {
            side: {other: self.near[side, other] for other in SPLITS if other != side}
            for side in ("teacher", "student")
        }
        return {
            "version": COPY_VERSION,
            "rule": COPY_RULE,
            "exact": self.exact,
            "near": near,
            "characters": int(self.sizes[self.sides == ""].sum()),
            "words": self.words,
        }


def _all_documents(spec: DataSpec) -> Iterator[str]:
    """The corpus; the same order at every call."""
    reading = Reading(
        text_column=spec.text_column,
        max_document_chars=spec.max_document_chars,
        section_chars=spec.section_chars,
        tokenizer=spec.tokenizer,
    )
    return read_documents(spec.corpus, reading)


def _documents(spec: DataSpec, sides: np.ndarray) -> Iterator[tuple[str, str]]:
    """(text, its side) of every document that is kept."""
    for text, side in zip(_all_documents(spec), sides, strict=True):
        if side:
            yield text, str(side)


def documents_of(spec: DataSpec, split: str) -> Iterator[str]:
    """The documents of one split, as text: the same ones whatever tokenizer the tokens are made with.

    Raises:
        ConfigError: the corpus is token ids.
        DataError: too few documents, or none left on a side.
    """
    if files_of_ids(spec.corpus, spec.text_column):
        raise ConfigError(f"corpus {spec.corpus!r} holds token ids: pieces are learnt on text; give that")
    return (text for text, side in _documents(spec, _sort(spec).sides) if side == split)


def _sort(spec: DataSpec) -> _Sorted:
    """Read the corpus once: drop copies, give every document its side, drop near copies across sides.

    Raises:
        DataError: too few documents, or none left on a side.
    """
    seen: set[bytes] = set()
    sizes, is_copy, sketches, digests = [], [], [], []
    for text in _all_documents(spec):
        digest = content_digest(text)
        digests.append(digest)
        sizes.append(len(text))
        is_copy.append(digest in seen)
        if digest not in seen:
            seen.add(digest)
            sketches.append(sketch(text))
    every = np.array(sizes, dtype=np.int64)
    originals = np.flatnonzero(~np.array(is_copy, dtype=bool))
    sides = assign_splits(every[originals], spec)
    gone = drop_near_copies(np.stack(sketches), sides, "validation")
    near = Counter((str(sides[goes]), str(sides[stays])) for goes, stays in gone.items())
    sides[list(gone)] = ""
    for side in ("teacher", "student"):
        if not (sides == side).any():
            raise DataError(
                f"the corpus {spec.corpus!r}: every document of the {side} split nearly repeats one of another split "
                f"({COPY_RULE}); add text"
            )
    whole = np.full(len(every), "", dtype=sides.dtype)
    whole[originals] = sides
    return _Sorted(sides=whole, names=document_names(digests), sizes=every, exact=sum(is_copy), near=near)


def _build_corpus(spec: DataSpec, folder: Path, say: Callable[[str], None]) -> None:
    say(f"reading {spec.corpus}")
    found = _sort(spec)
    say(found.words)
    tokenizer = load_tokenizer(spec.tokenizer) if spec.tokenizer else _train(spec, found.sides)
    with saving(folder):
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        kept = int(np.count_nonzero(found.sides))
        say(f"tokenising {kept} documents, {format_count(float(found.characters))} characters")
        progress = Telling("tokenising", float(found.characters), "characters", say)
        splits = _encode(spec, found.sides, tokenizer, folder, seen=progress.advance)
        write_names(folder, {split: found.names[found.sides == split] for split in SPLITS})
    _write_manifest(spec, folder, tokenizer, splits, characters=found.characters, copies=found.to_json())


RUNS = 1 << 16
"""Runs of whole documents that token shards are cut into for the splits: as many lines as a list of pieces has."""


def _build_ids(spec: DataSpec, files: list[Path], folder: Path, say: Callable[[str], None]) -> None:
    if spec.max_document_chars or spec.section_chars:
        raise ConfigError(
            "data.max_document_chars and data.section_chars count characters, and the corpus holds token ids; leave "
            "them out"
        )
    tokenizer = tokenizer_of_ids(spec.corpus, spec.tokenizer)
    size, end = len(tokenizer), tokenizer.eos_token_id
    opened: list[TokenFile] = []
    for number, path in enumerate(files):
        if path.suffix == ".parquet":
            say(f"copying the ids of {path}: Parquet is compressed and cannot be read where it lies")
            copied = folder / f"copied-{number:05d}.bin"
            opened.append(copy_parquet(path, spec.text_column, size, copied))
        else:
            opened.append(open_tokens(path, spec.text_column, size, end))
    total = sum(len(file.ids) for file in opened)
    say(f"{format_count(float(total))} token ids in {len(files)} files; copies among them are not looked for")
    sources = [_source(file, folder, size) for file in opened]
    step = max(1, total // RUNS)
    runs = np.array(
        [(k, first, last - first) for k, file in enumerate(opened) for first, last in file.spans(step, end)],
        dtype=np.int64,
    )
    held = spec.validation_documents
    if len(runs) < held + 2:
        raise DataError(
            f"the corpus {spec.corpus!r} has {len(runs)} documents; {held} held-out ones plus at least one each for "
            "teachers and students are needed. Add files, or lower data.validation_documents"
        )
    if not any(end in opened[k].ids[a : a + n][[0, -1]] for k, a, n in runs[:100].tolist()):
        say("no end of text between documents: what is read runs from one into the next")
    sides = assign_splits(runs[:, 2], spec)
    counts = _documents_in(runs, opened)
    with saving(folder):
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        splits = _hold_out(spec, runs[sides == "validation"], opened, tokenizer, folder)
        for side in ("teacher", "student"):
            chosen, file = runs[sides == side], folder / f"{side}{PIECES}"
            np.save(file, _joined(chosen))
            tokens = int(chosen[:, 2].sum())
            shard = {"file": file.name, "tokens": tokens, "sha256": pieces_hash(file, sources)}
            splits[side] = {"documents": int(counts[sides == side].sum()), "tokens": tokens, "shards": [shard]}
    _write_manifest(spec, folder, tokenizer, splits, characters=0, sources=sources)


def _source(file: TokenFile, folder: Path, vocab_size: int) -> dict[str, object]:
    """What the manifest says of a file of ids; by its absolute path if it is not in the folder."""
    is_own = file.path.parent == folder
    return {
        "file": file.path.name if is_own else str(file.path.resolve()),
        "bytes": file.path.stat().st_size,
        "sha256": file.vouch(vocab_size),
        **file.how,
    }


def _documents_in(runs: np.ndarray, opened: list[TokenFile]) -> np.ndarray:
    """How many documents each run holds; one where the file has no index and is too long to be read for it."""
    counts = np.ones(len(runs), dtype=np.int64)
    for number, file in enumerate(opened):
        mine = np.flatnonzero(runs[:, 0] == number)
        if file.start_of is not None and file.documents != len(mine):
            firsts = [file.document_at(first) for first in runs[mine, 1].tolist()]
            counts[mine] = np.diff([*firsts, file.documents])
    return counts


def _joined(runs: np.ndarray) -> np.ndarray:
    """Runs with those that follow one another as one piece."""
    follows = (runs[1:, 0] == runs[:-1, 0]) & (runs[1:, 1] == runs[:-1, 1] + runs[:-1, 2])
    heads = np.flatnonzero(np.r_[True, ~follows])
    return np.column_stack([runs[heads, :2], np.add.reduceat(runs[:, 2], heads)])


def _hold_out(
    spec: DataSpec, runs: np.ndarray, opened: list[TokenFile], tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> dict[str, dict]:
    """The first document of every run, copied; returns the manifest's split."""
    writer, end, bounds = ShardWriter(folder, "validation", _dtype(tokenizer)), tokenizer.eos_token_id, [0]
    most = spec.validation_tokens_per_document
    for number, first, count in runs.tolist():
        ids = opened[number].document(first, first + min(count, most + 1), end)  # an end of text may come first
        writer.append([end, *ids[:most]])
        bounds.append(writer.tokens)
    return _written(folder, {"validation": writer}, {"validation": len(runs)}, bounds=bounds)


def _build_world(spec: DataSpec, language: WorldSpec, folder: Path, say: Callable[[str], None]) -> None:
    say(f"drawing {format_count(spec.world_tokens)} tokens of {spec.source}")
    world, words = open_world(language), language.document_tokens
    shares = {"teacher": spec.teacher_share, "student": 1 - spec.teacher_share}
    tokens = {split: round(spec.world_tokens * share) + SPARE_TOKENS for split, share in shares.items()}
    counts = {split: -(-count // (words + 1)) for split, count in tokens.items()}
    counts["validation"] = spec.validation_documents
    kept = min(spec.validation_tokens_per_document, words)
    tokenizer = word_tokenizer(world.spelling)
    with saving(folder):
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        writers = {split: ShardWriter(folder, split, _dtype(tokenizer)) for split in counts}
        for split, writer in writers.items():
            for words_NL in world.blocks(split, counts[split]):
                column = np.full((len(words_NL), 1), world.end_of_text)
                parts = [column, words_NL[:, :kept]] if split == "validation" else [words_NL, column]
                writer.append(np.concatenate(parts, axis=1).ravel())
        splits = _written(folder, writers, counts, bounds=range(0, (counts["validation"] + 1) * (kept + 1), kept + 1))
    _write_manifest(spec, folder, tokenizer, splits, characters=0)


def _written(
    folder: Path, writers: Mapping[str, ShardWriter], documents: Mapping[str, int], *, bounds: Sequence[int]
) -> dict[str, dict]:
    """The manifest's `splits` of what was written, with the held-out documents' bounds beside the shards."""
    for writer in writers.values():
        writer.flush()
    np.save(folder / HELDOUT_BOUNDS, np.array(bounds, dtype=np.int64))
    return {
        split: {"documents": int(documents[split]), "tokens": writer.tokens, "shards": writer.files}
        for split, writer in writers.items()
    }


def _write_manifest(
    spec: DataSpec,
    folder: Path,
    tokenizer: "PreTrainedTokenizerBase",
    splits: dict[str, dict],
    *,
    characters: int,
    copies: Mapping[str, object] | None = None,
    sources: list[dict[str, object]] | None = None,
) -> None:
    name = tokenizer_hash(tokenizer)
    with saving(folder):
        others = {path.name: file_sha256(path) for path in sorted((folder / "tokenizer").iterdir())}
        others |= {name: file_sha256(folder / name) for name in BESIDE if (folder / name).exists()}
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "spec": asdict(spec),
            "source": spec.source,
            "tokenizer_hash": name,
            "vocab_size": len(tokenizer),
            "dtype": _dtype(tokenizer).name,
            "documents": sum(split["documents"] for split in splits.values()),
            "characters": characters,
            "splits": splits,
            "data_hash": manifest_hash(name, splits),
            "files": others,
            **({"duplicates": copies} if copies else {}),
            **({"sources": sources} if sources else {}),
        },
    )


def _dtype(tokenizer: "PreTrainedTokenizerBase") -> np.dtype:
    return np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)


def _encode(
    spec: DataSpec,
    sides: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    *,
    seen: Callable[[float], None],
) -> dict[str, dict]:
    """Write the shards of every split; returns the manifest's `splits`; `seen` is told of characters."""
    end = tokenizer.eos_token_id
    writers = {split: ShardWriter(folder, split, _dtype(tokenizer)) for split in SPLITS}
    heldout_bounds = [0]
    documents = _documents(spec, sides)
    while chunk := list(islice(documents, 64)):
        for (_, side), ids in zip(chunk, encode_documents(tokenizer, [text for text, _ in chunk]), strict=True):
            if side == "validation":
                kept = ids[: spec.validation_tokens_per_document]
                writers[side].append([end, *kept])
                heldout_bounds.append(writers[side].tokens)
            else:
                writers[side].append([*ids, end])
        seen(sum(len(text) for text, _ in chunk))
    return _written(folder, writers, {split: np.sum(sides == split) for split in SPLITS}, bounds=heldout_bounds)


def _train(spec: DataSpec, sides: np.ndarray) -> "PreTrainedTokenizerBase":
    def sample() -> Iterator[str]:
        left = TOKENIZER_SAMPLE_CHARS
        for text, side in _documents(spec, sides):
            if side != "validation" and left > 0:
                left -= len(text)
                yield text

    return train_tokenizer(sample(), vocab_size=spec.vocab_size)


def assign_splits(sizes: np.ndarray, spec: DataSpec) -> np.ndarray:
    """The split of each document, shape (documents,), by a permutation that the seed fixes.

    The first `validation_documents` of the permutation are held out; the rest go to whichever of teacher and
    student is further below its share of the characters so far.

    Raises:
        DataError: fewer documents than held-out ones plus one for each side.
    """
    held = spec.validation_documents
    if len(sizes) < held + 2:
        raise DataError(
            f"the corpus {spec.corpus!r} has {len(sizes)} documents; {held} held-out ones plus at least one each "
            "for teachers and students are needed. Add text, set data.section_chars to cut long documents "
            "into sections (e.g. 20000), or lower data.validation_documents"
        )
    order = np.random.Generator(np.random.Philox(key=spec.seed)).permutation(len(sizes))
    sides = np.empty(len(sizes), dtype="<U10")
    sides[order[:held]] = "validation"
    totals = {"teacher": 0.0, "student": 0.0}
    shares = {"teacher": spec.teacher_share, "student": 1 - spec.teacher_share}
    for index in order[held:]:
        side = min(totals, key=lambda name: totals[name] / shares[name])
        sides[index] = side
        totals[side] += float(sizes[index])
    return sides


def require_tokens(store: TokenStore, needed: Mapping[str, int], *, context: int) -> None:
    """Refuse a study that would read past the end of a split, before anything is trained.

    Args:
        needed: split (or `union`) -> tokens of the longest run on it.

    Raises:
        DataError: a split is smaller than the longest run on it (both numbers named).
    """
    for name, tokens in needed.items():
        have = store.split(name, context=context).num_tokens
        if have < tokens:
            raise DataError(
                f"the {name} split has {have} tokens, the longest run on it needs {tokens}: a study is single-epoch, "
                "since repeated text bends the token exponent. Lower the tokens, add text, or change "
                "data.teacher_share"
            )
