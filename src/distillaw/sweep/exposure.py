"""What an external teacher has read of the text that its students are to read.

A teacher is over-confident on its own training text, and its held-out loss is too low where it has read that too, so
students of such a teacher say nothing of students on other text. Its run's folder says which split of which data folder
it was trained on, documents are compared (data/documents.py); of a model whose folder does not say, nothing is known.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from distillaw.data.documents import Shared, shared_documents
from distillaw.data.shards import TokenStore
from distillaw.errors import CacheError, ConfigError
from distillaw.runs.files import read_json
from distillaw.runs.store import SPEC
from distillaw.worlds.oracle import is_oracle

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
