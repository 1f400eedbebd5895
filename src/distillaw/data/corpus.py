"""Where text comes from: local files, the shipped speeches, or a Hugging Face dataset; one document at a time.

A document is the unit of everything later: splits never cut one, held-out errors are clustered by it. Text must be
UTF-8; a file that is not is refused with the byte that is wrong. Several corpora can be one, each with a share of the
bytes (`mix:0.7*books.parquet + 0.3*zh.jsonl`). A measurement reads an excerpt: whole documents in the order of their
hashes, which is random with respect to everything else, within a budget of bytes. The same text and budget give the
same excerpt on any machine, a larger budget only adds to it, and repeats of a document count once. Torch-free.
"""

import bisect
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillaw.data.token_files import check_ids, open_tokens, parquet_documents, token_files
from distillaw.errors import ConfigError, DataError
from distillaw.quantities import did_you_mean, format_bytes
from distillaw.runs.files import parse_json, require_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIXTURE = "mix:"


def parse_mixture(corpus: str) -> list[tuple[float, str]]:
    """The (share, corpus) pairs of a mixture, shares of sum 1; of any other corpus it alone.

    Raises:
        ConfigError: a part without a positive weight or without a corpus, or a mixture of one.
    """
    if not corpus.startswith(MIXTURE):
        return [(1.0, corpus)]
    parts = []
    for part in corpus.removeprefix(MIXTURE).split(" + "):
        weight, star, name = (each.strip() for each in part.partition("*"))
        try:
            share = float(weight)
        except ValueError:
            share = math.nan
        if not star or not name or name.startswith(MIXTURE) or not 0 < share < math.inf:
            raise ConfigError(
                f"corpus {corpus!r}: {part.strip()!r} is no part of a mixture; write WEIGHT*CORPUS, joined by ' + ', "
                "e.g. 'mix:0.7*books.parquet + 0.3*zh.jsonl'"
            )
        parts.append((share, name))
    if len(parts) < 2:
        raise ConfigError(f"corpus {corpus!r}: a mixture has at least two parts, joined by ' + '")
    total = sum(share for share, _ in parts)
    return [(share / total, name) for share, name in parts]


def interleave(sources: Sequence[tuple[float, Iterator[str]]]) -> Iterator[str]:
    """Documents of several sources in turn, so that every prefix has the shares to within a document.

    The next document is always of the source that is furthest behind its share of UTF-8 bytes; the first source that
    ends ends the mixture, so nothing is repeated, and of the others the first documents are taken.

    Args:
        sources: (share, documents) of each.
    """
    read = [0.0] * len(sources)
    while True:
        behind = min(range(len(sources)), key=lambda i: read[i] / sources[i][0])
        text = next(sources[behind][1], None)
        if text is None:
            return
        read[behind] += len(text.encode())
        yield text


SHIPPED = {"sotu": "sotu.parquet"}
"""Corpora inside the package: the State of the Union addresses 1790-2018 (CC0, 233 documents, 10.7 MB)."""

_HALF = re.compile("[\ud800-\udfff]")
"""Surrogates: JSON may spell one alone, UTF-8 has no bytes for it."""
_SUFFIXES = (".txt", ".jsonl", ".parquet")
_NAME_IT = "Name the one that holds the text: text_column in [data] of a file, --text-column of a command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is read of each document."""

    text_column: str = "text"
    """The field or column that holds the text, in .jsonl, Parquet and datasets."""
    max_document_chars: int = 0
    """Only the first characters; 0 keeps all."""
    section_chars: int = 0
    """Cut into sections of about this many characters at line ends, each then a document of its own (for corpora of
    few long texts); 0 does not cut."""
    tokenizer: str = ""
    """Of a corpus of token ids (docs/shards.md): the tokenizer that made them, with which they are read as text."""


WHOLE = Reading()
"""Whole documents, in the field `text`."""


def read_documents(corpus: str, reading: Reading = WHOLE) -> Iterator[str]:
    """The documents of a corpus in a fixed order, empty ones dropped.

    Args:
        corpus: `sotu`; a .txt file (one document), .jsonl or .parquet file (one document a row); a folder of
            such files; or a Hugging Face dataset: a folder written by `save_to_disk`, or a hub name
            (`hub:owner/name`, `hub:owner/name:split`), which needs `pip install "distillaw[hub]"`; or several of
            these with shares of the bytes (`mix:0.7*A + 0.3*B`, data/corpus.py). Token ids (data/token_files.py) are
            read as the text they stand for.

    Raises:
        DataError: a file is unreadable, not UTF-8, or lacks the column.
        ConfigError: the corpus does not exist or has no known format.
    """
    if corpus.startswith(MIXTURE):
        yield from interleave([(share, read_documents(each, reading)) for share, each in parse_mixture(corpus)])
        return
    for text in _raw_documents(corpus, reading):
        kept = text[: reading.max_document_chars] if reading.max_document_chars else text
        for section in _sections(kept, reading.section_chars) if reading.section_chars else (kept,):
            if section.strip():
                yield section


def is_missing(corpus: str) -> bool:
    """Whether a corpus is a path of this machine at which nothing lies."""
    is_path = corpus not in SHIPPED and not corpus.startswith("hub:")
    path = Path(corpus).expanduser()
    return is_path and not (path.exists() or Path(f"{path}.idx").exists())


def files_of_ids(corpus: str, column: str) -> list[Path]:
    """The files of a corpus of token ids (data/token_files.py); none of any other corpus, and of mixtures."""
    is_path = corpus not in SHIPPED and not corpus.startswith(("hub:", MIXTURE)) and not is_missing(corpus)
    return token_files(corpus, column) if is_path else []


def check_apart(corpus: str, folder: Path) -> None:
    """Refuse to write into a folder of text: what is written would be read as text the next time.

    Raises:
        ConfigError: the folder is that of a corpus, or lies in it.
    """
    for _, each in parse_mixture(corpus):
        if each in SHIPPED or each.startswith("hub:"):
            continue
        text = Path(os.path.realpath(Path(each).expanduser()))  # Path.resolve raises at links in a ring
        if text.is_dir() and folder.resolve().is_relative_to(text):
            raise ConfigError(
                f"--out {folder} lies in the corpus {each}, whose folders are all read as text; choose a folder outside"
            )


def _raw_documents(corpus: str, reading: Reading) -> Iterator[str]:
    text_column = reading.text_column
    if files := files_of_ids(corpus, text_column):
        yield from _decoded(corpus, files, reading)
        return
    if corpus in SHIPPED:
        with resources.as_file(resources.files("distillaw.data") / "corpora" / SHIPPED[corpus]) as path:
            yield from _read_parquet(path, text_column)
        return
    if corpus.startswith("hub:"):
        yield from _read_hub(corpus.removeprefix("hub:"), text_column)
        return
    path = Path(corpus).expanduser()
    if is_missing(corpus):
        raise ConfigError(
            f"corpus {corpus!r}: no such file or folder{did_you_mean(corpus, SHIPPED)}. Give a path to "
            f"{', '.join(_SUFFIXES)} files, a folder of them, `hub:owner/name`, or {' or '.join(sorted(SHIPPED))} "
            "(in the package)"
        )
    if (path / "dataset_dict.json").exists():
        raise ConfigError(f"corpus {corpus!r} holds several splits; give one of them, e.g. {corpus}/train")
    if (path / "dataset_info.json").exists():
        yield from _column(_datasets("load_from_disk")(str(path)), text_column, str(path))
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES)
        if not files:
            raise ConfigError(f"corpus {corpus!r}: the folder holds no {', '.join(_SUFFIXES)} files")
        for file in files:
            yield from _read_file(file, text_column)
    else:
        yield from _read_file(path, text_column)


def tokenizer_of_ids(corpus: str, tokenizer: str) -> "PreTrainedTokenizerBase":
    """The tokenizer that made the ids of a corpus.

    Raises:
        ConfigError: it is not named, or cannot be loaded.
    """
    from distillaw.data.tokenizer import load_tokenizer

    if not tokenizer:
        raise ConfigError(
            f"corpus {corpus!r} holds token ids: name the tokenizer that made them, tokenizer in [data] of a file, "
            "--tokenizer of a command"
        )
    return load_tokenizer(tokenizer)


def _decoded(corpus: str, files: Sequence[Path], reading: Reading) -> Iterator[str]:
    tokenizer = tokenizer_of_ids(corpus, reading.tokenizer)
    end, size = tokenizer.eos_token_id, len(tokenizer)
    for path in files:
        if path.suffix == ".parquet":
            documents = parquet_documents(path, reading.text_column)
        else:
            file = open_tokens(path, reading.text_column, size, end)
            documents = (file.document(first, last, end) for first, last in file.spans(1, end))
        for ids in documents:
            check_ids(ids, size, str(path))
            yield str(tokenizer.decode(ids[ids != end].tolist()))


def _read_file(path: Path, text_column: str) -> Iterator[str]:
    try:
        with require_file(path).open("rb"):
            pass
    except OSError as error:  # said here: whoever prepares data takes an OSError for one of writing
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); move it out of the corpus, or make it a readable file"
        ) from None
    if path.suffix == ".txt":
        yield _decode(path.read_bytes(), str(path))
    elif path.suffix == ".jsonl":
        yield from _read_jsonl(path, text_column)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path, text_column)
    else:
        raise ConfigError(f"corpus {str(path)!r}: unknown format; use one of {', '.join(_SUFFIXES)}")


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start}). Convert it first, e.g. "
            f"`iconv -f latin1 -t utf-8 {where.partition(', line ')[0]}`"
        ) from None


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(`file, line 12`, the value) of every line of a .jsonl file that is not empty.

    Raises:
        DataError: a line that is not UTF-8, or not JSON.
    """
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            where = f"{path}, line {number}"
            if line := _decode(raw, where).strip():
                try:
                    value = parse_json(line)
                except ValueError as error:
                    raise DataError(f"{where}: not JSON ({error})") from None
                yield where, value


def _read_jsonl(path: Path, text_column: str) -> Iterator[str]:
    for where, row in json_lines(path):
        if not isinstance(row, dict) or not isinstance(row.get(text_column), str):
            fields = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{where}: no text field {text_column!r}; found {fields}. {_NAME_IT}")
        text = row[text_column]
        if not text.isascii() and (half := _HALF.search(text)):
            raise DataError(f"{where}: half a character (\\u{ord(half[0]):04x} without its pair) at {half.start()}")
        yield text


def _read_parquet(path: Path, text_column: str) -> Iterator[str]:
    try:
        from pyarrow import ArrowException
        from pyarrow import parquet as pq
    except ImportError:
        raise ConfigError(f'{path}: reading Parquet needs pyarrow: pip install "distillaw[train]"') from None
    try:
        file = pq.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None
    if text_column not in file.schema_arrow.names:
        raise DataError(f"{path}: no column {text_column!r}; found {file.schema_arrow.names}. {_NAME_IT}")
    try:
        for batch in file.iter_batches(batch_size=16, columns=[text_column]):
            yield from _texts(batch.column(0).to_pylist(), f"{path}, column {text_column!r}")
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({error})") from error


def _texts(values: Iterable[object], where: str) -> Iterator[str]:
    """The values that are text; missing ones are dropped, other types refused."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif value is not None:
            raise DataError(f"{where}: holds {type(value).__name__}, not text. {_NAME_IT}")


def _read_hub(name: str, text_column: str) -> Iterator[str]:
    repository, _, split = name.partition(":")
    load = _datasets("load_dataset")
    try:
        dataset = load(repository, split=split or "train")
    except Exception as error:  # the library raises many unrelated types for "not found" and "no network"
        raise DataError(
            f"corpus 'hub:{name}': {type(error).__name__}: {error}. Without a network, download it "
            "elsewhere with `save_to_disk` and give the folder"
        ) from error
    yield from _column(dataset, text_column, f"hub:{name}")


def _datasets(function: str):
    try:
        import datasets
    except ImportError:
        raise ConfigError('Hugging Face datasets need: pip install "distillaw[hub]"') from None
    return getattr(datasets, function)


def _column(dataset, text_column: str, where: str) -> Iterator[str]:
    if text_column not in dataset.column_names:
        raise DataError(f"{where}: no column {text_column!r}; found {dataset.column_names}. {_NAME_IT}")
    yield from _texts((row[text_column] for row in dataset), where)


def _sections(text: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + size)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """The documents to score."""

    documents: list[str]
    text_hash: str
    """Of the documents and their order, 16 hex digits."""

    @property
    def bytes_per_document(self) -> list[int]:
        """UTF-8 bytes of each document."""
        return [len(text.encode()) for text in self.documents]


def check_text(text: str | Path, reading: Reading = WHOLE) -> None:
    """Refuse what `read_excerpt` would refuse at once: before models are loaded, and for that without torch.

    Args:
        reading: its lengths are not negative; the first document is read for the field.

    Raises:
        ConfigError: no such text, no such format, or a length below zero.
        DataError: the first document cannot be read.
    """
    lengths = {"--max-document-chars": reading.max_document_chars, "--section-chars": reading.section_chars}
    for name, chars in lengths.items():
        if chars < 0:
            raise ConfigError(f"{name} {chars}: a number of characters, e.g. 4000; 0 leaves documents whole")
    for _, corpus in parse_mixture(str(text)):
        if not corpus.startswith("hub:"):
            whole = replace(reading, max_document_chars=0, section_chars=0)
            next(iter(read_documents(corpus, whole)), None)
        elif not re.fullmatch(r"hub:[\w.-]+(/[\w.-]+)?(:[^:]+)?", corpus):
            raise ConfigError(f"--text {corpus}: a dataset on the hub is hub:owner/name or hub:owner/name:split")


def read_excerpt(text: str | Path, reading: Reading = WHOLE, *, max_bytes: float | None = None) -> Excerpt:
    """Choose whole documents of a text.

    Args:
        text: a file, a folder or a corpus, as `data.corpus.read_documents` takes it.
        reading: the field, and how much of each document: many short beginnings say more than few whole documents of
            the same bytes.
        max_bytes: UTF-8 bytes at most; None: all.

    Raises:
        ConfigError: no such text, or fewer than two documents within the budget.
        DataError: unreadable, or fewer than two documents at all.
    """
    chosen, documents, available = _lowest_hashes(read_documents(str(text), reading), max_bytes)
    if documents < 2:
        raise DataError(
            f"{text}: {documents} document{'' if documents == 1 else 's'} with text in it; an error bar needs at "
            "least two different ones, and a good one thirty. Give more text, or cut it at line ends into sections: "
            "--section-chars 4000"
        )
    if len(chosen) < 2:
        mean = available / documents
        uncut = (
            f"; --section-chars {reading.section_chars} cuts at line ends, and few are there"
            if reading.section_chars and mean > 2 * reading.section_chars
            else ""
        )
        raise ConfigError(
            f"--max-bytes {max_bytes:g}: fewer than two whole documents of {text} fit ({documents} documents, "
            f"{format_bytes(available)} in all, {format_bytes(mean)} each on average{uncut}). Raise it, or "
            "read only the beginning of each document: --max-document-chars 4000"
        )
    whole = hashlib.sha256(b"".join(digest for digest, _ in chosen))
    return Excerpt(documents=[document for _, document in chosen], text_hash=whole.hexdigest()[:16])


def _lowest_hashes(documents: Iterable[str], max_bytes: float | None) -> tuple[list[tuple[bytes, str]], int, int]:
    """Documents by hash until the next would exceed the budget; how many different ones there are, and their bytes.

    No more than the budget and one document is held, whatever the size of the corpus.
    """
    kept: list[tuple[bytes, str]] = []
    seen: set[bytes] = set()
    held = total = 0
    for text in documents:
        raw = text.encode()
        digest = hashlib.sha256(raw).digest()
        if digest in seen:
            continue
        seen.add(digest)
        total += len(raw)
        bisect.insort(kept, (digest, text))
        held += len(raw)
        # what follows the first document that exceeds the budget can never come back into it
        while max_bytes is not None and held - len(kept[-1][1].encode()) > max_bytes:
            held -= len(kept.pop()[1].encode())
    if max_bytes is not None and held > max_bytes:
        kept.pop()
    return kept, len(seen), total
