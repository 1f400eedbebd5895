"""Which design points are predicted: typed one by one, or all that a study file still has to train."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from distillaw.accounting.shapes import count_non_embedding, shape_for_params
from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean, format_count, parse_count
from distillaw.runs.files import read_json
from distillaw.runs.store import StudyFolder
from distillaw.sweep.checks import load_study
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import Facts, ReadyJobs, TrunkJob
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.study import read_progress
from distillaw.verifying.api import freeze_study, known_runs, missing_points
from distillaw.verifying.design_points import SAME, PredictedPoint, TableRun, seen_runs

Say = Callable[[str], None]


def _nothing(line: str) -> None:
    """Says nothing."""


_KEYS = ("params", "tokens", "teacher", "teacher_loss")
_NEAR = 0.25
"""Sizes are known by round names: 388,080 parameters as 0.4M."""


def typed_points(
    typed: Iterable[Mapping[str, str]], source: Path, runs: Sequence[TableRun], say: Say = _nothing
) -> list[PredictedPoint]:
    """The design points of `params=0.4M,tokens=1.8M,teacher=0.8M@4M` and the like.

    Args:
        typed: {key: value} of each. `teacher` is `none` (the default), `all` (none and every teacher), a run id or
            SIZE@TOKENS; or `teacher_loss` stands for it.
        source: the study folder or table; a study file's sizes become exact counts.
        runs: of the table; name the teachers.
        say: takes notes.

    Raises:
        ConfigError: a text that cannot be read, or a teacher that is not in the table.
    """
    points: list[PredictedPoint] = []
    for asked in typed:
        if unknown := next((key for key in asked if key not in _KEYS), None):
            near = did_you_mean(unknown, _KEYS)
            raise ConfigError(f"--cells: unknown {unknown!r}{near}; known: {', '.join(_KEYS)}")
        if not {"params", "tokens"} <= asked.keys() or {"teacher", "teacher_loss"} <= asked.keys():
            words = ",".join(f"{key}={value}" for key, value in asked.items())
            raise ConfigError(
                f"--cells {words}: give params=..,tokens=.. and one of teacher=.., teacher_loss=.. or neither"
            )
        params = _exact_size(parse_count(asked["params"], name="--cells params"), source, runs, say)
        tokens = parse_count(asked["tokens"], name="--cells tokens")
        for name, loss in _asked_teachers(asked, runs):
            points.append(PredictedPoint(params=params, tokens=tokens, teacher=name, teacher_loss=loss))
    return points


def _exact_size(params: float, source: Path, runs: Sequence[TableRun], say: Say) -> float:
    """The exact count of a size: one of the table, else the shape that the study derives, else as typed."""
    sizes = sorted({run.point.params for run in runs})
    if same := [size for size in sizes if abs(size / params - 1) < SAME]:
        return min(same, key=lambda size: abs(size - params))
    if (source / "study.json").is_file():
        info = read_json(source / "study.json")
        spec, data = info.get("spec"), info.get("data")
        training = spec.get("training") if isinstance(spec, Mapping) else None
        if isinstance(training, Mapping) and isinstance(data, Mapping):
            own = {key: training[key] for key in ("context", "head_dim", "aspect")}
            return float(count_non_embedding(shape_for_params(params, vocab=int(data["vocab_size"]), **own)))
    if near := [size for size in sizes if abs(size / params - 1) < _NEAR]:
        others = ", ".join(f"{size:,.0f}" for size in near)
        say(
            f"warning: no run has {params:,.0f} parameters; {others} is another size, and its runs will not answer "
            "this prediction"
        )
    return params


def table_teachers(runs: Iterable[TableRun]) -> dict[str, float]:
    """Teacher, as runs name it -> its loss; every teacher that was trained or that a student had."""
    found: dict[str, float] = {}
    for run in runs:
        if run.role == "teacher" and run.purpose != "tuning":
            found[run.run_id] = run.loss
    for run in runs:
        if run.point.teacher and run.point.teacher_loss is not None:
            found.setdefault(run.point.teacher, run.point.teacher_loss)
    return found


def _asked_teachers(asked: Mapping[str, str], runs: Sequence[TableRun]) -> list[tuple[str, float | None]]:
    """(name, loss) of the teachers of one text; ("", None) is none."""
    if "teacher_loss" in asked:
        return [("", parse_count(asked["teacher_loss"], name="--cells teacher_loss"))]
    known = table_teachers(runs)
    name = asked.get("teacher", "none")
    if name == "none":
        return [("", None)]
    if name == "all":
        return [("", None), *known.items()]
    if name in known:
        return [(name, known[name])]
    labels = {
        run.run_id: f"{format_count(run.point.params)}@{format_count(run.point.tokens)}"
        for run in runs
        if run.run_id in known
    }
    matching = [run.run_id for run in runs if run.run_id in known and _is_labelled(name, run)]
    if len(matching) == 1:
        return [(matching[0], known[matching[0]])]
    shown = ", ".join(labels.get(one, one) for one in known) or "none is trained yet"
    raise ConfigError(
        f"--cells teacher={name}: {'several' if matching else 'no'} trained teachers are meant; there are: {shown}. "
        "Name one by its run id or SIZE@TOKENS; a teacher must be trained before its students are predicted"
    )


def _is_labelled(name: str, run: TableRun) -> bool:
    """Whether `0.8M@4M`, or `0.8M` alone, may mean this teacher."""
    size, _, tokens = name.partition("@")
    try:
        near = abs(parse_count(size) / run.point.params - 1) < _NEAR
        return near and (not tokens or abs(parse_count(tokens) / run.point.tokens - 1) < SAME)
    except ConfigError:
        return False


def study_points(
    study: Path,
    folder: Path,
    runs: Sequence[TableRun],
    *,
    holdout: bool,
    corpus: str | None,
    say: Say = _nothing,
) -> list[PredictedPoint]:
    """The design points of a study file that have not been run in its folder.

    Args:
        study: the TOML file.
        folder: where the study has begun: tuned, with its teachers trained.
        runs: of its table.
        holdout: only those that are held out.
        corpus: the text, where the file names none.
        say: takes notes.

    Raises:
        ConfigError: nothing is left to predict, or rates or teachers are not known yet.
    """
    data = _data_of(folder)
    ready = _ready(load_study(study, corpus=corpus or str(data.get("corpus") or "") or None), folder)
    points = [point for point in job_points(ready.jobs, runs, holdout=holdout) if not seen_runs(point, runs)]
    for reason in ready.waiting:
        say(f"not predicted: {reason}")
    if not points:
        what = "held-out students" if holdout else "students that are not trained yet"
        raise ConfigError(
            f"{study}: no {what} whose teachers are trained; see `distillaw study show {study}`"
        )
    return points


def freeze_holdout(spec: StudySpec, folder: Path, say: Say = _nothing) -> None:
    """Between two calls of `run_study`: freeze what is held out and not frozen yet, once everything else is trained.

    Args:
        spec: the study.
        folder: where all but its held-out students are trained.
        say: takes notes.

    Raises:
        ConfigError: no law or plan has anything to say of a held-out student.
        RunError: predictions that are there were tampered with.
    """
    runs = known_runs(folder)
    missing = missing_points(folder, job_points(_ready(spec, folder).jobs, runs, holdout=True))
    left = [point for point in missing if not seen_runs(point, runs)]
    if len(left) < len(missing):
        say(
            f"{len(missing) - len(left)} held-out students were run before they were predicted: they do not count"
        )
    if left:
        found = freeze_study(folder, left)
        say(
            f"frozen: predictions of {len(left)} held-out students, {found.frozen.path}\nhash    {found.frozen.hash}"
        )


def _data_of(folder: Path) -> Mapping[str, object]:
    """What study.json says of the text."""
    data = read_json(folder / "study.json").get("data")
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{folder}: study.json does not say what text it is of; run the study up to its teachers"
        )
    return data


def _ready(spec: StudySpec, folder: Path) -> ReadyJobs:
    """The study's jobs as far as what is on disk decides them."""
    data = _data_of(folder)
    facts = Facts(
        vocab_size=int(str(data["vocab_size"])),
        data_hash=str(data["data_hash"]),
        fingerprints=_fingerprints(folder, spec.external_teachers()),
    )
    return Planner(spec, facts, read_progress(StudyFolder(folder))).ready_jobs()


def _fingerprints(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Hashes of the teachers from outside, as the runs in the folder state them."""
    found = dict.fromkeys(names, "")
    for path in sorted(folder.glob("runs/*/spec.json")) if names else ():
        spec = read_json(path)
        if spec.get("teacher_run") in found:
            found[str(spec["teacher_run"])] = str(spec.get("teacher_fingerprint") or "")
    return found


def job_points(jobs: Iterable[TrunkJob], runs: Sequence[TableRun], *, holdout: bool) -> list[PredictedPoint]:
    """The design points that jobs will measure; controls and searches are none, and seeds share one.

    Args:
        jobs: of a study's ready.
        runs: of its table; they know the teachers' losses.
        holdout: only held-out students.

    Raises:
        ConfigError: a teacher whose loss is not known yet.
    """
    teachers = table_teachers(runs)
    purposes = ("holdout",) if holdout else ("holdout", "grid")
    points: list[PredictedPoint] = []
    for job in jobs:
        trunk = job.trunk
        if trunk.role != "student" or trunk.purpose not in purposes:
            continue
        if trunk.teacher_run and trunk.teacher_run not in teachers:
            raise ConfigError(
                f"teacher {trunk.teacher_run}: its loss is not known yet; train it (or one student from it) before "
                "predictions are frozen"
            )
        loss = teachers[trunk.teacher_run] if trunk.teacher_run else None
        for tokens in job.budgets:
            size, name = float(trunk.params), trunk.teacher_run or ""
            point = PredictedPoint(params=size, tokens=float(tokens), teacher=name, teacher_loss=loss)
            if not any(point.is_same(other) for other in points):
                points.append(point)
    return points
