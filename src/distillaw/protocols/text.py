"""How much text a corpus holds, estimated from file sizes, so that a design can be fitted to it before it is read."""

import math
from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import DataError
from distillaw.runs.files import require_file

_CHARS_SMALL, _CHARS_LARGE = (512, 2.11), (32768, 4.4)
"""Vocabulary -> characters per token of English: measured on the books of the open study; usual for large ones."""
_USABLE, _EXACT = 0.8, 0.93
"""Share counted on where the number of documents is not known, and where it is: the estimate has an error."""


def chars_per_token(vocab: int) -> float:
    """Characters of English per token of a byte-level BPE of so many entries: linear in ln V between two knowns."""
    (v, c), (w, d) = _CHARS_SMALL, _CHARS_LARGE
    return c + (d - c) * math.log(vocab / v) / math.log(w / v)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSize:
    """What can be known of a corpus without reading it."""

    chars: float
    documents: int | None
    """None where files do not say how many they hold."""

    def half(self, vocab: int, *, held_out: int) -> float:
        """About how many tokens teachers and students get each, so many documents held out."""
        left = _USABLE if self.documents is None else max(0.0, 1 - held_out / max(self.documents, 1)) * _EXACT
        return left * self.chars / chars_per_token(vocab) / 2


SHIPPED_SIZES = {"sotu": TextSize(chars=10.76e6, documents=233)}
"""Of the texts that ship with the package."""


def text_size(corpus: str, *, max_document_chars: int = 0) -> TextSize | None:
    """The size of a corpus; None where it cannot be looked at cheaply."""
    if corpus in SHIPPED_SIZES:  # known, so that a dry run of the quickstart needs no Parquet reader
        size = SHIPPED_SIZES[corpus]
        longest = max_document_chars or math.inf
        return TextSize(chars=min(size.chars, longest * (size.documents or 0)), documents=size.documents)
    path = Path(corpus).expanduser()
    if corpus.startswith("hub:") or not path.exists() or (path / "dataset_info.json").exists():
        return None
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    sizes = [
        _file_size(file, max_document_chars)
        for file in files
        if file.suffix in (".txt", ".jsonl", ".parquet")
    ]
    if not sizes:
        return None
    counts = [size.documents for size in sizes if size.documents is not None]
    return TextSize(
        chars=sum(size.chars for size in sizes), documents=sum(counts) if len(counts) == len(sizes) else None
    )


def _file_size(path: Path, longest: int) -> TextSize:
    if path.suffix == ".parquet":
        return _parquet_size(path, longest)
    size = float(path.stat().st_size)
    if path.suffix == ".txt":
        return TextSize(chars=min(size, longest) if longest else size, documents=1)
    return TextSize(chars=size, documents=None)


def _parquet_size(path: Path, longest: int) -> TextSize:
    """Uncompressed bytes of the widest column, capped by the documents' limit."""
    from pyarrow import ArrowException
    from pyarrow import parquet as pq

    try:
        meta = pq.read_metadata(require_file(path))
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None
    columns = [0.0] * meta.num_columns
    for group in range(meta.num_row_groups):
        for column in range(meta.num_columns):
            columns[column] += meta.row_group(group).column(column).total_uncompressed_size
    whole = max(columns, default=0.0)
    return TextSize(
        chars=min(whole, float(longest * meta.num_rows)) if longest else whole, documents=meta.num_rows
    )
