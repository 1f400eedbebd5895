"""From a table of anybody's runs to the question that `study next` answers."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from distillaw.cli.next_setup import HALVINGS, Asked, Setup, whole
from distillaw.errors import ConfigError
from distillaw.fitting.observations import Observations
from distillaw.planning.decision import MARGIN
from distillaw.quantities import format_count, parse_count
from distillaw.settling.question import NONE, Candidate, PilotRun, Question, Size

FLOPS = 6.0
"""Of training, per parameter and token; a teacher's forward pass takes a third."""
UNPRICED = "teachers' forward passes are not counted: teacher_params is missing in some rows"


def setup_of_table(rows: Observations, asked: Asked) -> Setup:
    """The question of a table of runs (`fitting.observations.Observations`): every teacher in it is a candidate.

    FLOP are 6 N D, and 2 N_T D for a teacher of known size.

    Raises:
        ConfigError: no target, no teacher.
    """
    if asked.params is None or asked.tokens is None:
        raise ConfigError("name the student in question: --student 7B --tokens 1T")
    params, tokens = (
        parse_count(asked.params, name="--student"),
        parse_count(asked.tokens, name="--tokens"),
    )
    taught = np.isfinite(rows.teacher_loss)
    pairs = zip(rows.teacher_loss[taught], np.nan_to_num(rows.teacher_params[taught]), strict=True)
    known = sorted({(float(loss), float(size)) for loss, size in pairs})
    named = {(loss, size): _teacher_name(loss, size) for loss, size in known}
    candidates = tuple(Candidate(name=named[key], loss=key[0], flops=FLOPS / 3 * key[1]) for key in known)
    sizes = sorted(
        {params / 2**k for k in range(HALVINGS + 1)} | {float(n) for n in rows.params if n <= params}
    )
    unit = 10 ** max(0, math.floor(math.log10(min(tokens, float(rows.tokens.min())))) - 2)
    question = Question(
        target=_plain(params), tokens=tokens, candidates=candidates, budget=math.inf,
        margin=asked.margin or MARGIN * min(c.loss for c in candidates), sizes=tuple(_plain(n) for n in sizes),
        least_tokens=whole(min(float(rows.tokens.min()), tokens / 1000), unit), batch_tokens=unit,
    )  # fmt: skip
    notes = () if all(size for _, size in known) else (UNPRICED,)
    return Setup(question=question, runs=tuple(_table_runs(rows, named)), spec=None, notes=notes)


def _plain(params: float) -> Size:
    return Size(label=format_count(params, digits=4), params=params, flops=FLOPS * params)


def _teacher_name(loss: float, size: float) -> str:
    return f"{format_count(size)} teacher of {loss:.4g}" if size else f"teacher of {loss:.4g}"


def _table_runs(rows: Observations, named: Mapping[tuple[float, float], str]) -> Iterator[PilotRun]:
    """The rows, repeats of a cell counted as seeds."""
    seen: dict[tuple[float, float, str], int] = {}
    sizes = np.nan_to_num(rows.teacher_params)
    for N, D, loss, teacher, size in zip(
        rows.params, rows.tokens, rows.loss, rows.teacher_loss, sizes, strict=True
    ):
        name = named[float(teacher), float(size)] if np.isfinite(teacher) else NONE
        cell = (float(N), float(D), name)
        seen[cell] = seen.get(cell, -1) + 1
        yield PilotRun(candidate=name, params=float(N), tokens=float(D), seed=seen[cell], loss=float(loss))
