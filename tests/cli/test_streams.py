"""What goes where, and how it looks: terminals of several widths, pipes, log files, --quiet and --json."""

import functools
import json
import math
import os
import re
import resource
import shlex
import subprocess
import sys

import numpy as np
import pytest

from distillaw.cli.console import fold
from in_process import answer
from in_terminal import in_terminal
from thinned import one_in
from tiny import STUDY

CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STYLE = re.compile(r"\x1b\[[0-9;]*m")

COMMAND = f"{shlex.quote(sys.executable)} -m distillaw"
PLAN = ("plan", "--student", "300M", "--tokens", "20B")
ANSWERS = [
    PLAN,
    ("predict", "--law", "busbridge2025", "--student-params", "300M", "--student-tokens", "6B"),
    ("cost", "--params", "1.82B", "--tokens", "512B", "--teacher-params", "7B"),
    ("gap", "--student", "1B"),
    ("map", "gain", "--size", "6x8"),
    ("laws",),
    ("laws", "show", "busbridge2025"),
    ("teachers", "pythia"),
    ("teachers", "pythia-1b"),
    ("regime", "--params", "300M", "--tokens", "6B"),
    ("study", "show", "studies/quickstart.toml"),
    ("study", "new"),
    ("toys", "kernel"),
    ("pareto",),
    ("worlds", "list"),
    ("worlds", "show", "tiny", "--documents", "2"),
    ("doctor", "--no-measure"),
]
"""Quick ones of every family of commands."""

said = functools.cache(answer)
terminal = functools.cache(in_terminal)
every_answer = pytest.mark.parametrize("words", ANSWERS, ids=" ".join)


@every_answer
def test_json_is_one_strict_object(words):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    done = answer(*words, "--json", code=0)
    document = json.loads(done.stdout, parse_constant=refuse)
    assert document["schema_version"] == 1 and len(document) > 1


@pytest.mark.parametrize("is_strict", [False, True])
def test_what_is_no_number_is_null_and_the_fuzz_sees_it(monkeypatch, is_strict):
    """Wherever it comes from: planted in an answer here."""
    planted = {"loss": math.nan, "deep": [{"interval": (-math.inf, np.float64("inf")), "kept": 1.5}], "wide": 1e308}
    monkeypatch.setattr("distillaw.cli.laws.predict_student", lambda *_, **__: {**planted, "warnings": []})
    monkeypatch.setenv("DISTILLAW_STRICT_JSON", "1" if is_strict else "")
    words = ("predict", "--law", "besiroglu2024", "--student", "1B", "--tokens", "20B", "--json")
    if is_strict:
        with pytest.raises(ValueError, match="not JSON compliant"):
            answer(*words)
        return
    done = answer(*words)
    assert json.loads(done.stdout, parse_constant=pytest.fail) == {
        "schema_version": 1,
        "loss": None,
        "deep": [{"interval": [None, None], "kept": 1.5}],
        "wide": 1e308,
        "warnings": [],
    }


@every_answer
def test_last_line_is_the_next_command(words):
    last = said(*words).stdout.rstrip("\n").splitlines()[-1]
    assert last.startswith("next: distillaw "), last


@every_answer
def test_quiet_leaves_the_result(words):
    loud, quiet = said(*words), answer(*words, "--quiet")
    assert quiet.stderr == "" and quiet.returncode == loud.returncode
    assert "\nnext: " not in quiet.stdout
    if words[0] != "doctor":  # whose load and memory move
        assert loud.stdout.startswith(quiet.stdout.rstrip("\n"))


@pytest.mark.parametrize("words", [PLAN, ("study", "new")], ids=" ".join)
def test_pipes_have_no_codes_and_no_folded_rows(words):
    done = subprocess.run([sys.executable, "-m", "distillaw", *words], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert not [line for line in done.stdout.splitlines() if line != line.rstrip()]


def test_rows_are_whole_in_a_pipe():
    lines = answer("study", "new").stdout.splitlines()
    rows = [line for line in lines if re.match(r"[a-z-]+ {2,}\S.* \d\.\de\+\d\d ", line)]
    assert len(rows) == 12
    plan = answer(*PLAN).stdout.splitlines()
    assert any(line.startswith("zhang2023-capacity-gap  ") and line.endswith("says nothing of losses") for line in plan)


@pytest.mark.parametrize("columns", one_in(2, [80, 120]))
@pytest.mark.parametrize("words", [PLAN, ("gap", "--student", "1B"), ("laws",), ("study", "new")], ids=" ".join)
def test_lines_fit_the_terminal(words, columns):
    text = CODE.sub("", terminal(*words, "--quiet", columns=columns))
    assert max(map(len, text.splitlines())) <= columns
    assert "Traceback" not in text


def test_narrow_tables_keep_words_and_numbers_whole():
    text = CODE.sub("", terminal(*PLAN, "--quiet", columns=80))
    assert "then distil\n" in text and re.search(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", text)
    assert "zhang2023-capacity-gap\n" in text


def test_a_terminal_has_colour_and_no_color_takes_it():
    assert STYLE.search(terminal(*PLAN, "--quiet", columns=80))
    assert not STYLE.search(terminal(*PLAN, "--quiet", NO_COLOR="1"))
    assert "\x1b" not in terminal(*PLAN, TERM="dumb")


def test_json_in_a_terminal_is_not_folded():
    text = terminal(*PLAN, "--json", "--quiet", columns=60)
    assert json.loads(text)["schema_version"] == 1


def test_a_bar_in_a_terminal_lives_and_goes():
    text = terminal("worlds", "make", "tiny", "--tokens", "200k", "--out", "/dev/null/x")
    assert "distillaw: " in text  # an error does not leave the cursor hidden
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")
    text = terminal(*PLAN)
    assert "\x1b[?25l" in text and text.rstrip().splitlines()[-1].startswith("next: ")


def test_a_log_file_gets_plain_lines(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as stream:
        command = [*f"{sys.executable} -m distillaw worlds make tiny --tokens 50k --out {tmp_path / 'w'}".split()]
        subprocess.run(command, stdout=stream, stderr=stream, check=True)
    assert "\x1b" not in log.read_text() and "\r" not in log.read_text()


@pytest.mark.parametrize(
    ("line", "width", "folded"),
    [
        ("short", 80, "short"),
        ("one two three", 9, "one two\n  three"),
        ("- one two three", 9, "- one two\n  three"),
        ("  label     some words that go on", 25, "  label     some words\n            that go on"),
        ("next: distillaw plan --student 300M", 20, "next: distillaw plan --student 300M"),
        ("\x1b[1mcoded words go on and on\x1b[0m", 10, "\x1b[1mcoded words go on and on\x1b[0m"),
        ("unbreakable-" * 3, 20, "unbreakable-" * 3),
    ],
)
def test_folding(line, width, folded):
    assert fold(line, width) == folded


@pytest.mark.parametrize("quiet", [False, True])
def test_a_warning_is_one_line_without_a_place(quiet):
    code = (
        "import warnings; from distillaw.cli.app import warn_in_one_line as ours; "
        "from distillaw.errors import DistillawWarning; "
        f"ours(quiet={quiet}); warnings.warn('mind this', DistillawWarning); warnings.warn('theirs')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("warning: mind this\n" in done.stderr) is not quiet
    assert "theirs" in done.stderr and "DistillawWarning" not in done.stderr


@pytest.mark.parametrize("words", ["--help", "laws", "laws --json"])
def test_a_reader_that_has_seen_enough_is_no_failure(words):
    done = in_shell(f"{COMMAND} {words} | head -1; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\n") == 1


def test_closed_streams_are_said_in_one_line():
    assert in_shell(f"{COMMAND} laws >&-").returncode == 1
    assert in_shell(f"{COMMAND} laws 2>&1 >&-").stdout.startswith("distillaw: standard output is closed")
    assert in_shell(f"{COMMAND} laws >&- 2>&-").returncode == 1


def test_a_terminal_without_utf8_gets_question_marks():
    done = in_shell(f"LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 {COMMAND} pareto")
    assert done.returncode == 0 and " ? " in done.stdout, done.stderr


def test_an_interrupt_during_the_first_imports_is_one_line():
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *rest):
        if name == "cyclopts":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from distillaw.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "\ninterrupted: nothing was started\n"


def in_shell(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True)


def test_names_move_no_cursor_and_set_no_title():
    name = "a\x1b]0;own\x07b\x9b2J"
    shown = terminal(*PLAN, "--teacher", name, "--quiet")
    assert "\\x1b]0;own\\x07b\\x9b2J" in shown
    assert not {"\x1b]", "\x07", "\x9b"} & {shown[i : i + n] for i in range(len(shown)) for n in (1, 2)}


def within(limit, *words):
    """The command with an address space of so many bytes."""
    return subprocess.run(
        [sys.executable, "-m", "distillaw", *map(str, words)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "DISTILLAW_TRACEBACK": ""},
    )


def test_too_little_memory_is_one_line():
    done = within(60 << 20, "plan", "--student", "300M", "--tokens", "6B")
    assert done.returncode == 1
    assert done.stderr.startswith("distillaw: out of memory") and done.stderr.count("\n") == 1, done.stderr


def test_training_says_what_it_needs_before_threads_of_libraries_panic(tmp_path):
    (tmp_path / "tiny.toml").write_text(STUDY)
    done = within(1 << 30, "study", "run", tmp_path / "tiny.toml", "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "limited to 1 GiB (ulimit -v)" in done.stderr
