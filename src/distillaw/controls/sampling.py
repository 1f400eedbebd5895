"""Whose text did whom read, how often was a run repeated, and are the study's effects large against that noise?"""

from collections.abc import Mapping
from dataclasses import dataclass

from distillaw.controls.control import About, Control
from distillaw.controls.study_runs import StudyRuns
from distillaw.errors import CacheError
from distillaw.planning.measured import MeasuredPoint
from distillaw.quantities import format_count
from distillaw.runs.files import read_json
from distillaw.runs.record import budget_text

# --- text: disjoint halves, and none of it twice ------------------------------------------------------------


DISJOINT = About(
    name="disjoint-text",
    guards="a teacher is over-confident on text it has learnt: its students get targets unlike those of fresh text",
    remedy="train students on the student split from teachers of the teacher split; make a teacher that saw the "
    "student's text a control of its own",
)
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
        name: {
            "documents": splits[name].get("documents"),
            "tokens": splits[name].get("tokens"),
            "files": [shard.get("sha256") for shard in splits[name].get("shards", ())],
        }
        for name in ("teacher", "student")
    }


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
        return EPOCH.control(
            "passed",
            f"{len(known)} runs up to {budget_text(longest.tokens)} tokens, each once",
            most_epochs=most,
        )
    return EPOCH.control(
        "failed",
        f"{len(repeated)} of {len(known)} runs read text again, up to {most:.3g} times",
        most_epochs=most,
        runs=[run.run_id for run in repeated],
    )


# --- seeds: is the noise measured, and are effects large against it? ----------------------------------------


SEEDS = About(
    name="seeds",
    guards="one run per cell shows no training noise, and luck is read as an effect",
    remedy="add [[replicates]] with seeds = 5 for two student sizes, alone and from one teacher",
)
ERRORS = About(
    name="paired-errors",
    guards="an effect of two standard errors is often half its size, or none, in the next study",
    remedy="more seeds where seeds dominate the error, more held-out documents where those do",
)
LEAST_SEEDS, LEAST_CELLS = 5, 2
CLAIMED, SHARE = 2.0, 3.0
"""An effect of this many standard errors is claimed; it should have at least `SHARE` of them."""


def check_seeds(runs: StudyRuns) -> Control:
    """Five seeds of two student sizes, each alone and from a teacher at one token count.

    Branches of one trunk share their luck, so two token counts of one size are not two cells.
    """
    most: dict[int, tuple[int, int]] = {}  # size -> (seeds, tokens)
    for params, tokens in sorted({(n, d) for n, d, _ in runs.grid}):
        alone = runs.grid.get((params, tokens, ""), {})
        pairs = [
            len(alone.keys() & seeds.keys())
            for (n, d, t), seeds in runs.grid.items()
            if (n, d) == (params, tokens) and t
        ]
        most[params] = max(most.get(params, (0, 0)), (max(pairs, default=len(alone)), tokens))
    enough = [size for size, (seeds, _) in most.items() if seeds >= LEAST_SEEDS]
    names = {size: next(run.label for run in runs.record.students if run.params == size) for size in most}
    numbers = {"seeds": {names[size]: seeds for size, (seeds, _) in most.items()}}
    if all(seeds < 2 for seeds, _ in most.values()):
        return SEEDS.control("not done", "no cell was repeated with another seed", **numbers)
    shown = [
        f"{seeds} of {names[size]} at {budget_text(tokens)} tokens"
        for size, (seeds, tokens) in most.items()
        if seeds > 1
    ]
    words = (
        f"seeds: {', '.join(shown)}; wanted {LEAST_SEEDS} of {LEAST_CELLS} sizes, alone and from a teacher"
    )
    return SEEDS.control("passed" if len(enough) >= LEAST_CELLS else "failed", words, **numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Effect:
    """Something that the study's cells show."""

    what: str
    size: float
    se: float

    @property
    def ratio(self) -> float:
        """Effect in standard errors."""
        return abs(self.size) / self.se


def check_errors(runs: StudyRuns) -> Control:
    """Every effect of two standard errors, which a reader will take for one, has three.

    Effects: the gain of the best teacher in each cell, and how much worse the strongest teacher is than the best.
    """
    effects = [effect for cell in runs.cells for effect in _effects(cell)]
    if not effects:
        return ERRORS.control("not applicable", "no student has a teacher")
    numbers = {e.what: {"effect": e.size, "se": e.se} for e in effects}
    claimed = [e for e in effects if e.ratio > CLAIMED]
    if not any(run.scores is not None for run in runs.record.students):
        return ERRORS.control(
            "not done", "losses by document did not come along, so nothing can be paired", effects=numbers
        )
    if not claimed:
        return ERRORS.control(
            "undecided",
            f"none of {len(effects)} effects exceeds {CLAIMED:g} standard errors",
            effects=numbers,
        )
    least = min(claimed, key=lambda e: e.ratio)
    words = f"least certain of {len(claimed)} claims: {least.what}, {least.size:.3f} +- {least.se:.3f} nats"
    weak = [e for e in claimed if e.ratio < SHARE]
    if weak:
        return ERRORS.control(
            "failed",
            f"{len(weak)} of {len(claimed)} claims have errors above a third; {words}",
            effects=numbers,
        )
    return ERRORS.control("passed", f"{words} ({least.ratio:.1f} standard errors)", effects=numbers)


def _effects(cell: MeasuredPoint) -> list[_Effect]:
    where = f"{cell.label} on {budget_text(cell.tokens)} tokens"
    found = []
    if cell.best is not None:
        found.append(
            _Effect(
                what=f"gain of {where} from the {cell.best.teacher}", size=cell.best.gain, se=cell.best.se
            )
        )
    if cell.gap is not None:
        found.append(_Effect(what=f"depth of the U of {where}", size=cell.gap.depth, se=cell.gap.sd))
    return found
