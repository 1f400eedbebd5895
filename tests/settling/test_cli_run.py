"""`distillaw settle` as a user meets it: real pilots of a tiny world, killed in earnest, asked again, given more."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distillaw.cli.settle import show
from distillaw.runs.files import read_json, write_json
from distillaw.runs.record import read_study
from in_process import answer as in_process
from in_process import following

FILE = """
name = "tiny-settle"
batch_tokens = 64
peak_lr = 0.011
[data]
world_tokens = "60k"
teacher_share = 0.1
validation_documents = 60
[data.world]
vocab = 17
document_tokens = 64
[data.world.hmm]
states = 8
branching = 3
transition_nats = 0.7
emission_nats = 1.2
[training]
context = 32
warmup_tokens = 512
[[teachers]]
path = "oracle"
[[teachers]]
path = "oracle:window=0"
[target]
params = "0.03M"
tokens = "40k"
[settle]
budget = "{budget}"
least_params = "7k"
"""
PLAN_KEYS = set(
    "verdict probability margin strategies gain crossover_tokens flips_if assumptions inside_range warnings".split()
)
OWN_KEYS = {"regret_bound", "leader", "compute_spent", "share_of_target", "stages", "dropped"}


def _file(folder: Path, budget: str = "20%") -> Path:
    path = folder / "settle.toml"
    path.write_text(FILE.format(budget=budget))
    return path


def _start(file: Path, folder: Path, *more: str) -> subprocess.Popen:
    distillaw = str(Path(sys.executable).with_name("distillaw"))
    return subprocess.Popen(
        [distillaw, *f"settle {file} --out {folder} --json --workers 1".split(), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _settled(file: Path, folder: Path, *more: str) -> dict:
    """The answer of an uninterrupted call."""
    return json.loads(in_process("settle", file, "--out", folder, "--json", "--workers", "1", *more, code=0).stdout)


def _trained(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


def _executed(rows: Iterable[dict]) -> float:
    """FLOP of the pilots, counted from their rows: branches of one trunk share four fifths of the longest."""
    trunks: dict[str, list[dict]] = {}
    for row in rows:
        if row["purpose"] == "grid":
            trunks.setdefault(row["group"], []).append(row)
    total = 0.0
    for branches in trunks.values():
        tokens = [row["tokens"] for row in branches]
        per_token = (branches[0]["train_flops"] + (branches[0]["teacher_flops"] or 0.0)) / tokens[0]
        total += per_token * (0.8 * max(tokens) + 0.2 * sum(tokens))
    return total


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """An uninterrupted settlement: its folder and its answer."""
    base = tmp_path_factory.mktemp("settled")
    return base / "out", _settled(_file(base), base / "out")


def test_the_verdict_has_the_keys_of_plan_and_its_own(settled):
    folder, answer = settled
    assert (PLAN_KEYS | OWN_KEYS | {"schema_version"}) <= answer.keys()
    assert answer["verdict"] in ("distil", "pretrain", "too-close")
    assert answer["is_final"]
    assert {k: v for k, v in read_json(folder / "verdict.json").items() if k != "generator"} == {
        k: v for k, v in answer.items() if k != "schema_version"
    }
    assert {row["name"] for row in answer["strategies"]} == {
        "pretrain",
        "distil from oracle",
        "distil from oracle:window=0",
    }
    for row in answer["strategies"]:
        assert {"student_params", "student_tokens", "teacher_loss", "compute", "loss"} <= row.keys()
        assert row["loss"]["lower"] <= row["loss"]["mean"] <= row["loss"]["upper"]
    assert answer["compute_spent"] <= answer["budget"]
    assert answer["stages"]


def test_stages_are_ordinary_paired_runs(settled):
    folder, answer = settled
    table = {row["run_id"]: row for row in pq.read_table(folder / "runs.parquet").to_pylist()}
    runs = [run for stage in answer["stages"] for run in stage["runs"]]
    assert runs
    assert {run["run_id"] for run in runs} <= table.keys()
    for run in runs:
        assert table[run["run_id"]]["loss"] == run["loss"]
        assert table[run["run_id"]]["tokens"] == run["tokens"]
        assert (run["gain_se"] is None) == (run["teacher"] == "none")
    streams = {(table[r["run_id"]]["batch_tokens"], table[r["run_id"]]["split"]) for r in runs}
    assert len(streams) == 1
    assert _executed(table.values()) == pytest.approx(answer["compute_spent"] - answer["search_compute"], rel=0.02)
    record = read_study(folder)
    assert record.target == (30_000, 40_000)
    assert not record.problems


def test_the_terminal_says_what_the_json_says(settled, capsys):
    _, answer = settled
    show(answer)
    text = capsys.readouterr().out
    assert answer["sentence"] in text
    assert f"{len([r for s in answer['stages'] for r in s['runs']])} pilots in {len(answer['stages'])} stage" in text
    for line in (*answer["assumptions"], *answer["flips_if"], *answer["warnings"]):
        assert f"- {line}" in text
    for row in answer["strategies"]:
        assert row["name"] in text


def test_the_next_command_runs_as_printed(settled):
    folder, _ = settled
    done = in_process("settle", _file(folder.parent), "--out", folder, "--workers", "1")
    before = (folder / "verdict.json").read_bytes()
    then = in_process(*following(done))
    assert then.returncode == 0 and str(folder) in then.stdout, then.stderr
    assert (folder / "verdict.json").read_bytes() == before, "the report replaces the settlement's verdict"


def test_a_second_call_trains_nothing_and_says_the_same(settled):
    folder, answer = settled
    before = _trained(folder)
    again = _settled(_file(folder.parent), folder)
    assert _trained(folder) == before
    assert again == answer


def test_a_dry_run_shows_what_comes_next_not_what_was_done(settled, tmp_path):
    folder, answer = settled
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    record = read_json(copy / "settle.json")
    del record["question"]["training"]["batch_doublings"]  # begun before there was this setting
    write_json(copy / "settle.json", record)
    ended = _settled(_file(tmp_path), copy, "--dry-run")
    assert ended["next_stage"] is None
    assert ended["stages_done"] == len(answer["stages"])
    assert ended["compute_spent"] == pytest.approx(answer["compute_spent"])
    last = answer["stages"][-1]
    lost = next(run for run in last["runs"] if run["teacher"] == "none")
    (copy / "runs" / lost["run_id"] / "result.json").unlink()
    again = _settled(_file(tmp_path), copy, "--dry-run")
    assert again["stages_done"] == len(answer["stages"]) - 1
    assert again["next_stage"]["is_begun"]
    assert (again["next_stage"]["sizes"], again["next_stage"]["tokens"]) == (last["sizes"], last["tokens"])
    assert again["next_stage"]["runs"] < len(last["runs"])


def test_a_folder_of_an_earlier_version_is_refused_and_stays_as_it_is(settled, tmp_path):
    """Its pilots had other rates: all would be trained again, uncounted."""
    folder, _ = settled
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    record = {key: value for key, value in read_json(copy / "settle.json").items() if key != "rates"}
    write_json(copy / "settle.json", record)
    before = {path: path.read_bytes() for path in copy.rglob("*.json")}
    for more in ((), ("--dry-run",)):
        refused = in_process("settle", _file(tmp_path), "--out", copy, *more, code=2)
        assert "earlier version" in refused.stderr and "verdict.json" in refused.stderr
    assert {path: path.read_bytes() for path in copy.rglob("*.json")} == before


def _is_training_pilots(folder):
    """Whether a run of a stage, none of the search, has made steps."""
    if not (folder / "tuning.json").exists() or not (folder / "settle.json").exists():
        return False
    searched = (folder / "tuning.json").read_text()
    logs = (folder / "runs").glob("*/metrics.jsonl")
    return bool(read_json(folder / "settle.json")["stages"]) and any(
        log.parent.name not in searched and log.stat().st_size for log in logs
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_settlement_goes_on_to_the_same_answer(settled, tmp_path, how):
    _, answer = settled
    folder = tmp_path / "out"
    process = _start(_file(tmp_path), folder)
    deadline = time.monotonic() + 300
    while not _is_training_pilots(folder):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, how)
    process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    again = _settled(_file(tmp_path), folder)
    assert {**again, "folder": ""} == {**answer, "folder": ""}


@pytest.mark.slow
def test_a_larger_budget_goes_on_and_a_changed_question_is_refused(settled, tmp_path):
    folder, answer = settled
    copy = tmp_path / "out"
    shutil.copytree(folder, copy)
    before = _trained(copy)
    more = _settled(_file(tmp_path, "60%"), copy)
    assert more["budget"] == pytest.approx(3 * answer["budget"])
    assert {**_trained(copy), **before} == _trained(copy)
    assert more["stages"][: len(answer["stages"])] == answer["stages"]
    refused = in_process("settle", _file(tmp_path, "20%"), "--out", copy, code=2)
    assert "was begun with a budget" in refused.stderr
