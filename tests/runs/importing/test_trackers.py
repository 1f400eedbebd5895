"""Logs that the trackers' own libraries have written, from real runs: every number comes back, and so do the laws."""

import importlib.metadata
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from distillaw.errors import ConfigError, DataError
from distillaw.fitting.api import fit
from distillaw.runs.importing.api import Options, import_runs
from distillaw.runs.importing.log import flatten
from distillaw.runs.importing.sources import open_source
from distillaw.runs.importing.trackers import read_wandb
from tracked import MAPPING, check_same_numbers, in_process_of_its_own

COLUMNS = dict(pair.split("=") for pair in MAPPING.split(","))
TRACKIO = """
import trackio
for run in runs:
    trackio.init(project="pocket", name=run["name"], config=run["config"], embed=False)
    for step, row in run["history"]:
        trackio.log(row, step=step)
    trackio.finish()
"""
WANDB = """
import os, wandb
for run in runs:
    log = wandb.init(project="pocket", name=run["name"], config=run["config"], dir=folder)
    for step, row in run["history"]:
        log.log({**row, "global_step": step})
    if run.get("killed"):
        os._exit(0)
    log.finish(exit_code=run.get("exit", 0))
"""
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}


def need_installed(package):
    """Skip unless it is installed: a module of its name may be a stand-in that another test has left behind."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


def laws_agree(rows, pocket, *, rtol):
    """The laws of the imported rows are those of the original ones, up to rounding: the rows come in another order."""
    table = {name: np.array([row[name] for row in pocket], dtype=object) for name in pocket[0]}
    names = [name for name in rows[0] if name != "source_names"]
    imported = {name: np.array([row.get(name) for row in rows], dtype=object) for name in names}
    for family in ("supervised", "distillation-reduced"):
        first, second = (fit(t, family=family, bootstrap=0, check=False, calibrate=False) for t in (table, imported))
        assert (first.nobs, first.ngroups) == (second.nobs, second.ngroups)
        assert second.params == pytest.approx(first.params, rel=rtol)


def few(pocket):
    """A student, its teacher, and a run on data alone: trackers take seconds to start and end each run."""
    student = next(row for row in pocket if row["teacher_run"])
    return [row for row in pocket if row in (student, pocket[0]) or row["run_id"] == student["teacher_run"]]


def check_tracker(script, folder, logged, rows, **environment):
    names = {row["run_id"] for row in rows}
    in_process_of_its_own(script, folder, [run for run in logged if run["name"] in names], **environment)
    (logs,) = [path for path in folder.iterdir() if path.is_dir()]
    found = import_runs([logs], Options(columns=COLUMNS))
    assert not found.left_out
    check_same_numbers(found.rows, rows)
    return found.rows


def test_trackio(tmp_path, logged, pocket):
    need_installed("trackio")
    check_tracker(TRACKIO, tmp_path, logged, few(pocket), TRACKIO_DIR=str(tmp_path / "trackio"))


def test_wandb(tmp_path, logged, pocket):
    pytest.importorskip("wandb", reason="wandb is not installed")
    check_tracker(WANDB, tmp_path, logged, few(pocket), **OFFLINE)


@pytest.mark.slow
def test_trackio_whole_study(tmp_path, logged, pocket):
    need_installed("trackio")
    rows = check_tracker(TRACKIO, tmp_path, logged, pocket, TRACKIO_DIR=str(tmp_path / "trackio"))
    laws_agree(rows, pocket, rtol=1e-7)


@pytest.mark.slow
def test_wandb_whole_study(tmp_path, logged, pocket):
    pytest.importorskip("wandb", reason="wandb is not installed")
    laws_agree(check_tracker(WANDB, tmp_path, logged, pocket, **OFFLINE), pocket, rtol=1e-7)


def test_trackio_parquet_export_and_read_only_folder(tmp_path, logged, pocket):
    need_installed("trackio")
    export = "\nfrom trackio.sqlite_storage import SQLiteStorage\nSQLiteStorage.export_to_parquet()\n"
    in_process_of_its_own(TRACKIO + export, tmp_path, logged[:3], TRACKIO_DIR=str(tmp_path / "trackio"))
    names = {run["name"] for run in logged[:3]}
    expected = {row["run_id"]: row["loss"] for row in pocket if row["run_id"] in names}
    os.chmod(tmp_path / "trackio", 0o500)
    options = Options(columns={**COLUMNS, "teacher_run": "none", "lambda": "none"})
    for source in ("pocket.db", "pocket.parquet"):
        rows = import_runs([tmp_path / "trackio" / source], options).rows
        assert {row["source_run"]: row["loss"] for row in rows} == expected
        assert {row["source_kind"] for row in rows} == {"trackio"}
    os.chmod(tmp_path / "trackio", 0o700)


def tensorboard_logs(folder: Path, logged, *, double: bool) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    for run in logged:
        flat = flatten(run["config"])  # hyperparameters are neither nested nor None
        flat["kd.teacher"] = flat["kd.teacher"] or ""
        with SummaryWriter(str(folder / run["name"])) as writer:
            for step, row in run["history"]:
                for name, value in row.items():
                    writer.add_scalar(name, value, step, new_style=double, double_precision=double)
            writer.add_hparams(flat, {"hparam/done": 1.0})
    return folder


@pytest.mark.parametrize("double", [False, True])
def test_tensorboard(tmp_path, logged, pocket, double):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    pytest.importorskip("torch", reason="its writer comes with torch")
    folder = tensorboard_logs(tmp_path / "runs", logged, double=double)
    found = import_runs([folder], Options(columns=COLUMNS))
    check_same_numbers(found.rows, pocket, rtol=1e-12 if double else 1e-6)
    laws_agree(found.rows, pocket, rtol=1e-7 if double else 1e-3)


def test_wandb_crashed_killed_and_diverged_runs_are_left_out_by_name(tmp_path, logged):
    pytest.importorskip("wandb", reason="wandb is not installed")
    runs = [dict(run) for run in logged[:4]]
    runs[1]["exit"] = 1
    runs[2]["history"] = [*runs[2]["history"][:-1], (runs[2]["history"][-1][0], {"eval/loss": float("nan")})]
    runs[3]["killed"] = True
    for run in runs:
        run["config"] = {**run["config"], "kd": {"teacher": None, "weight": 0.0}}
    in_process_of_its_own(WANDB, tmp_path, runs, **OFFLINE)
    found = import_runs([tmp_path / "wandb"], Options(columns=COLUMNS))
    assert [row["source_run"] for row in found.rows] == [runs[0]["name"]]
    why = {left.run: left.reason for left in found.left_out}
    assert why[runs[1]["name"]] == "crashed: exit code 1"
    assert "its loss is nan" in why[runs[2]["name"]]
    (killed,) = [text for run, text in why.items() if run not in {runs[1]["name"], runs[2]["name"]}]
    assert any(
        text in killed for text in ("killed, or still running", "empty file", "cut off before")
    )  # as far as it got
    kept = import_runs([tmp_path / "wandb"], Options(columns=COLUMNS, keep_unfinished=True))
    assert {row["source_run"] for row in kept.rows} >= {runs[0]["name"], runs[1]["name"]}


FIXTURE = Path(__file__).parent / "run-pocket.wandb"


def test_wandb_file_without_wandb(tmp_path):
    """A committed log of wandb 0.31, so that the format is tested where that package is absent."""
    (log,) = read_wandb([FIXTURE])
    assert (log.name, log.trouble) == ("student-0.1M-alone", "")
    assert log.constants["model.non_embedding_params"] == 111024
    assert log.history["eval/loss"].value.tolist() == [5.25, 4.25, 3.250663012266159]


def test_wandb_files_that_are_cut_or_damaged(tmp_path):
    data = FIXTURE.read_bytes()
    cut = tmp_path / "run-cut.wandb"
    cut.write_bytes(data[: len(data) // 2])
    (log,) = read_wandb([cut])
    assert log.trouble
    damaged = tmp_path / "run-bad.wandb"
    middle = len(data) // 2
    damaged.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    other = tmp_path / "run-text.wandb"
    other.write_text("loss 3.2")
    empty = tmp_path / "run-empty.wandb"
    empty.touch()
    whole = tmp_path / "run-whole.wandb"
    whole.write_bytes(data)
    found = import_runs([tmp_path], Options())
    assert len(found.rows) == 1
    assert len(found.left_out) == 3
    reasons = " ".join(left.reason for left in found.left_out)
    assert all(text in reasons for text in ("damaged at byte", "not a W&B log", "an empty file"))
    with pytest.raises(DataError, match=r"no run can be used: .*damaged at byte"):
        import_runs([damaged], Options())


def test_a_copy_of_a_log_is_the_same_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "offline-run-1").mkdir(parents=True)
        shutil.copy(FIXTURE, tmp_path / name / "offline-run-1" / "run-x.wandb")
    found = import_runs([tmp_path / "a", tmp_path / "b"], Options())
    assert len(found.rows) == 1
    assert [left.reason for left in found.left_out] == ["a copy of another run here"]


def test_a_folder_of_two_kinds_is_refused(tmp_path):
    (tmp_path / "offline-run-1").mkdir()
    shutil.copy(FIXTURE, tmp_path / "offline-run-1" / "run-x.wandb")
    (tmp_path / "tb").mkdir()
    (tmp_path / "tb" / "events.out.tfevents.1.host").write_bytes(b"")
    with pytest.raises(DataError, match="holds logs of wandb and tensorboard"):
        open_source(tmp_path, told={}, where={}, layout="auto")


def test_a_name_that_means_nothing():
    with pytest.raises(ConfigError, match="unknown name 'parms'"):
        import_runs([FIXTURE], Options(columns={"parms": "n"}))
