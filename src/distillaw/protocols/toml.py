"""A sheet as a commented study file. Only what differs from the defaults is written, each table with its reason."""

import textwrap
from collections.abc import Iterable, Mapping

from distillaw.protocols.sheet import YOURS, Sheet
from distillaw.runs.config import to_table, toml_value
from distillaw.sweep.spec import DesignSpec, StudySpec

_WIDTH = 110


def study_file(sheet: Sheet, spec: StudySpec, heading: Iterable[str]) -> str:
    """The TOML text of a study.

    Args:
        sheet: the study with its reasons.
        spec: what it comes to; reading the text gives it back.
        heading: lines of the comment at the top.
    """
    parts = ["".join(_comment(line) for line in heading), _top(spec), _data(spec), _students(spec)]
    parts += [_entry("teachers", why, to_table(one)) for why, one in sheet.teachers]
    parts.append(_tuning(spec))
    parts += [_entry("replicates", why, to_table(one)) for why, one in sheet.replicates]
    parts += [_entry("cells", why, _cells(one)) for why, one in sheet.cells]
    if spec.target is not None:
        table = {"params": spec.target.params, "tokens": spec.target.tokens}
        parts.append("# the student that the verdict is about\n" + _table("[target]", table))
    parts.append(_training(spec))
    return "\n".join(part for part in parts if part)


def _top(spec: StudySpec) -> str:
    return (
        f"name = {toml_value(spec.name)}\n"
        f"batch_tokens = {toml_value(spec.batch_tokens)}   # the search for the batch starts here\n"
        f"peak_lr = {spec.peak_lr:g}   # at width 64; the search for the rate starts here\n"
    )


def _data(spec: StudySpec) -> str:
    data = spec.data
    named = data.corpus != YOURS
    lines = ["[data]"]
    lines.append(
        f"corpus = {toml_value(data.corpus)}" if named else 'corpus = ""   # yours: give it with --corpus'
    )
    lines.append(f"vocab_size = {data.vocab_size}   # its matrix is a modest share of the smallest student")
    lines.append(f"validation_documents = {data.validation_documents}   # errors are clustered by document")
    lines.append(f"validation_tokens_per_document = {data.validation_tokens_per_document}")
    lines.append("teacher_share = 0.5   # teachers and students read different documents")
    return "\n".join(lines) + "\n"


def _students(spec: StudySpec) -> str:
    students = {"params": spec.students.params, "tokens": spec.students.tokens}
    return "# the grid: every size to every budget, alone and from every teacher\n" + _table(
        "[students]", students
    )


def _tuning(spec: StudySpec) -> str:
    table: dict[str, object] = {"teacher": spec.tuning.teacher} if spec.tuning.teacher else {}
    if not spec.tuning.batch:
        table["batch"] = False
    why = "the rate is searched for both arms at the end sizes"
    why += ", the batch too" if spec.tuning.batch else "; the batch stays, so that all runs are paired"
    return _comment(why) + _table("[tuning]", table)


def _training(spec: StudySpec) -> str:
    changed = to_table(spec.training)
    return _table("[training]", changed) if changed else ""


_CELLS = ("name", "params", "tokens", "teachers", "seeds", "split", "init", "rates", "training", "holdout")
"""In the order in which one reads them."""


def _cells(one: DesignSpec) -> dict[str, object]:
    table = to_table(one)
    return {key: table[key] for key in _CELLS if key in table}


def _entry(name: str, why: str, table: Mapping[str, object]) -> str:
    return (_comment(why) if why else "") + _table(f"[[{name}]]", table)


def _table(head: str, table: Mapping[str, object]) -> str:
    return head + "\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in table.items())


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, _WIDTH - 2, subsequent_indent="  ")) or "#\n"
