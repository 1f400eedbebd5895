"""What a study folder holds, read once: runs that are done, runs that are not, searches, provenance.

The run folders are the truth; `runs.parquet`, where it exists, says which of them belong to the present study
file and what each served for. Anything missing or damaged is noted in `problems` and the rest is used: a report
of half a study is better than none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeGuard, TypeVar

from distillaw.errors import CacheError, DataError
from distillaw.quantities import LARGEST, format_count
from distillaw.runs.files import check_table, read_json, vouched
from distillaw.runs.paired import DocumentScores, read_scores, seed_noise
from distillaw.runs.spec import arm_of, arm_order, leading_arm, serves_laws
from distillaw.runs.store import RunFolder

CONCLUSION = "conclusion.json"
"""What `report/conclusion.py` drew from a study, and which laws it had."""
MOST_SHOWN = 1000
"""Runs in pictures, tables and controls: more can be neither read nor drawn, and what controls expect of laws takes
time that grows with their third power."""
_AS_THEY_ARE = "all run folders are used, also those of an earlier study file; `distillaw study run` writes it anew"
_RECIPE = "batch_tokens lambda distill_until temperature divergence top_k top_p init split cooldown".split()
NO_BASELINE = (
    "every student was cut out of its own teacher, so that none without a teacher is the baseline of all and no gain "
    "is measured; add fresh or fixed to [students] starts"
)
T = TypeVar("T")
SAME_SIZE = 0.25
"""Sizes that differ by less than this share are one size: shapes come in steps, so `0.1M` may be 92k exactly."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run: its result and, on demand, its held-out losses by document."""

    row: Mapping[str, object]
    folder: Path | None

    @property
    def run_id(self) -> str:
        """Name of the run and of its folder."""
        return str(self.row["run_id"])

    @property
    def params(self) -> int:
        """Non-embedding parameters."""
        return int(self.row["params"])  # type: ignore[call-overload]

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return int(self.row["tokens"])  # type: ignore[call-overload]

    @property
    def seed(self) -> int:
        """Seed of initialisation and data order."""
        return int(self.row["seed"])  # type: ignore[call-overload]

    @property
    def loss(self) -> float:
        """Held-out loss, nats/token."""
        return self.number("loss")

    @property
    def loss_se(self) -> float:
        """Its standard error over documents, nats/token; NaN where it was not written."""
        return self.number("loss_se")

    @property
    def teacher_run(self) -> str | None:
        """Run id of the teacher; None if trained on the data alone."""
        value = self.row.get("teacher_run")
        return None if value is None or value == "" else str(value)

    @property
    def start_run(self) -> str | None:
        """Run id (or folder) of the model that it was cut out of; None where it is fresh, or nobody wrote it."""
        value = self.row.get("start_run")
        return str(value) if value else None

    @cached_property
    def label(self) -> str:
        """The size as the study names it, e.g. `0.3M`."""
        spec = _read_optional(self.folder / "spec.json", []) if self.folder else {}
        return str(spec.get("label") or format_count(self.params))

    @property
    def group(self) -> str:
        """Runs of one group share a trunk, and its luck; one without is a group of its own."""
        return str(self.row.get("group") or self.run_id)

    @property
    def purpose(self) -> str:
        """`teacher`, `grid`, `tuning`, `holdout` or `control:NAME`."""
        return str(self.row.get("purpose") or ("teacher" if self.row.get("role") == "teacher" else "grid"))

    @property
    def arm(self) -> str:
        """Where its first weights are from (`ARMS`)."""
        return arm_of(self.row)

    @property
    def branch_lr(self) -> float:
        """The rate its cooldown began at; of runs that do not say, their peak: it did not fall."""
        rate = self.number("branch_lr")
        return self.number("peak_lr") if math.isnan(rate) else rate

    @property
    def recipe(self) -> tuple[object, ...]:
        """What runs at several rates have in common beside their place."""
        return tuple(self.row.get(name) for name in _RECIPE)

    def number(self, key: str) -> float:
        """A numeric entry of the row; NaN where it is missing."""
        value = self.row.get(key)
        return float(value) if isinstance(value, int | float) else math.nan

    @cached_property
    def scores(self) -> DocumentScores | None:
        """Per-document losses, or None where they were not kept, cannot be read, or are of one document alone."""
        if self.folder is None or not (self.folder / "heldout.parquet").exists():
            return None
        try:
            scores = read_scores(self.folder / "heldout.parquet")
        except (CacheError, DataError):
            return None
        return scores if len(scores.tokens) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedRun:
    """A run without a result: failed, still running, or only planned."""

    run_id: str
    state: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedRun:
    """A finished run that cannot be believed, and is in no comparison."""

    run_id: str
    why: str
    """The file, what is wrong with it, what to do."""
    row: Mapping[str, object]
    """What is known of it from elsewhere: its row of runs.parquet, else its spec.json; empty where neither tells."""

    def may_be_of(self, student_params: float, student_tokens: float | None) -> bool:
        """Whether a comparison of a student misses it: a run with or without a teacher of that size and budget."""
        role, purpose = self.row.get("role", "student"), str(self.row.get("purpose") or "grid")
        if role != "student" or not serves_laws(purpose):
            return False
        params, tokens = self.row.get("params"), self.row.get("tokens")
        if isinstance(params, int | float) and not is_near(params, student_params):
            return False
        return student_tokens is None or not isinstance(tokens, int | float) or is_near(tokens, student_tokens)


SEARCHED = {"learning_rate": "peak_lr", "horizon": "branch_lr", "batch": "batch_tokens"}
"""What is searched, as tuning.json calls it -> what it calls a value: the rate of the smallest budget and of the
largest, and the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search of one arm at one size, from tuning.json."""

    arm: str
    """As sweep/tuning.py names it: `supervised`, `distilled`, `teacher`, or of students that are cut."""
    size: str
    what: str
    """A key of `SEARCHED`."""
    tried: Sequence[tuple[float, float]]
    """(value, held-out loss), ascending; those that diverged are missing."""
    best: float | None
    """What the study took."""
    interior: bool
    """Whether it lay between worse ones."""


def read_searches(tuning: Mapping[str, object]) -> list[Search]:
    """The searches of tuning.json, arm by arm; what cannot be read is left out."""
    arms = tuning.get("arms")
    given = [arm for arm in arms if isinstance(arm, Mapping)] if isinstance(arms, Sequence) else []
    return [
        _read_search(arm, what, key)
        for arm in given
        for what, key in SEARCHED.items()
        if isinstance(arm.get(what), Mapping)
    ]


def _read_search(arm: Mapping, what: str, key: str) -> Search:
    found, params = arm[what], arm.get("params")
    points = [(entry.get(key), entry.get("loss")) for entry in found.get("grid", ()) if isinstance(entry, Mapping)]
    best = found.get("best")
    return Search(
        arm=str(arm.get("arm")),
        size=str(arm.get("size") or (format_count(params) if isinstance(params, int | float) else "")),
        what=what,
        tried=sorted((x, y) for x, y in points if x is not None and y is not None),
        best=best if isinstance(best, int | float) else None,
        interior=bool(found.get("interior")),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyRecord:
    """A study folder in memory; its fitted laws are read by `fitting/study.py`."""

    folder: Path
    info: Mapping[str, object]
    """study.json; empty where it is missing."""
    runs: Sequence[Run]
    unfinished: Sequence[UnfinishedRun]
    tuning: Mapping[str, object]
    """tuning.json; empty where it is missing."""
    problems: Sequence[str]
    """What could not be read or compared, one sentence each."""
    damaged: Sequence[DamagedRun] = ()
    """Runs that are left out because of damage; named in `problems`."""

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.info.get("name") or self.folder.name)

    @cached_property
    def searches(self) -> list[Search]:
        """For rates and batch."""
        return read_searches(self.tuning)

    @cached_property
    def students(self) -> list[Run]:
        """Those that comparisons and verdicts are about, of one arm (`leading_arm`).

        Lone ones that were cut out of one model each are left out: they are no baseline that teachers share.
        """
        return [run for run in self._leading if run.teacher_run] if self.lacks_baseline else self._leading

    @property
    def _leading(self) -> list[Run]:
        return self.arms[leading_arm(self.arms)] if self.arms else []

    @cached_property
    def trained(self) -> list[Run]:
        """Every run once: one that serves two arms is in `runs` for each. The grid's before a search's."""
        once: dict[str, Run] = {}
        for run in self.runs:
            if once.setdefault(run.run_id, run).purpose == "tuning":
                once[run.run_id] = run
        return list(once.values())

    @cached_property
    def lacks_baseline(self) -> bool:
        """Whether students of every teacher began from other weights, so that none without a teacher is theirs all."""
        return len({run.start_run or run.teacher_run for run in self._leading if run.arm == "pruned"} - {None}) > 1

    @cached_property
    def arms(self) -> dict[str, list[Run]]:
        """Finished students of the grid (not of searches and controls) by arm, in a fixed order, at their best rates.

        Imported runs do not say which of several rates was the search's; a study of our own has one.
        """
        found = [run for run in self.runs if run.row.get("role") == "student" and serves_laws(run.purpose)]
        by_arm: dict[str, list[Run]] = {}
        for run in found:
            by_arm.setdefault(run.arm, []).append(run)
        return {arm: _at_best_rates(by_arm[arm]) for arm in sorted(by_arm, key=arm_order)}

    @cached_property
    def students_by_size(self) -> dict[int, list[Run]]:
        """The same by parameters."""
        found: dict[int, list[Run]] = {}
        for run in self.students:
            found.setdefault(run.params, []).append(run)
        return found

    @cached_property
    def told_losses(self) -> dict[str, float]:
        """What the first student of each teacher says of its loss, by the teacher's run id; NaN where nothing."""
        found: dict[str, float] = {}
        for run in self.students:
            if (teacher := run.teacher_run) is not None and teacher not in found:
                found[teacher] = run.number("teacher_loss")
        return found

    @cached_property
    def student_cells(self) -> dict[int, dict[int, dict[tuple[str, int], Run]]]:
        """Students by parameters, tokens and (teacher, seed)."""
        cells: dict[int, dict[int, dict[tuple[str, int], Run]]] = {}
        for run in self.students:
            cells.setdefault(run.params, {}).setdefault(run.tokens, {})[run.teacher_run or "", run.seed] = run
        return cells

    @property
    def largest_compared(self) -> Run | None:
        """A student of the largest size, there of the most tokens, that were run with and without a teacher."""
        cells = (cell for budgets in self.student_cells.values() for cell in budgets.values())
        compared = [run for cell in cells for (teacher, seed), run in cell.items() if teacher and ("", seed) in cell]
        return max(compared, key=lambda run: (run.params, run.tokens), default=None)

    @cached_property
    def repeated_budgets(self) -> dict[int, list[int]]:
        """Tokens of the cells that tell of seed noise, by parameters."""
        found = {
            size: [b for b, cell in budgets.items() if seed_noise([{k: r.loss for k, r in cell.items()}])[1] > 0]
            for size, budgets in self.student_cells.items()
        }
        return {size: budgets for size, budgets in found.items() if budgets}

    @cached_property
    def arm_noise(self) -> tuple[float, float]:
        """Variance between repeats of one arm, not paired, and its degrees of freedom."""
        cells = [cell for budgets in self.student_cells.values() for cell in budgets.values()]
        return seed_noise([{k: r.loss for k, r in cell.items()} for cell in cells if len(cell) > 1], paired=False)

    def thinned(self, most: int = MOST_SHOWN) -> "StudyRecord":
        """About `most` of the runs: whole cells, evenly over compute, those with a teacher first; itself if small.

        A cell is a size and budget in all arms. Of one with very many seeds the lowest ones.
        """
        if len(self.runs) <= most:
            return self
        students = [run for runs in self.arms.values() for run in runs]
        by_place: dict[tuple[int, int], list[Run]] = {}
        for run in students:
            by_place.setdefault((run.params, run.tokens), []).append(run)
        cells = sorted(by_place.values(), key=lambda cell: cell[0].params * cell[0].tokens)
        taught = [cell for cell in cells if any(run.teacher_run for run in cell)]
        alone = [cell for cell in cells if not any(run.teacher_run for run in cell)]
        kept: list[Run] = []
        for group in (taught, alone):
            runs = max(1, sum(map(len, group)) // max(1, len(group)))
            for cell in evenly(group, max(0, most - len(kept)) // runs):
                kept += sorted(cell, key=lambda run: run.seed)[: max(most // 4, 1)]
        names = {run.teacher_run for run in kept}
        of_cells = {run.run_id for run in students}
        others = [run for run in self.runs if run.run_id not in of_cells]
        kept += [run for run in others if run.run_id in names]
        kept += evenly([run for run in others if run.run_id not in names], most // 2)
        chosen = {run.run_id for run in kept}
        return replace(self, runs=[run for run in self.runs if run.run_id in chosen])

    @cached_property
    def every_teacher(self) -> dict[str, Run]:
        """Finished teachers by run id, worst loss first."""
        found = [run for run in self.runs if run.row.get("role") == "teacher" and serves_laws(run.purpose)]
        return {run.run_id: run for run in sorted(found, key=lambda run: -run.loss)}

    @cached_property
    def teachers(self) -> dict[str, Run]:
        """Those among which one chooses: not those that have read their students' text (a control)."""
        return {name: run for name, run in self.every_teacher.items() if run.row.get("split") != "student"}

    @property
    def target(self) -> tuple[float, float] | None:
        """(student_params, student_tokens) that the study was made to decide on."""
        target = self.info.get("target")
        if not isinstance(target, Mapping) or not target.get("student_params") or not target.get("student_tokens"):
            return None
        return float(target["student_params"]), float(target["student_tokens"])

    @property
    def unverified(self) -> int:
        """Runs whose results vouch for no files: written by hand, or before there were checksums."""
        return sum(run.folder is not None and not vouched(run.row) for run in self.trained)


def _at_best_rates(runs: list[Run]) -> list[Run]:
    """Without those that differ from another in a rate that did worse, by the mean over the seeds."""
    arms: dict[tuple[object, ...], dict[float, dict[int, Run]]] = {}
    for run in runs:
        if run.branch_lr > 0:
            place = run.params, run.tokens, run.teacher_run, run.start_run, *run.recipe
            rates = arms.setdefault(place, {})
            rates.setdefault(run.branch_lr, {})[run.seed] = run
    worse: set[str] = set()
    for rates in arms.values():
        best = min(rates.values(), key=lambda seeds: sum(run.loss for run in seeds.values()) / len(seeds))
        worse |= {
            run.run_id for seeds in rates.values() if seeds is not best for seed, run in seeds.items() if seed in best
        }
    return [run for run in runs if run.run_id not in worse]


def read_study(folder: Path) -> StudyRecord:
    """Read a study folder, whatever state it is in.

    Raises:
        CacheError: there is no such folder, or nothing in it is a study.
    """
    folder = Path(folder)
    if folder.is_file():
        raise CacheError(f"{folder}: a file, not the folder of a study; name the folder `study run` or `recipe` wrote")
    if not folder.is_dir():
        raise CacheError(f"{folder}: no such folder; `distillaw study run STUDY.toml` makes one")
    problems: list[str] = []
    runs, unfinished, damaged = _read_runs(folder, problems)
    info = _read_optional(folder / "study.json", problems)
    if not (folder / "study.json").exists() and (folder / "tuning.json").exists():
        problems.append(f"{folder / 'study.json'}: missing; `distillaw study run` writes it again")
    if not info and not runs and not unfinished:
        raise CacheError(
            f"{folder}: not a study folder (no study.json, no finished run); name the folder `study run` or `recipe` "
            "wrote"
        )
    record = StudyRecord(
        folder=folder,
        info=info,
        runs=runs,
        unfinished=unfinished,
        tuning=_read_optional(folder / "tuning.json", problems),
        problems=tuple(problems),
        damaged=tuple(damaged),
    )
    return replace(record, problems=(*problems, NO_BASELINE)) if record.lacks_baseline else record


def _read_optional(path: Path, problems: list[str]) -> Mapping[str, object]:
    if not path.exists():
        return {}
    try:
        return read_json(path)
    except CacheError as error:
        problems.append(str(error))
        return {}


def _read_runs(folder: Path, problems: list[str]) -> tuple[list[Run], list[UnfinishedRun], list[DamagedRun]]:
    """Finished, unfinished and damaged runs of the present study file, each sorted by run id."""
    done, unfinished = [], []
    damaged: dict[str, str] = {}
    for path in sorted((folder / "runs").glob("*/")):
        if (path / "result.json").exists():
            try:
                done.append(_finished(path))
            except (CacheError, DataError) as error:
                damaged[path.name] = str(error)
        elif (path / "status.json").exists():
            status = _read_optional(path / "status.json", problems)
            state, error = str(status.get("state", "unknown")), str(status.get("error") or "")
            unfinished.append(UnfinishedRun(run_id=path.name, state=state, error=error))
    table = _table_of(folder, problems, has_runs=bool(done or damaged))
    if table is None:
        specs = {name: _read_optional(folder / "runs" / name / "spec.json", []) for name in damaged}
        return done, unfinished, _damaged(damaged, specs, problems)
    if not (done or damaged):
        problems.append("no run folders came along; losses are taken from runs.parquet, so nothing can be paired")
        faults = {str(row["run_id"]): fault for row in table if (fault := _fault(row))}
        problems += [f"{name}: {fault}; it is left out" for name, fault in faults.items()]
        kept = [Run(row=row, folder=None) for row in table if row["run_id"] not in faults]
        return kept, unfinished, []
    rows = {str(row["run_id"]): row for row in table}
    finished = {run.run_id: run for run in done}
    kept = [
        Run(row={**run.row, "purpose": row.get("purpose"), "arm": arm_of(row)}, folder=run.folder)
        for row in table
        if (run := finished.get(str(row["run_id"]))) is not None
    ]
    if others := len(finished.keys() - rows.keys()):
        problems.append(f"{others} finished runs do not belong to the present study file; they are left out")
    for name in rows.keys() - finished.keys() - damaged.keys():
        file = folder / "runs" / name / "result.json"
        damaged[name] = (
            f"{file}: missing, though runs.parquet has the run. Restore it from a copy, or have it done again by "
            "`distillaw study run`"
        )
    return kept, unfinished, _damaged({n: why for n, why in damaged.items() if n in rows}, rows, problems)


def _finished(path: Path) -> Run:
    """One finished run.

    Raises:
        CacheError: what is there is damaged, or of another run.
        DataError: a number of it is none, or no losses by document where it has their file.
    """
    row = read_json(path / "result.json")
    if fault := _fault(row):
        raise DataError(f"{path / 'result.json'}: {fault}. Delete {path} to have the run done again")
    RunFolder(path).check(row)
    return Run(row={"run_id": path.name, **row}, folder=path)


def _fault(row: Mapping[str, object]) -> str:
    """What of a result is no number where one belongs; empty where it can be used."""
    for key in ("loss", "params", "tokens"):
        value = row.get(key)
        if not _is_number(value) or not 0 < value < LARGEST:
            return f"its result has no finite positive {key} ({value!r:.40})"
    for key in ("seed", "batch_tokens", "steps"):
        value = row.get(key, 0)
        if value is not None and not (_is_number(value) and abs(value) < LARGEST):
            return f"its result has {key} = {value!r:.40}"
    if row.get("seed", 0) is None:
        return "its result has no seed"
    teacher = row.get("teacher_loss")
    if teacher is not None and not (
        (_is_number(teacher) and not teacher <= 0 and teacher < LARGEST) or teacher != teacher
    ):
        return f"its result has teacher_loss = {teacher!r:.40}"
    return ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _damaged(
    found: Mapping[str, str], rows: Mapping[str, Mapping[str, object]], problems: list[str]
) -> list[DamagedRun]:
    runs = [DamagedRun(run_id=name, why=why, row=rows[name]) for name, why in sorted(found.items())]
    problems += [f"{run.run_id} is left out: {run.why}" for run in runs]
    return runs


def _table_of(folder: Path, problems: list[str], *, has_runs: bool) -> list[dict[str, object]] | None:
    """The rows of runs.parquet, the runs that belong to the present study file; None without it.

    A run that serves two arms (cut out of its teacher, which is the reference) has a row in each.
    """
    file = folder / "runs.parquet"
    if not file.exists():
        if has_runs and (folder / "tuning.json").exists():  # they are written together
            problems.append(f"{file}: missing; {_AS_THEY_ARE}")
        return None
    import pyarrow.parquet as pq

    try:
        rows = check_table(pq.read_table(file), file).to_pylist()
        return sorted(rows, key=lambda row: (str(row["run_id"]), str(row.get("arm"))))
    except (OSError, KeyError, ValueError) as error:
        problems.append(f"{file}: cannot be read ({error}); {_AS_THEY_ARE}")
        return None


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // max(most - 1, 1)] for i in range(most)]


def is_near(value: float, wanted: float, *, within: float = SAME_SIZE) -> bool:
    """True if two positive numbers differ by less than the share `within`, in logarithm."""
    return abs(math.log(value / wanted)) < math.log1p(within)


def nearest_size(record: StudyRecord, params: float) -> tuple[float, str]:
    """The exact count of the study's student that is meant (sizes come in steps), and what people call it."""
    near = [run for run in record.students if is_near(run.params, params)]
    if not near:
        return params, ""
    run = min(near, key=lambda run: abs(math.log(run.params / params)))
    return float(run.params), run.label


def budget_text(tokens: float) -> str:
    """A token budget by the round number it was meant to be: whole batches make 80k into 79,872."""
    nominal = float(f"{tokens:.2g}")
    return format_count(nominal if is_near(tokens, nominal, within=0.01) else tokens)
