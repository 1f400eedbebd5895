"""`distillaw study new` through the console script: lists, writes, prices, refuses; and what it wrote trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distillaw.protocols.catalogue import KINDS


def _call(*arguments, cwd=None, timeout=600):
    return subprocess.run(
        [sys.executable, "-m", "distillaw", "study", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False,
    )  # fmt: skip


def test_without_a_kind_it_lists_them_with_their_costs():
    listed = json.loads(_call("new", "--json").stdout)["kinds"]
    assert [one["kind"] for one in listed] == [kind.name for kind in KINDS]
    assert all(one["flops"] > 0 and one["core_seconds"] > 0 for one in listed)


def test_show_says_what_new_said(tmp_path):
    new = _call("new", "teacher-choice", "--corpus", "sotu", "--json", cwd=tmp_path)
    assert new.returncode == 0, new.stderr
    said = json.loads(new.stdout)
    show = json.loads(_call("show", tmp_path / "teacher-choice.toml", "--json").stdout)
    for name in ("spec_hash", "num_runs", "flops", "disk_bytes", "identifies", "controls", "contrasts"):
        assert said[name] == show[name], name
    errors = said["identifies"]["reduced"]["standard_errors"]["c0"]
    assert errors["worst"] == max(value for guess, value in errors.items() if guess != "worst") > 0
    printed = _call("show", tmp_path / "teacher-choice.toml").stdout
    assert "what it would identify" in printed and "best L_T / L_S" in printed
    text = (tmp_path / "teacher-choice.toml").read_text()
    assert text.startswith("# teacher-choice: which teacher") and "+ seeds" in text


def test_a_file_is_not_overwritten_unasked(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("precious")
    refused = _call("new", "supervised", "--out", file)
    assert refused.returncode == 2 and "--force" in refused.stderr and file.read_text() == "precious"
    assert _call("new", "supervised", "--out", file, "--force").returncode == 0
    assert "[students]" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new", "--kind", "truncatio"], "did you mean 'truncation'"),
        (["new", "supervised", "--budget", "1e10"], "the smallest that works costs"),
        (["new", "supervised", "--budget", "1e15", "--hours", "2"], "not both"),
        (["new", "supervised", "--students", "0.1M"], "needs at least 3"),
        (["new", "supervised", "--vocab", "100"], "at least 257"),
        (["new", "supervised", "--corpus", "no-such-place"], "no such file or folder"),
        (["new", "supervised", "--hours", "1", "--hardware", "h20"], "h200"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments, words, tmp_path):
    done = _call(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["quickstart.toml", "pocket.toml"])
def test_the_shipped_studies_are_judged_too(name):
    shown = _call("show", Path("studies") / name, "--corpus", "sotu")
    assert shown.returncode == 0, shown.stderr
    assert "what it would identify" in shown.stdout and "controls" in shown.stdout


def test_of_a_world_no_law_is_guessed():
    shown = _call("show", "studies/worlds/catchup.toml")
    assert shown.returncode == 0, shown.stderr
    assert "no law is guessed: its text is a synthetic world" in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("truncation", ["--students", "0.02M", "--teachers", "0.03M,0.05M", "--tokens", "52k"]),
        ("supervised", ["--students", "0.02M,0.03M,0.05M", "--tokens", "52k,56k,60k"]),
    ],
)
def test_what_it_wrote_trains(kind, sizes, tmp_path):
    new = _call("new", kind, "--corpus", "sotu", *sizes, cwd=tmp_path)
    assert new.returncode == 0, new.stderr
    done = _call("run", f"{kind}.toml", "--out", "out", "--json", cwd=tmp_path, timeout=3000)
    assert done.returncode in (0, 1), done.stderr
    answer = json.loads(done.stdout)
    assert answer["failed_runs"] == {}, answer["failed_runs"]
    results = list((tmp_path / "out" / "runs").glob("*/result.json"))
    assert len(results) >= 15
    assert (tmp_path / "out" / "report.html").exists()
