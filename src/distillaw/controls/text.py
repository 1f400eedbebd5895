"""Whose text did whom read: disjoint halves, and none of it twice."""

from collections.abc import Mapping

from distillaw.controls.control import About, Control
from distillaw.controls.study_runs import StudyRuns
from distillaw.errors import CacheError
from distillaw.quantities import format_count
from distillaw.runs.files import read_json
from distillaw.runs.record import budget_text

DISJOINT = About(
    name="disjoint-text",
    guards="a teacher is over-confident on text it has learnt: its students get targets unlike those of fresh text",
    remedy="train students on the student split from teachers of the teacher split; make a teacher that saw the "
    "student's text a control of its own",
)  # fmt: skip
EPOCH = About(
    name="single-epoch",
    guards="repeated text is worth less than fresh text, so the longest budgets bend for another reason than the law's",
    remedy="more text, or smaller token budgets; leave repeated cells out of the grid",
    concerns=("laws",),
)


def check_disjoint(runs: StudyRuns) -> Control:
    """Teachers and students of the grid read different documents."""
    if not runs.taught_by:
        return DISJOINT.control("not applicable", "no student has a teacher")
    students = {str(run.row.get("split") or "") for run in runs.record.students}
    teachers = {t: str(_split_of(runs, t) or "") for t in runs.taught_by}
    splits = _manifest_splits(runs)
    numbers = {"student_splits": sorted(students), "teacher_splits": teachers, "manifest": splits}
    if students - {"student", ""}:
        return DISJOINT.control("failed", f"students read {', '.join(sorted(students))}", **numbers)
    if shared := [runs.arm_name(t) for t, split in teachers.items() if split == "student"]:
        return DISJOINT.control(
            "failed", f"students learn {', '.join(shared)}, which read their text", **numbers
        )
    if "" in students or "" in teachers.values():
        unknown = [runs.arm_name(t) for t, split in teachers.items() if not split]
        what = (
            f"what was read is not known of students {', '.join(unknown)}"
            if unknown
            else "the table has no splits"
        )
        return DISJOINT.control("undecided", what, **numbers)
    if not splits:
        return DISJOINT.control(
            "undecided", "the table says so, and no manifest came along to confirm it", **numbers
        )
    if splits["teacher"].get("files") == splits["student"].get("files"):
        return DISJOINT.control("failed", "the manifest names the same shards for both", **numbers)
    words = ", ".join(f"{name} {_documents(split)}{_count(split)} tokens" for name, split in splits.items())
    return DISJOINT.control("passed", f"split by document, {_copies(runs)}: {words}", **numbers)


def _split_of(runs: StudyRuns, teacher: str) -> object:
    known = runs.record.every_teacher.get(teacher)
    return known.row.get("split") if known is not None else None


def _manifest_splits(runs: StudyRuns) -> dict[str, dict[str, object]]:
    """Teacher and student split as the data's manifest has them; empty without one."""
    splits = _manifest(runs).get("splits")
    if not isinstance(splits, Mapping) or not all(
        isinstance(splits.get(s), Mapping) for s in ("teacher", "student")
    ):
        return {}
    return {
        name: {"documents": splits[name].get("documents"), "tokens": splits[name].get("tokens"),
               "files": [shard.get("sha256") for shard in splits[name].get("shards", ())]}
        for name in ("teacher", "student")
    }  # fmt: skip


def _manifest(runs: StudyRuns) -> Mapping[str, object]:
    try:
        return read_json(runs.record.folder / "data" / "manifest.json")
    except (CacheError, OSError):
        return {}


def _copies(runs: StudyRuns) -> str:
    found = _manifest(runs).get("duplicates")
    if not isinstance(found, Mapping):  # text of before near copies were looked for, or of a world
        return "exact copies dropped, near ones not looked for"
    return str(found.get("words"))


def _documents(split: Mapping[str, object]) -> str:
    return f"{split['documents']:,} documents, " if isinstance(split["documents"], int) else ""


def _count(split: Mapping[str, object]) -> str:
    tokens = split["tokens"]
    return format_count(float(tokens)) if isinstance(tokens, int) else "unknown"


def check_epoch(runs: StudyRuns) -> Control:
    """No main run reads a token twice."""
    known = [run for run in runs.main if run.number("unique_tokens") > 0]
    if not known:
        return EPOCH.control("not done", "the table does not say how many tokens are unique (unique_tokens)")
    repeated = [run for run in known if run.number("unique_tokens") < run.tokens]
    most = max((run.tokens / run.number("unique_tokens") for run in known), default=1.0)
    if not repeated:
        longest = max(known, key=lambda run: run.tokens)
        return EPOCH.control("passed", f"{len(known)} runs up to {budget_text(longest.tokens)} tokens, each once",
                             most_epochs=most)  # fmt: skip
    return EPOCH.control("failed", f"{len(repeated)} of {len(known)} runs read text again, up to {most:.3g} times",
                         most_epochs=most, runs=[run.run_id for run in repeated])  # fmt: skip
