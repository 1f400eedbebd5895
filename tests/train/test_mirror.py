"""A mirror shows what metrics.jsonl has, and whatever a tracker does, the run does not notice.

The trackers here are modules of their own under the name of a real one, found on the import path as it would be.
"""

import json
import sys
import textwrap
import threading

import pytest
from stops import train_trunk

from distillaw.errors import ConfigError
from distillaw.train import log as mirrors
from distillaw.train.log import Mirror

TOKENS = 2048


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    """tracker(source) puts a module `trackio` of this source on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "trackio", raising=False)

    def write(source: str) -> None:
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "trackio.py").write_text(textwrap.dedent(source))

    yield write
    sys.modules.pop("trackio", None)


def _run(study, trunk, name, folder):
    """(finished run, notes) of a run mirrored to a tracker."""
    notes: list[str] = []
    mirror = Mirror(name, "the-run", folder, notes.append)
    try:
        (run,) = train_trunk(trunk, [TOKENS], study, mirror=mirror)
    finally:
        mirror.close()
    return run, notes


def _rows(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_every_number_of_the_log(study, trunk, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, notes = _run(study, trunk, "tensorboard", tmp_path)
    assert notes == []
    events = EventAccumulator(str(tmp_path / "tensorboard" / "the-run"))
    events.Reload()
    rows = _rows(run)
    assert set(events.Tags()["scalars"]) == rows[0].keys() - {"step"}
    for name in ("loss", "lr", "tokens", "mfu"):
        scalars = events.Scalars(name)
        assert [event.step for event in scalars] == [row["step"] for row in rows]
        assert [event.value for event in scalars] == pytest.approx([row[name] for row in rows], rel=1e-6)


def test_a_tracker_that_works_gets_every_row(study, trunk, tmp_path, tracker):
    tracker(f"""
        import json
        from pathlib import Path
        rows = []
        def init(**options): rows.append(options)
        def log(row, step): rows.append([step, row])
        def finish(): Path({str(tmp_path / "seen.json")!r}).write_text(json.dumps(rows))
    """)
    run, notes = _run(study, trunk, "trackio", tmp_path)
    assert notes == []
    options, *seen = json.loads((tmp_path / "seen.json").read_text())
    assert options["name"] == "the-run"
    assert [{"step": step, **row} for step, row in seen] == _rows(run)


WORKS = "def init(**options): pass\ndef log(row, step): pass\ndef finish(): pass\n"


@pytest.mark.parametrize(
    ("source", "note"),
    [
        ("raise ImportError('no server')", "ImportError: no server"),
        (WORKS + "def init(**options): raise ValueError('no key')", "ValueError: no key"),
        (WORKS + "def log(row, step): raise ConnectionError('offline')", "ConnectionError: offline"),
        (WORKS + "def finish(): raise RuntimeError('not uploaded')", "RuntimeError: not uploaded"),
        (WORKS + "def log(row, step): raise SystemExit(3)", "SystemExit: 3"),
        (WORKS + "def log(row, step): raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_tracker_that_fails_is_noted_once_and_the_run_goes_on(study, trunk, tmp_path, tracker, source, note):
    tracker(source)
    run, notes = _run(study, trunk, "trackio", tmp_path)
    assert run.state() == "done"
    assert len(notes) == 1 and note in notes[0] and "training goes on" in notes[0]


@pytest.mark.parametrize("where", ["import", "init", "log", "finish"])
def test_a_tracker_that_hangs_holds_nothing_up(study, trunk, tmp_path, tracker, monkeypatch, where):
    monkeypatch.setattr(mirrors, "CLOSE_SECONDS", 0.5)
    hang = "    import threading; threading.Event().wait()\n"
    before = set(threading.enumerate())
    if where == "import":
        tracker("import threading; threading.Event().wait(4)\n" + WORKS)
    else:
        arguments = {"init": "**options", "log": "row, step", "finish": ""}[where]
        tracker(WORKS + f"def {where}({arguments}):\n{hang}")
    run, notes = _run(study, trunk, "trackio", tmp_path)
    assert run.state() == "done" and notes == []
    if where == "import":  # it holds the lock on the module's name, which the next test imports
        for thread in set(threading.enumerate()) - before:
            thread.join(6)


def test_rows_that_a_slow_tracker_cannot_take_are_dropped(tmp_path, tracker, monkeypatch):
    monkeypatch.setattr(mirrors, "PENDING_ROWS", 3)
    monkeypatch.setattr(mirrors, "CLOSE_SECONDS", 0.5)
    tracker(WORKS + "def log(row, step):\n    import threading; threading.Event().wait()\n")
    mirror = Mirror("trackio", "the-run", tmp_path, lambda note: None)
    for step in range(100):
        mirror({"step": step, "loss": 1.0})
    mirror.close()


def test_a_tracker_nobody_knows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown tracker 'wandv' \(did you mean 'wandb'\?\)\. Known: tensorboard"):
        Mirror("wandv", "the-run", tmp_path, print)
