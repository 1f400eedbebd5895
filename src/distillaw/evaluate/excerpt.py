"""Which documents of a text a measurement reads: whole ones, the same for every model, within a budget of bytes.

Documents are taken in the order of their hashes, which is random with respect to everything else: the same text and
budget give the same excerpt on any machine, and a larger budget only adds to it. Repeats of a document count once.
"""

import bisect
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distillaw.data.corpus import WHOLE, Reading, read_documents
from distillaw.data.mixture import parse_mixture
from distillaw.errors import ConfigError, DataError
from distillaw.quantities import format_bytes


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
        text: as in `read_excerpt`; what lies on the hub is not fetched, only its name is read.
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
            next(iter(read_documents(corpus, Reading(text_column=reading.text_column))), None)
        elif not re.fullmatch(r"hub:[\w.-]+(/[\w.-]+)?(:[^:]+)?", corpus):
            raise ConfigError(
                f"--text {corpus}: a dataset on the hub is hub:owner/name or hub:owner/name:split"
            )


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


def _lowest_hashes(
    documents: Iterable[str], max_bytes: float | None
) -> tuple[list[tuple[bytes, str]], int, int]:
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
