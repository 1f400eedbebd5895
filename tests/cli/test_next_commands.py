"""What stands behind `next: ` runs as it is printed; what it lacks is named instead."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from tests.cli.test_streams import ANSWERS
from tests.cli.test_study_next import make_folder

from distillaw.protocols.catalogue import KINDS
from distillaw.runs.files import read_json, write_json
from distillaw.runs.places import claim_folder
from in_process import answer

ROOT = Path(__file__).parents[2]

TRAINS = {
    "study run",
    "train",
    "distil",
    "evaluate",
    "scout",
    "recipe",
    "worlds make",
    "settle",
    "cache build",
}
"""Asked for --help alone: the words are parsed all the same."""
QUESTION = ("--student-params", "300M", "--student-tokens", "6B")
MORE = [
    ("predict", "--law", "surrogate-s2", *QUESTION, "--teacher-loss", "2.2"),
    ("gap", "--student", "1B", "--explain"),
    ("plan", "--student", "1B", "--compute", "1e21", "--teacher", "pythia-1.4b"),
    ("plan", "--student", "0.1M", "--tokens", "1M"),
    ("teachers", "llama"),
    ("fit", "runs.csv", "--law", "supervised", "--bootstrap", "20"),
    ("fit", "runs.csv", "--law", "supervised", "--bootstrap", "20", "--out", "law.json"),
    ("fit", "few.csv", "--law", "supervised", "--bootstrap", "20"),
    ("study", "next", "runs.csv", *QUESTION, "--budget", "1e20", "--bootstrap", "20"),
    ("study", "next", "out", "--budget", "3e13"),
    ("study", "next", "out", "--budget", "1e15"),
    ("study", "check", "out"),
    ("plan", "--study", "out"),
    ("toys", "kernel", "--out", "drawn"),
    *(("study", "new", kind.name) for kind in KINDS),
    ("study", "new", "supervised", "--corpus", "sotu"),
]


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """A folder with what the commands read."""
    (tmp_path / "studies").mkdir()
    for name in ("quickstart.toml",):
        (tmp_path / "studies" / name).write_text((ROOT / "studies" / name).read_text())
    rows = [
        (N, D, 1.9 + 400 / N**0.34 + 410 / D**0.28) for N in (1e8, 2e8, 4e8) for D in (2e9, 4e9, 8e9, 16e9)
    ]
    for name, count in (("runs.csv", 12), ("few.csv", 3)):
        lines = [f"{N:.0f},{D:.0f},{loss}" for N, D, loss in rows[:count]]
        (tmp_path / name).write_text("\n".join(["params,tokens,loss", *lines]) + "\n")
    claim_folder(tmp_path / "out")
    info = read_json(make_folder(tmp_path / "out") / "study.json")
    write_json(
        tmp_path / "out" / "study.json",
        info | {"command": "distillaw study run studies/quickstart.toml --out out"},
    )
    monkeypatch.chdir(tmp_path)


def _call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["distillaw", *words])  # what some answers suggest to call again
    return answer(*words)


@pytest.mark.parametrize("words", [*ANSWERS, *MORE], ids=" ".join)
def test_the_next_command_runs_as_printed(words, monkeypatch):
    done = _call(monkeypatch, *words)
    last = done.stdout.rstrip("\n").splitlines()[-1]
    assert last.startswith("next: distillaw "), done.stderr or last
    following = shlex.split(last.removeprefix("next: distillaw "))
    assert not [word for word in following if re.fullmatch(r"[A-Z_]{2,}(\.toml)?", word)]
    heavy = " ".join(following[:2]) in TRAINS or following[0] in TRAINS
    after = _call(monkeypatch, *following, *(["--help"] if heavy else []))
    assert after.returncode == 0, after.stderr


def test_what_only_the_user_has_is_named_beside_the_command(capsys):
    from distillaw.cli.output import Output

    Output().suggest("distillaw train SPEC.toml --out out/x --text YOUR_TEXT --start /data/A/SPEC.tomlx -N 3")
    assert capsys.readouterr().out.startswith(
        "\nnext, with your own SPEC.toml, YOUR_TEXT: distillaw train SPEC.toml"
    )
    Output().suggest("distillaw plan --study /data/RUNS --student 300M")
    assert capsys.readouterr().out.startswith("\nnext: distillaw plan")
