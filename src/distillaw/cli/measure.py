"""Candidate teachers measured on a text, for `distillaw scout` and `distillaw plan --scout` alike.

What can be refused without torch is refused before it is imported.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.cli.counts import count
from distillaw.cli.output import Output
from distillaw.data.corpus import WHOLE, Reading

if TYPE_CHECKING:
    from distillaw.evaluate.scout import ScoutedTeacher
    from distillaw.models.source import ModelSource


def measure(
    models: Sequence[str],
    text: str,
    reading: Reading = WHOLE,
    *,
    max_bytes: str | None = None,
    context: int | None = None,
    stride: int | None = None,
    out: Path | None = None,
    device: str = "auto",
    output: Output = Output(),
) -> "list[ScoutedTeacher]":
    """One result per model, in the order given; progress goes to stderr.

    Args:
        models: as `scout_teachers` takes them.
        text: as `read_documents` takes it.
        reading: the field, and how much of each document.
        max_bytes: as typed, e.g. `2M`; None reads all.
        context: as in `scout_teachers`.
        stride: as in `scout_teachers`.
        out: folder that keeps results.
        device: cpu, cuda or auto.
        output: takes notes.

    Raises:
        ConfigError: an option that cannot be, in the words of the command line.
        CacheError: no model at a path.
        DataError: a text that cannot be read.
    """
    budget = None if max_bytes is None else count(max_bytes, name="--max-bytes")
    sources = check_inputs(models, text, reading)
    from transformers.utils.logging import disable_progress_bar

    from distillaw.cli.torch_device import torch_device
    from distillaw.evaluate.scout import scout_teachers
    from distillaw.train.memory import keep_freed_memory

    disable_progress_bar()
    keep_freed_memory()
    with output.working("measuring") as step:
        return scout_teachers(
            sources, text, max_bytes=budget, context=context, stride=stride, out=out,
            device=torch_device(device, *models),
            say=step, **asdict(reading),
        )  # fmt: skip


def check_inputs(models: Sequence[str], text: str, reading: Reading) -> "list[ModelSource]":
    """The models, and a text that can be read, without torch; arguments and errors as in `measure`."""
    from distillaw.data.corpus import check_text
    from distillaw.models.source import locate

    check_text(text, reading)
    return [locate(model) for model in models]
