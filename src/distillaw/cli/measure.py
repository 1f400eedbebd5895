"""Candidate teachers measured on a text, for `distillaw scout` and `distillaw plan --scout` alike.

What can be refused without torch is refused before it is imported, and in the words that were typed: the readers of
text speak of the keys of a study file.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.counts import count
from distillaw.errors import ConfigError, DataError

if TYPE_CHECKING:
    from distillaw.evaluate.scout import ScoutedTeacher
    from distillaw.models.source import ModelSource

_TYPED = (
    (r"data\.corpus = (['\"])(.*?)\1", r"--text \2"),
    (r"Set data\.text_column", "Name it with --text-column"),
)
"""Keys of a study file, and the options that mean the same here."""


def measure(
    models: Sequence[str],
    text: str,
    *,
    max_bytes: str | None = None,
    context: int | None = None,
    stride: int | None = None,
    text_column: str = "text",
    max_document_chars: int = 0,
    section_chars: int = 0,
    out: Path | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> "list[ScoutedTeacher]":
    """One result per model, in the order given; progress goes to stderr.

    Args:
        models: as `scout_teachers` takes them.
        text: as `read_documents` takes it.
        max_bytes: as typed, e.g. `2M`; None reads all.
        context: as in `scout_teachers`.
        stride: as in `scout_teachers`.
        text_column: the field that holds the text.
        max_document_chars: first characters read of each document; 0 reads all.
        section_chars: length of the sections that documents are cut into; 0 does not cut.
        out: folder that keeps results.
        device: cpu, cuda or auto.
        quiet: no progress.

    Raises:
        ConfigError: an option that cannot be, in the words of the command line.
        CacheError: no model at a path.
        DataError: a text that cannot be read.
    """
    budget = None if max_bytes is None else count(max_bytes, name="--max-bytes")
    reading = {
        "text_column": text_column,
        "max_document_chars": max_document_chars,
        "section_chars": section_chars,
    }
    sources = check_inputs(models, text, **reading)  # type: ignore[arg-type]
    from transformers.utils.logging import disable_progress_bar

    from distillaw.cli.display import say
    from distillaw.cli.torch_device import torch_device
    from distillaw.evaluate.scout import scout_teachers
    from distillaw.train.memory import keep_freed_memory

    disable_progress_bar()
    keep_freed_memory()
    with _as_typed():
        return scout_teachers(
            sources, text, max_bytes=budget, context=context, stride=stride, out=out, device=torch_device(device),
            say=lambda message: say(f"  {message}", quiet=quiet), **reading,
        )  # fmt: skip


def check_inputs(
    models: Sequence[str], text: str, *, text_column: str, max_document_chars: int, section_chars: int
) -> "list[ModelSource]":
    """The models, and a text that can be read, without torch; arguments and errors as in `measure`."""
    from distillaw.evaluate.excerpt import check_text
    from distillaw.models.source import locate

    with _as_typed():
        check_text(
            text,
            text_column=text_column,
            max_document_chars=max_document_chars,
            section_chars=section_chars,
        )
    return [locate(model) for model in models]


@contextlib.contextmanager
def _as_typed() -> Iterator[None]:
    """Errors about the text name the option, not the key."""
    try:
        yield
    except (ConfigError, DataError) as error:
        words = str(error)
        for key, option in _TYPED:
            words = re.sub(key, option, words)
        raise type(error)(words) from error
