"""Wrong input, of every kind, to every command: one line that says what to do, an exit code, never a traceback."""

import os
import sys
import time

import pytest

import tiny
from distillaw.__main__ import heed_interrupts
from in_process import answer

FILES = {
    "empty.csv": "",
    "empty.toml": "",
    "empty.json": "",
    "empty.txt": "",
    "law.json": "{}",
    "broken.toml": "x = [",
    "broken.json": "{",
    "columns.csv": "a,b\n1,2\n",
    "comma.csv": "name;compute;score\nmine;1,5e20;3\n",
    "study/study.json": "{}",
    "nan.csv": "N,D,loss\n1e6,1e7,3.0\n2e6,2e7,nan\n",
    "header.csv": "N,D,loss\n",
    "ring.toml": 'name = "x"\n' + tiny.RUN.format(tokens=4096).replace("[data]", '[data]\ncorpus = "ring"'),
}

RUN = "--columns params=N,tokens=D,loss=loss"
STUDENT = "--student-params 300M --student-tokens 6B"

# command line -> words of the error: what was seen, or what to do
CASES = {
    # verbs and options
    "predit": "did you mean 'predict'?); `distillaw --help`",
    "study nxt": "did you mean 'next'",
    "laws shwo": "did you mean 'show'",
    "toys kernal": "did you mean 'kernel'",
    "gap --student 1B extra": "`distillaw gap --help`",
    "laws --jsn": "did you mean '--json'",
    "predict": "`predict` needs --law: a name from `distillaw laws`",
    "fit columns.csv": "`fit` needs --law: one of supervised, chinchilla",
    "gap": "needs --student: non-embedding parameters of the student, e.g. 1B; ",
    "map": "needs KIND: one of gain",
    "laws show": "needs NAME: a name",
    "completion": "needs SHELL: one of bash, zsh, fish",
    "predict --law busbridge2025 --student-params": "--student-params needs a value",
    "cost --tokens 1B --params 1B --devics 1": "unknown option --devics (did you mean '--devices'?); ",
    "cost --tokens 1B --params 1B --devices 1": "--devices 1: write how many of what, e.g. 64xh100",
    "laws --out x": "unknown option --out; ",
    "foo": "unknown command 'foo'; ",
    "map gain --teacher-loss x": "--teacher-loss: cannot read 'x'",
    "cost --tokens 1B --params 1B --sequences x": "--sequences",
    "completion tcsh": "zsh",
    # links in a ring
    "cache build --teacher x --data ring --out o": "Too many levels of symbolic links",
    "study import ring --out o.parquet": "ring",
    "train ring.toml --out o --quiet": "corpus 'ring': no such file or folder",
    # names, with what is near
    f"predict --law busbridge2205 {STUDENT}": "did you mean 'busbridge2025'",
    "laws show busbridge": "did you mean 'busbridge2025'",
    "map gain --law surrogat-s1": "did you mean 'surrogate-s1'",
    "page --law nope": "known:",
    "gap --student 1B --law nope": "known:",
    "plan --student 300M --tokens 6B --law nope": "known:",
    "plan --student 300M --tokens 6B --teacher llama-3.1-8c": "Llama-3.1-8B",
    "teachers pythia-2b": "pythia-",
    "cost --tokens 1B --params 1B --hardware h300": "did you mean 'h200'",
    "plan --student 300M --tokens 6B --device h300": "did you mean 'h200'",
    "regime --params 1B --tokens 1B --hardware h300": "did you mean 'h200'",
    "fit columns.csv --law supervisd": "--law: got 'supervisd' (did you mean 'supervised'?)",
    "study new --kind isoflop": "did you mean 'isoflop-",
    "pareto --score mmlo": "did you mean 'mmlu'",
    "worlds show hm": "did you mean 'hmm'",
    "map gian": "did you mean 'gain'",
    "plan --student 300M --tokens 6B --scenario best": "best-case",
    # numbers
    "predict --law busbridge2025 --student-params -3M --student-tokens 6B": "positive",
    "predict --law busbridge2025 --student-params abc --student-tokens 6B": "such as 300M",
    f"predict --law busbridge2025 {STUDENT} --level 2": "between 0 and 1",
    f"fit nan.csv --law supervised {RUN} --level 90": "between 0 and 1",
    f"fit nan.csv --law supervised {RUN} --bootstrap -1": "0 for none",
    f"fit nan.csv --law supervised {RUN}": "nan.csv: loss in row 2",
    "cost --tokens -1B --params 1B": "positive",
    "cost --tokens 1B --params 1B --mfu 40": "fraction of peak",
    "cost --tokens 1B --params 1B --price -1": "negative",
    "plan --student 300M --compute -1": "positive",
    "plan --student -1B --tokens 1B": "got '-1B'; it must be positive",
    "map gain --student -1B": "got '-1B'",
    "gap --student x": "such as 300M",
    "map gain --size 1": "at least 3",
    "regime --params 1B --tokens 1B --devices 0": "--devices",
    "toys kernel --size 0": "--size",
    "worlds make hmm --out o --tokens -1": "--tokens",
    "study new --kind supervised --budget -1": "--budget",
    # what belongs together
    "plan": "--student 300M",
    "plan --student 300M": "--tokens 20B",
    "cost --tokens 1B": "--student N",
    "fit columns.csv --law supervised --columns params": "--columns",
    "fit columns.csv --law supervised --where x": "COLUMN=VALUE",
    "verify freeze nan.csv --cells params=1M": "tokens=..",
    # files and folders
    "fit missing.csv --law supervised": "no such file",
    "fit empty.csv --law supervised": "first line must name the columns",
    "fit header.csv --law supervised": "each further line is a run",
    "fit folder --law supervised": "study folder",
    "fit columns.csv --law supervised": "--columns params=COLUMN",
    "fit columns.csv --law supervised --columns params=N,tokens=D,loss=L": "the table has: a, b",
    "fit columns.csv --law supervised --columns paramss=N": "did you mean 'params'",
    f"predict --law missing.json {STUDENT}": "nor a file",
    f"predict --law empty.json {STUDENT}": "distillaw fit",
    f"predict --law broken.json {STUDENT}": "not a JSON file",
    "laws show missing.json": "distillaw fit",
    "laws show law.json": "law.json: not a fitted law",
    "cost --tokens 1B --config missing.json": "config.json",
    "cost --tokens 1B --config folder": "config.json",
    "cost --tokens 1B --config broken.json": "not a JSON file",
    "plan --student 300M --tokens 6B --study missing": "distillaw study run",
    "plan --student 300M --tokens 6B --study folder": "not a study folder",
    "study show missing.toml": "no such file",
    "study show emty.toml": "did you mean 'empty.toml'",
    "study show folder": "give the TOML file",
    "study show empty.toml": "empty",
    "study show broken.toml": "not TOML",
    "study status folder": "study.json",
    "study check missing": "no such folder",
    "study check folder": "not a study folder",
    "study next missing": "no such file or folder",
    "verify freeze missing --cells params=1M,tokens=1M": "no such file or folder",
    "verify score missing": "no such study folder",
    "verify score folder": "distillaw verify freeze",
    "report missing": "no such folder",
    "report folder": "not a study folder",
    "page --study folder": "not a study folder",
    "pareto missing": "evaluation.json",
    "pareto folder": "`distillaw evaluate folder --text YOUR_TEXT --out folder`",
    "pareto study": "a study, not a model: name a folder under study/runs",
    "pareto comma.csv": "comma.csv: mine: compute is '1,5e20', which is no number",
    "cache inspect missing": "distillaw cache build",
    "scout folder --text empty.txt": "config.json",
    "scout folder --text missing": "no such file or folder",
    "worlds show missing.toml": "no such file",
    # nothing can be written there
    "page --out /proc/x.html": "cannot write /proc/x.html",
    "study new --kind supervised --out /proc/x.toml": "cannot write /proc/x.toml",
    "page --out folder": "--out folder: a folder; give a file name",
    f"fit columns.csv --law supervised {RUN} --out folder": "--out folder: a folder; give a file name",
    f"fit columns.csv --law supervised {RUN} --out columns.csv/law.json": "columns.csv is a file, not a folder",
    f"fit columns.csv --law supervised {RUN} --out pipe": "not a file; give a file name",
    "report folder --out folder": "--out folder: a folder",
    "report folder --figures columns.csv": "columns.csv is a file, not a folder",
    "map gain --out columns.csv": "columns.csv is a file, not a folder",
    "toys kernel --out columns.csv/maps": "columns.csv is a file, not a folder",
    "toys mapping --out columns.csv": "columns.csv is a file, not a folder",
    "study new --kind supervised --force --out pipe": "not a file; give a file name",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with files that are wrong in their ways, and the one where commands run."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "ring").symlink_to("ring")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("line", "words"), CASES.items(), ids=CASES)
def test_one_line_that_says_what_to_do(place, line, words):
    done = answer(*line.split())
    assert done.returncode in (1, 2), done.stdout
    assert words in done.stderr
    assert done.stderr.startswith("distillaw: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr and "Errno" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "line",
    [
        "plan --student 300M --tokens 6B --study missing",
        "report missing",
        "study check missing",
        "study next missing",
        "study status missing",
        "verify score missing",
        "verify freeze missing --cells params=1M,tokens=1M",
    ],
)
def test_a_missing_study_folder_is_a_failure_not_wrong_usage(place, line):
    assert answer(*line.split()).returncode == 1


def test_ctrl_c_in_a_finaliser_is_not_lost(monkeypatch):
    """Python drops what a finaliser raises; a study went on for minutes."""

    class Freed:
        def __del__(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    heed_interrupts()
    with pytest.raises(KeyboardInterrupt):
        Freed()
        time.sleep(20)
