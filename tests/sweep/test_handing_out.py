"""What the scheduler makes of tasks that end in every way, on an executor whose tasks a test ends by hand."""

from concurrent.futures import Future

import pytest

from distillaw.errors import RunError
from distillaw.runs.files import read_json_lines, write_json
from distillaw.runs.lock import held
from distillaw.runs.store import StudyFolder
from distillaw.sweep import scheduler
from distillaw.sweep.checks import load_study
from distillaw.sweep.cost import study_cost
from distillaw.sweep.executor import Executor, Lost
from distillaw.sweep.ready import ReadyJobs
from distillaw.sweep.scheduler import JOURNAL, MAX_CRASHES, MAX_FRUITLESS, Display, Scheduler


class ByHand(Executor):
    """Each task ends at once, as `fate` says: it returns a worker's report or raises what became of the worker.

    One whose fate is None goes on until it is asked to stop, or killed.
    """

    name = "hand"

    def __init__(self, study: StudyFolder, fate) -> None:
        super().__init__(study, 1)
        self._fate, self.tasks, self.asked, self.obeys = fate, [], [], "stop"

    def submit(self, task) -> Future:
        self.tasks.append(task)
        task.where, task.log = f"worker {len(self.tasks)}", "its.log"
        future: Future = Future()
        task.handle = future
        try:
            if (told := self._train(task)) is not None:
                future.set_result(told)
        except Exception as error:
            future.set_exception(error)
        return future

    def _train(self, task) -> dict:
        return self._fate(self, task)

    def begin(self, task) -> None:
        """Its worker's record is there."""
        self._order(task, self._new_name(task.number))
        task.record.parent.mkdir(exist_ok=True)
        task.record.touch()

    def stop(self, task) -> None:
        self._ask("stop", task)

    def kill(self, task) -> None:
        self._ask("kill", task)

    def _ask(self, how, task) -> None:
        self.asked.append(how)
        if how == self.obeys:
            task.handle.set_result(report(why=f"by {how}"))


class Listener(Display):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes, self.done, self.given_up = [], [], []

    def note(self, message) -> None:
        self.notes.append(message)

    def finished(self, job) -> None:
        self.done.append(job.trunk.trunk_id)

    def failed(self, job, error) -> None:
        self.given_up.append(job.trunk.trunk_id)


class Study:
    """One trunk of two budgets, and what its workers leave on disk."""

    def __init__(self, job, folder) -> None:
        self.job, self.folder, self.display = job, StudyFolder(folder), Listener()

    def run(self, fate):
        """Schedule it; the outcome and the tasks."""
        with held(self.folder.path, "it") as claim:
            executor = ByHand(self.folder, fate)
            with Scheduler(self.folder, executor, display=self.display, claim=claim) as scheduling:
                outcome = scheduling.run(lambda: ReadyJobs(jobs=[self.job], waiting=[]))
        return outcome, executor.tasks

    def save(self, step: int) -> None:
        """A checkpoint in place of the one before."""
        state = self.folder.trunk(self.job.trunk.trunk_id) / "state"
        for before in state.glob("step-*"):
            before.rmdir()
        (state / f"step-{step:08d}").mkdir(parents=True)

    def log(self, tokens: int) -> None:
        """The log as a worker that began at its first step leaves it."""
        file = self.folder.trunk(self.job.trunk.trunk_id) / "metrics.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'{{"tokens": {tokens}, "loss": 3.0}}\n')

    def finish(self, *runs: str) -> dict:
        """A worker's report, its runs on disk."""
        for run_id in runs or self.job.run_ids:
            write_json(self.folder.run(run_id).path / "result.json", {})
        return report(done=list(runs or self.job.run_ids))


def report(**facts) -> dict:
    """What a worker returns."""
    return {"done": [], "failed": {}, "cpu_seconds": 1.0, "why": ""} | facts


@pytest.fixture
def study(tiny, tmp_path):
    jobs = study_cost(load_study(tiny), 300).jobs
    return Study(next(job for job in jobs if len(job.budgets) == 2), tmp_path / "study")


def events(study: Study, kind: str) -> list[dict]:
    return [event for event in read_json_lines(study.folder.path / JOURNAL) if event["event"] == kind]


def test_a_task_that_ends_well_is_done(study):
    outcome, tasks = study.run(lambda place, task: study.finish())
    assert (outcome.done, outcome.failed, len(tasks)) == (study.job.run_ids, {}, 1)
    assert study.display.done == [study.job.trunk.trunk_id] and not study.display.notes


@pytest.mark.parametrize("how", ["taken away", "asked to leave"])
def test_workers_that_save_steps_are_not_in_vain_however_little_they_log(study, how):
    """A row of the log every 20 steps: a worker may take and save 19 steps without one."""

    def fate(place, task):
        place.begin(task)
        if len(place.tasks) > 2 * MAX_FRUITLESS:
            return study.finish()
        study.save(19 * len(place.tasks))
        if how == "asked to leave":
            return report(why="by SIGUSR2")
        raise Lost("PREEMPTED", is_fault=False)

    outcome, tasks = study.run(fate)
    assert outcome.failed == {} and len(tasks) == 2 * MAX_FRUITLESS + 1


def test_workers_that_save_nothing_are_in_vain_however_much_they_log(study):
    def fate(place, task):
        place.begin(task)
        study.log(128 * len(place.tasks))
        raise Lost("TIMEOUT", is_fault=False)

    outcome, tasks = study.run(fate)
    assert set(outcome.failed) == set(study.job.run_ids) and len(tasks) == MAX_FRUITLESS
    assert study.display.given_up == [study.job.trunk.trunk_id]


def test_a_lost_worker_is_told_of(study):
    def fate(place, task):
        place.begin(task)
        if len(place.tasks) == 1:
            raise Lost("NODE_FAIL", is_fault=False)
        return report(why="by SIGTERM") if len(place.tasks) == 2 else study.finish()

    study.run(fate)
    first, second = study.display.notes
    assert "worker 1" in first and "NODE_FAIL" in first
    assert "worker 2" in second and "by SIGTERM" in second
    assert len(events(study, "lost")) == 2


def test_a_worker_that_leaves_with_a_failed_run_has_failed_it(study):
    first, second = study.job.run_ids

    def fate(place, task):
        place.begin(task)
        study.finish(first)
        study.folder.run(second).set_status("failed", error="no room")
        return report(done=[first], failed={second: "no room"}, why="by SIGTERM")

    outcome, tasks = study.run(fate)
    assert (outcome.done, outcome.failed, len(tasks)) == ([first], {second: "no room"}, 1)
    assert study.display.given_up == [study.job.trunk.trunk_id]
    (event,) = events(study, "lost")
    assert (event["done"], event["failed"]) == ([first], {second: "no room"})


def test_a_worker_that_leaves_with_its_task_done_has_finished_it(study):
    outcome, _ = study.run(lambda place, task: study.finish() | {"why": "by SIGTERM"})
    assert outcome.done == study.job.run_ids and study.display.done == [study.job.trunk.trunk_id]


@pytest.mark.parametrize("why", ["", "by SIGTERM"])
def test_a_full_disk_stops_at_once_whether_or_not_the_worker_was_leaving(study, monkeypatch, why):
    def full(path, text):
        raise RunError("cannot write: No space left")

    monkeypatch.setattr(scheduler, "write_text", full)
    failed = dict.fromkeys(study.job.run_ids, "cannot write")
    with pytest.raises(RunError, match="No space left"):
        study.run(lambda place, task: report(failed=failed, why=why))


def test_the_second_death_that_a_job_may_have_caused_ends_it(study):
    def fate(place, task):
        place.begin(task)
        raise Lost("killed by SIGKILL", is_fault=True)

    outcome, tasks = study.run(fate)
    assert len(tasks) == MAX_CRASHES and set(outcome.failed) == set(study.job.run_ids)


def test_a_worker_taken_away_before_it_begins_is_replaced_and_one_that_dies_ends_the_call(study):
    def fate(place, task):
        if len(place.tasks) == 1:
            raise Lost("node lost", is_fault=False)
        return study.finish()

    assert study.run(fate)[0].done == study.job.run_ids

    def dies(place, task):
        raise Lost("killed by SIGKILL", is_fault=True)

    for run_id in study.job.run_ids:
        (study.folder.run(run_id).path / "result.json").unlink()
    with pytest.raises(RunError, match=r"worker 1: killed by SIGKILL.*before its first job; see its.log"):
        study.run(dies)


@pytest.mark.parametrize("obeys", ["stop", "kill"])
def test_ctrl_c_asks_workers_to_save_and_kills_those_that_do_not(study, monkeypatch, obeys):
    def interrupted(job, number):
        raise KeyboardInterrupt

    def fate(place, task):
        place.begin(task)
        place.obeys = obeys
        study.place = place

    monkeypatch.setattr(scheduler, "STOP_SECONDS", 0.01)
    monkeypatch.setattr(study.display, "started", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run(fate)
    assert study.place.asked == ["stop", "kill"][: 1 + (obeys == "kill")]
    assert study.display.notes == ["stopping: the workers save their checkpoints"]
    (event,) = events(study, "lost")
    assert event["how"] == f"asked to leave by {obeys}" and study.display.given_up == []


def _close(display, monkeypatch, *names):
    def closed(*_):
        raise BrokenPipeError

    for name in names:
        monkeypatch.setattr(display, name, closed)


def test_workers_are_asked_to_save_even_if_nobody_listens(study, monkeypatch):
    def fate(place, task):
        place.begin(task)
        study.place = place

    _close(study.display, monkeypatch, "started", "note")
    with pytest.raises(BrokenPipeError):
        study.run(fate)
    assert study.place.asked == ["stop"]
    (event,) = events(study, "lost")
    assert event["how"] == "asked to leave by stop" and event["cpu_seconds"] == 1.0


def test_a_task_that_ends_when_nobody_listens_is_booked(study, monkeypatch):
    """`study run ... 2>&1 | head`: the journal says that it was done, in what time, and all is put in order."""

    def fate(place, task):
        place.begin(task)
        return study.finish()

    _close(study.display, monkeypatch, "started", "finished")
    with pytest.raises(BrokenPipeError):
        study.run(fate)
    (event,) = events(study, "ended")
    assert event["done"] == study.job.run_ids and event["trunks"] == [study.job.trunk.trunk_id]
    (stopped,) = events(study, "stopped")
    assert stopped["cpu_seconds"] >= event["cpu_seconds"] == 1.0


def test_what_an_executor_refuses_ends_the_call(study):
    def refused(place, task):
        raise RunError("Slurm takes no worker")

    with pytest.raises(RunError, match="takes no worker"):
        study.run(refused)
