"""Pairs from two models: a teacher's answer as the chosen one, a student's as the rejected one.

Nobody judged them: `judged` is false in every line, and the names of both models stand beside. That the teacher's
answer is the better one is an assumption, fair for a strong teacher and a weak student, false for single prompts.
"""

from dataclasses import dataclass
from pathlib import Path

from distillaw.errors import ConfigError, DataError
from distillaw.instruct.generate import about_file
from distillaw.instruct.journal import Journal
from distillaw.runs.files import read_json, write_json, write_text
from distillaw.runs.places import GENERATOR, check_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What became of the answers."""

    pairs: int
    cut_off: int
    """Prompts left out because an answer met the limit of tokens."""
    alike: int
    """Left out because both said the same."""


def contrast_answers(chosen: Path, rejected: Path, out: Path) -> Contrast:
    """Join two files of answers to the same prompts into pairs for `distillaw instruct dpo`.

    Args:
        chosen: the teacher's answers, by `generate_answers`.
        rejected: the student's.
        out: a .jsonl file, written whole.

    Raises:
        DataError: the two did not answer the same prompts.
    """
    import json

    about = [read_json(about_file(file)) for file in (chosen, rejected)]
    theirs, ours = ({str(row["prompt"]): row for row in Journal(file).rows()} for file in (chosen, rejected))
    if theirs.keys() != ours.keys() or any(_asked(theirs[i]) != _asked(ours[i]) for i in theirs):
        raise DataError(
            f"{chosen} and {rejected} do not answer the same prompts; generate both from one file"
        )
    rows, cut_off, alike = [], 0, 0
    for index in sorted(theirs, key=int):
        better, worse = _said(theirs[index]), _said(ours[index])
        if theirs[index]["truncated"] or ours[index]["truncated"]:
            cut_off += 1
        elif better == worse:
            alike += 1
        else:
            rows.append({
                "prompt": _asked(theirs[index]), "chosen": better, "rejected": worse,
                "chosen_by": about[0]["teacher"], "rejected_by": about[1]["teacher"], "judged": False,
            })  # fmt: skip
    check_file(about_file(out))
    if out.exists() and out.stat().st_size and not about_file(out).exists():
        raise ConfigError(f"{out} exists and was not written by this command; choose another --out")
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), known=True)
    write_json(about_file(out), {"generator": GENERATOR, "teacher": about[0]["teacher"],
                                 "student": about[1]["teacher"], "judged": False,
                                 "pairs": len(rows), "cut_off": cut_off, "alike": alike})  # fmt: skip
    return Contrast(pairs=len(rows), cut_off=cut_off, alike=alike)


def _messages(row: dict[str, object]) -> list[dict[str, str]]:
    messages = row["messages"]
    assert isinstance(messages, list)
    return messages


def _asked(row: dict[str, object]) -> list[dict[str, str]]:
    return _messages(row)[:-1]


def _said(row: dict[str, object]) -> str:
    return _messages(row)[-1]["content"]
