"""The study engine: real training, killed in earnest; what is not about processes trains in this one."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distillaw.runs.files import read_json
from distillaw.runs.store import RESULT_KEYS, StudyFolder
from distillaw.sweep.checks import load_study
from distillaw.sweep.executor import LocalExecutor
from distillaw.sweep.scheduler import Display
from distillaw.sweep.status import StudyStatus, read_status
from distillaw.sweep.study import read_progress, run_study
from in_fork import Forked
from in_process import workers_here


def one_worker(study: StudyFolder) -> LocalExecutor:
    """One process of this machine."""
    return LocalExecutor(study, 1)


def run_with(workers: int, study: Path, folder: Path) -> None:
    """The study with processes of this machine."""
    run_study(
        load_study(study), folder, place=lambda study: LocalExecutor(study, workers), display=Display(), command="test"
    )


def _start(study: Path, folder: Path, workers: int = 2) -> Forked:
    return Forked(run_with, workers, study, folder)


def _run(study: Path, folder: Path) -> tuple[int, int]:
    """An uninterrupted call: runs done and failed."""
    with workers_here():
        outcome = run_study(load_study(study), folder, place=one_worker, display=Display(), command="test")
    return len(outcome.done), len(outcome.failed)


def _table(folder: Path) -> dict[str, dict]:
    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    # time, and how much of the teacher's work a run did itself, depend on who trained beside it when something died
    of_the_day = ("seconds", "teacher_flops_spent")
    return {row["run_id"]: {k: v for k, v in row.items() if k not in of_the_day} for row in rows}


@pytest.fixture(scope="session")
def tiny_text(tiny_text):
    """With as many steps as it takes to be seen in training, and killed there."""
    return tiny_text.replace("batch_tokens = 192", "batch_tokens = 128").replace('tokens = "8k"', 'tokens = "16k"')


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_text):
    """An uninterrupted study, the reference of the others."""
    base = tmp_path_factory.mktemp("whole")
    (base / "tiny.toml").write_text(tiny_text)
    assert _run(base / "tiny.toml", base / "study") == (11, 0)
    return base / "study"


def test_the_table_holds_one_row_per_result_with_the_contract_keys(whole):
    table = pq.read_table(whole / "runs.parquet")
    assert table.column_names == list(RESULT_KEYS)
    rows = table.to_pylist()
    assert len(rows) == 11
    for row in rows:
        found = read_json(whole / "runs" / row["run_id"] / "result.json")
        assert row == {key: found[key] for key in found if key != "files"}
    by = {(r["role"], bool(r["teacher_run"]), r["params"], r["tokens"], r["seed"]): r for r in rows}
    small = min(r["params"] for r in rows)
    assert {(a, s) for (role, a, p, t, s) in by if p == small and t == 3968} == {
        (False, 0),
        (False, 1),
        (True, 0),
        (True, 1),
    }
    teacher = next(r for r in rows if r["role"] == "teacher")
    assert {r["teacher_loss"] for r in rows if r["teacher_run"]} == {teacher["loss"]}


def test_every_run_can_be_paired_document_by_document(whole):
    tables = [pq.read_table(path) for path in whole.glob("runs/*/heldout.parquet")]
    assert len(tables) == 11
    assert all(t.column("document").equals(tables[0].column("document")) for t in tables)
    assert all(t.column("tokens").equals(tables[0].column("tokens")) for t in tables)


def test_a_second_run_trains_nothing(whole, tiny):
    before = {p: p.stat().st_mtime_ns for p in whole.glob("runs/*/*")}
    assert _run(tiny, whole) == (0, 0)
    assert {p: p.stat().st_mtime_ns for p in whole.glob("runs/*/*")} == before


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("interrupt", marks=pytest.mark.slow),
        "kill scheduler",
        pytest.param("kill worker", marks=pytest.mark.slow),
    ],
)
def test_a_study_stopped_midway_continues_and_ends_the_same(tiny, tmp_path, whole, how):
    folder = tmp_path / "study"
    process = _start(tiny, folder, workers=2 if how == "kill worker" else 1)
    _wait_for_runs(folder, 2)
    finished = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/result.json")}
    if how == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode != 0
    elif how == "kill scheduler":
        found, workers = _stopped_in_training(folder, process)
        assert f"pid {process.pid} on" in found.scheduler and found.is_running
        assert found.left_seconds > 0 and found.running[0].where.startswith("pid ")
        process.kill()
        process.communicate()
        _send(signal.SIGCONT, workers)
        _wait_until_workers_are_gone(folder)
        found = read_status(folder)
        assert "died; the same command" in found.scheduler
        assert not found.is_running and found.running == []
    else:
        _kill_one_worker(process.pid)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors  # the scheduler replaces the worker and goes on
    if how != "kill worker":
        _run(tiny, folder)
    assert _table(folder) == _table(whole)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())


@pytest.mark.slow
def test_killed_fifty_times_at_random_moments_it_still_ends_the_same(tiny, tmp_path, whole):
    """Shows that no moment of a kill loses or changes anything finished; about ten minutes."""
    folder, chance = tmp_path / "study", random.Random(0)
    for _ in range(50):
        process = _start(tiny, folder)
        time.sleep(chance.uniform(0.5, 12))
        if process.poll() is None:
            chance.choice([process.kill, lambda p=process: os.killpg(p.pid, signal.SIGKILL)])()
        process.communicate()
        _wait_until_workers_are_gone(folder)
    _run(tiny, folder)
    assert _table(folder) == _table(whole)


def test_a_failing_run_is_marked_and_the_others_go_on(tiny, tmp_path):
    """A teacher folder is made unreadable for the student: that arm fails, the rest of the study finishes."""
    folder = tmp_path / "study"
    study = StudyFolder(folder)
    folder.mkdir()
    spec = load_study(tiny)

    class Saboteur:
        """Truncates the teacher's weights as soon as it is finished."""

        def started(self, job, worker): ...
        def progressed(self, job, tokens, loss): ...
        def failed(self, job, error): ...
        def note(self, message): ...

        def finished(self, job):
            if job.trunk.role == "teacher":
                weights = study.run(job.run_ids[0]).path / "model.safetensors"
                weights.write_bytes(weights.read_bytes()[:500])

    with workers_here():
        outcome = run_study(spec, folder, place=one_worker, display=Saboteur(), command="test")
    progress = read_progress(study)
    assert len(progress.failures) == 5 == len(outcome.failed)
    assert all("damaged" in error for error in progress.failures.values()), progress.failures
    assert len(progress.losses) == 6
    assert {row["teacher_run"] for row in _table(folder).values()} == {None}


def test_a_deleted_result_is_made_again_and_a_deleted_status_is_not_missed(tiny, tmp_path, whole):
    import shutil

    folder = tmp_path / "study"
    shutil.copytree(whole, folder)
    teacher = next(folder.glob("runs/teacher-*/result.json")).parent
    other = next(folder.glob("runs/student-0.05M-alone-*-8000t"))
    (other / "result.json").unlink()
    (teacher / "status.json").unlink()
    assert _run(tiny, folder) == (1, 0)
    assert _table(folder) == _table(whole)


def test_a_damaged_result_names_the_file_and_the_remedy(tiny, tmp_path, whole):
    import shutil

    from distillaw.errors import CacheError

    folder = tmp_path / "study"
    shutil.copytree(whole, folder)
    file = next(folder.glob("runs/*/result.json"))
    file.write_text("{")
    with pytest.raises(CacheError, match=r"result.json: damaged.*Delete"):
        run_study(load_study(tiny), folder, place=one_worker, display=Display(), command="test")


def test_the_folder_of_another_study_is_refused(tiny, whole):
    from distillaw.errors import ConfigError

    tiny.write_text(tiny.read_text().replace('name = "tiny"', 'name = "other"'))
    with pytest.raises(ConfigError, match=r"holds the study 'tiny', not 'other'"):
        run_study(load_study(tiny), whole, place=one_worker, display=Display(), command="test")


def test_two_processes_on_one_folder_are_kept_apart(tiny, tmp_path):
    from distillaw.errors import RunError
    from distillaw.runs.lock import held

    folder = tmp_path / "study"
    with held(folder, "it"), pytest.raises(RunError, match=r"another process \(pid \d+ on .+, since .+\)"):
        run_study(load_study(tiny), folder, place=one_worker, display=Display(), command="test")


def _wait_for_runs(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 400
    while len(list(folder.glob("runs/*/result.json"))) < count:
        assert time.monotonic() < deadline, "no runs were finished"
        time.sleep(0.02)


def _stopped_in_training(folder: Path, process: Forked) -> tuple[StudyStatus, list[int]]:
    """The status of a moment at which a trunk is in training, and the workers, which are stopped there."""
    while True:
        assert process.poll() is None, "no trunk was ever seen in training"
        workers = _workers_of(folder)
        _send(signal.SIGSTOP, workers)
        if (found := read_status(folder)).running:
            return found, workers
        _send(signal.SIGCONT, workers)
        time.sleep(0.02)


def _send(number: int, processes: list[int]) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _workers_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "distillaw.sweep.worker" in command and str(folder) in command:
                found.append(int(entry.name))
    return found


def _wait_until_workers_are_gone(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while _workers_of(folder):
        assert time.monotonic() < deadline, "orphaned workers go on"
        time.sleep(0.05)


def _kill_one_worker(scheduler: int) -> None:
    children = Path(f"/proc/{scheduler}/task/{scheduler}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
