"""`distillaw study new` through the console script: lists, writes, prices, refuses; and what it wrote trains."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from distillaw.protocols.catalogue import KINDS, kind_named
from distillaw.protocols.scale import DesignWishes, scale_for
from distillaw.protocols.sheet import study_file
from distillaw.runs.table import read_table
from in_process import answer

_call = partial(answer, "study")


def test_without_a_kind_it_lists_them_with_their_costs():
    listed = json.loads(_call("new", "--json").stdout)["kinds"]
    assert [one["kind"] for one in listed] == [kind.name for kind in KINDS]
    assert all(one["flops"] > 0 and one["core_seconds"] > 0 for one in listed)


def test_show_says_what_new_said(tmp_path):
    said = json.loads(_call("new", "teacher-choice", "--corpus", "sotu", "--json", cwd=tmp_path, code=0).stdout)
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
        (["new", "supervised", "--out", ".", "--force"], "a folder; give a file name"),
        (["new", "supervised", "--hours", "1", "--hardware", "h20"], "h200"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments, words, tmp_path):
    done = _call(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["quickstart.toml", "pocket.toml"])
def test_the_shipped_studies_are_judged_too(name):
    shown = _call("show", Path("studies") / name, "--corpus", "sotu", code=0)
    assert "what it would identify" in shown.stdout and "controls" in shown.stdout


def test_of_a_world_no_law_is_guessed():
    shown = _call("show", "studies/worlds/catchup.toml", code=0)
    assert "no law is guessed: its text is a synthetic world" in shown.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["supervised", "truncation"])
def test_what_it_writes_trains(name, tmp_path):
    """A template at a scale of seconds: below the 800 steps that the command insists on, otherwise as it is written."""
    kind = kind_named(name)
    sizes = {"students": (0.02e6, 0.03e6, 0.05e6)}
    if name != "supervised":
        sizes["teachers"] = (0.03e6, 0.05e6)
    scale = scale_for(DesignWishes(**sizes, tokens=(52e3, 56e3, 60e3), corpus="sotu"), kind.defaults)
    sheet = kind.build(replace(scale, tokens=(2048, 4096), teacher_tokens=8192))
    spec = sheet.spec(name)
    data = replace(spec.data, validation_documents=20, validation_tokens_per_document=96)
    (tmp_path / "tiny.toml").write_text(study_file(sheet, replace(spec, data=data), ["tiny"]))
    done = _call("run", "tiny.toml", "--out", "out", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["failed_runs"] == {}, done.stderr
    assert done.returncode == bool(said["waiting"]), done.stderr
    assert all(line.startswith("held-out students wait") for line in said["waiting"])  # too few runs for a law
    table = read_table(tmp_path / "out" / "runs.parquet")
    purposes = {str(purpose) for purpose in table["purpose"]}
    if name == "truncation":
        top, mixed = sorted(p for p in purposes if p.startswith("control:top-"))[0], "lambda 0.7"
        assert any(mixed in purpose for purpose in purposes)
        loss = {p: [v for v, q in zip(table["loss"], table["purpose"], strict=True) if q == p] for p in ("grid", top)}
        assert loss[top] and not set(loss[top]) & set(loss["grid"])
    else:
        assert {"grid", "tuning"} <= purposes
