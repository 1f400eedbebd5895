"""Which documents the splits of a data folder hold, so that two folders' texts can be compared.

A document is known by a hash of its text without white space. A world's splits are ranges of its positions and need no
list: two folders of one world share what splits of one name share.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillaw.data.shards import DOCUMENTS, TokenStore

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
        folder: of the data.
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
    spec, others = _spec(store), _spec(other)
    if spec.get("world") or others.get("world"):
        is_same = spec.get("world") == others.get("world")
        return Shared(student=float(is_same and "student" in parts), validation=0.0)
    mine, read = store.folder / DOCUMENTS, other.folder / DOCUMENTS
    if not (mine.exists() and read.exists()) or any(spec.get(key) != others.get(key) for key in CUTS):
        return None
    with np.load(mine) as own, np.load(read) as theirs:
        seen = np.concatenate([theirs[part] for part in sorted(parts)])
        return Shared(
            **{split: float(np.isin(own[split], seen).mean()) for split in ("student", "validation")}
        )


def _spec(store: TokenStore) -> Mapping[str, Any]:
    spec = store.manifest["spec"]
    assert isinstance(spec, dict)
    return spec
