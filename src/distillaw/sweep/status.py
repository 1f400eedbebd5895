"""How far a study is, from its folder alone: what is done, runs, waits, failed, was spent and is left.

Reads only, takes no lock, needs no torch. What runs now is what the living scheduler's scheduler.json says; the rest is
computed from runs and journal, so that it is the same after a kill. The time left is the cost model's for what is not
done, scaled by how long finished work took against the same model and played through on the workers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distillaw.errors import CacheError
from distillaw.quantities import format_seconds, times
from distillaw.runs.config import from_table
from distillaw.runs.files import read_json, read_json_lines
from distillaw.runs.lock import GLANCE_SECONDS, LOCK, is_alive, read_holder, record_of
from distillaw.runs.store import StudyFolder
from distillaw.sweep.changes import what_belongs
from distillaw.sweep.cost import StudyCost, jobs_cost, makespan, study_cost, teacher_forward
from distillaw.sweep.jobs import Planner
from distillaw.sweep.ready import ReadyJobs, TrunkJob, one_per_trunk, parts_of
from distillaw.sweep.scheduler import JOURNAL, read_notice
from distillaw.sweep.spec import StudySpec
from distillaw.sweep.study import read_progress, standing_failures, stored_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trunk in training."""

    trunk: str
    where: str
    tokens: int
    """Trained on by the worker that has it; earlier workers may have come further before."""
    of_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """One moment of a study."""

    name: str
    folder: str
    scheduler: str
    """Who works on it, or what became of who did, in words."""
    is_running: bool
    done: int
    known: int
    """Runs that the study wants as far as is known; tuning decides about more."""
    others: int
    """Finished runs that do not belong to the study file as it stands."""
    running: list[Running]
    waiting: list[str]
    """What cannot be trained now, and why."""
    failures: Mapping[str, str]
    diverged: list[str]
    """Tuning runs whose loss ceased to be finite: findings, no failures."""
    stopped: list[str]
    flops: float
    """Of finished runs of this study file, teachers' forward passes included."""
    core_seconds: float
    """Wall seconds of workers times their cores, lost work included: no CPU time, which contention makes shorter."""
    lost_seconds: float
    """The part of it that ended with a worker's death: repeated only as far back as the last checkpoint."""
    left_seconds: float
    left_how: str

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left that could be trained."""
        return self.left_seconds == 0 and not self.running

    def to_json(self) -> dict[str, object]:
        """For `--json`."""
        return {**asdict(self), "is_complete": self.is_complete}


def read_status(folder: Path) -> StudyStatus:
    """Look at a study folder.

    Raises:
        CacheError: no study is there, or a file of it is damaged.
    """
    file = folder / "study.json"
    if not file.exists():
        raise CacheError(f"{folder}: no study there (study.json is missing); `distillaw study run` makes one")
    record = read_json(file)
    study = StudyFolder(folder)
    facts, table = stored_facts(study), record.get("spec")
    if not isinstance(table, Mapping):
        raise CacheError(
            f"{file}: damaged: it does not hold the study (spec); the command that started it writes it anew"
        )
    spec = from_table(StudySpec, table, f"{file}: spec")
    assert facts is not None
    progress = read_progress(study)
    ready = Planner(spec, facts, progress).ready_jobs()
    failures = standing_failures(ready, progress)
    words, notice = _scheduler(folder)
    running, work = _running(ready, notice), _measured(folder, notice)
    belong, others = what_belongs(ready, list(progress.losses))
    ended = progress.losses.keys() | progress.failures.keys() | progress.diverged
    open_jobs = parts_of(ready.jobs, lambda run_id: run_id not in ended)
    ahead = study_cost(spec, facts.vocab_size, facts=facts, progress=progress)
    forward = teacher_forward(spec, [*ahead.wanted, *ready.jobs])

    def cost_of(wanted: Collection[str]) -> StudyCost:
        return jobs_cost(parts_of(one_per_trunk(ready.jobs), wanted.__contains__), forward)

    left, how = _left(ahead, sum(cost_of(work.runs.intersection(belong)).seconds), running, work)
    return StudyStatus(
        name=spec.name,
        folder=str(folder),
        scheduler=words,
        is_running=bool(notice),
        done=len(belong),
        known=len({run_id for job in ready.jobs for run_id in job.run_ids}),
        others=len(others),
        running=running,
        waiting=_waiting(ready, open_jobs, failures, running, notice),
        failures=failures,
        diverged=sorted(progress.diverged),
        stopped=list(ready.stopped),
        flops=cost_of(set(belong)).flops,
        core_seconds=work.core_seconds,
        lost_seconds=work.lost_seconds,
        left_seconds=left,
        left_how=how,
    )


def _scheduler(folder: Path) -> tuple[str, dict]:
    """Who works on the folder, in words, and what it says of its workers; empty if nobody does."""
    lock = record_of(folder / LOCK)
    holder, notice = read_holder(lock), read_notice(folder)
    if holder is None:
        return "none; the same command as before continues", {}
    if not is_alive(lock, holder, seconds=GLANCE_SECONDS):
        return f"none: {holder}, died; the same command as before continues", {}
    if notice.get("pid") != holder.pid or notice.get("host") != holder.host:
        return f"{holder}; it trains nothing just now", {}
    return f"{notice['executor']}, up to {notice['most_workers']} workers, {holder}", notice


def _running(ready: ReadyJobs, notice: Mapping) -> list[Running]:
    open_tokens = {job.trunk.trunk_id: job.tokens for job in ready.jobs}
    return [
        Running(
            trunk=trunk,
            where=worker["where"],
            tokens=worker["tokens"] // len(worker["trunks"]),
            of_tokens=open_tokens.get(trunk, 0.0),
            seconds=worker["seconds"],
        )
        for worker in notice.get("workers", ())
        for trunk in worker["trunks"]
    ]


def _waiting(
    ready: ReadyJobs,
    open_jobs: Sequence[TrunkJob],
    failures: Mapping[str, str],
    running: Sequence[Running],
    notice: Mapping,
) -> list[str]:
    """What waits for a decision, a teacher, a worker, or another try."""
    busy = {entry.trunk for entry in running}
    waiting_trunks = {job.trunk.trunk_id for job in open_jobs} - busy
    starting = [w for w in notice.get("workers", ()) if w["state"].startswith("starting")]
    lines = [*ready.waiting, *(f"{w['where']}: {w['state']}" for w in starting)]
    if waiting_trunks:
        whom = "a free worker" if notice else "a scheduler"
        lines.append(f"{len(waiting_trunks)} trunks could be trained and wait for {whom}")
    if failures:
        lines.append(f"{len(failures)} failed runs wait for the next `study run`, which tries them again")
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the journal measured."""

    core_seconds: float
    lost_seconds: float
    runs: frozenset[str]
    """Runs whose end it saw."""
    workers: int
    """Of the last scheduler."""


def _measured(folder: Path, notice: Mapping) -> _Work:
    core, lost, runs, workers = 0.0, 0.0, set(), 1
    for event in read_json_lines(folder / JOURNAL, past_torn=True):
        seconds = event.get("seconds", 0.0) * event.get("cores", 1)
        core += seconds
        lost += seconds if event["event"] in ("lost", "cut") else 0.0
        runs.update(event.get("done", ()))
        workers = event.get("workers", workers)
    core += sum(w["seconds"] for w in notice.get("workers", ())) * notice.get("threads", 1)
    return _Work(core_seconds=core, lost_seconds=lost, runs=frozenset(runs), workers=max(1, workers))


def _left(ahead: StudyCost, model: float, running: Sequence[Running], work: _Work) -> tuple[float, str]:
    """Seconds left, and how that was computed.

    Args:
        model: its core time for the finished runs that were measured.
    """
    part = {r.trunk: max(0.0, 1 - r.tokens / r.of_tokens) if r.of_tokens else 1.0 for r in running}
    seconds = [s * part.get(j.trunk.trunk_id, 1.0) for j, s in zip(ahead.jobs, ahead.seconds, strict=True)]
    core = sum(seconds)
    if not core:
        return 0.0, "nothing is left that could be trained"
    finished = work.core_seconds - work.lost_seconds - sum(r.seconds for r in running)
    pace, how = 1.0, "nothing is finished yet: the cost model's own guess"
    if model and finished > 0:
        pace = finished / model
        how = f"{len(work.runs)} finished runs took {times(pace)} times what the cost model says"
    left = makespan(ahead.jobs, [pace * one for one in seconds], ahead.wanted, work.workers)
    workers = f"{work.workers} worker" + ("s" if work.workers > 1 else "")
    return left, f"{format_seconds(pace * core)} of work on {workers}; {how}"
