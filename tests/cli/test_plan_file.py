"""`distillaw plan --question FILE`: the options of a TOML file, and what is typed beside it."""

import json

import pytest

from in_process import answer

FILE = """
# a question
[plan]
student = "300M"
tokens = 6e9
teacher-params = ["3B", "7B"]
teacher-tokens = ["60B", "1T"]
only-existing = true
level = 0.8
"""
TYPED = tuple(
    "--student 300M --tokens 6B --teacher-params 3B 7B --teacher-tokens 60B 1T --only-existing --level 0.8".split()
)


@pytest.fixture
def written(tmp_path):
    """Write a question, name its file."""

    def write(text):
        path = tmp_path / "question.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(autouse=True)
def without_flips(monkeypatch):
    """They take most of the time, and have tests of their own."""
    monkeypatch.setattr("distillaw.planning.api.switching_values", lambda *args, **words: [])


def asked(*words):
    return json.loads(answer("plan", *words, "--json", code=0).stdout)


def test_a_file_asks_what_its_options_would(written):
    assert asked("--question", written(FILE)) == asked(*TYPED)


def test_what_is_typed_wins(written):
    path = written(FILE)
    other = [{"300M": "500M", "3B": "4B", "7B": "8B"}.get(word, word) for word in TYPED]
    assert asked("--question", path, "--student", "500M", "--teacher-params", "4B", "8B") == asked(*other)
    bill = [{"--tokens": "--compute", "6B": "1e20"}.get(word, word) for word in TYPED]
    assert asked("--question", path, "--compute", "1e20") == asked(*bill)


@pytest.mark.parametrize("name", ["study", "scout"])
def test_options_that_are_also_commands_are_read(name, written, tmp_path):
    path = written(f'[plan]\nstudent = "1B"\ntokens = "20B"\n{name} = "{tmp_path / "none"}"')
    typed = answer("plan", "--student", "1B", "--tokens", "20B", f"--{name}", tmp_path / "none")
    done = answer("plan", "--question", path)
    assert done.returncode == typed.returncode != 0 and done.stderr == typed.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[plan]\nstudnet = "1B"', "unknown key 'studnet' (did you mean 'student'?)"),
        ('[plan]\nquestion = "other.toml"', "unknown key 'question'"),
        ("[plan]\nteacher = []", "teacher = []"),
        ("[plan]\ntokens = 1979-05-27", "write a text, a number"),
        ('student = "1B"', "it must have one table, [plan]"),
        ("[plan]\n[study]\n", "found plan, study"),
        ("", "empty"),
        ("student", "not TOML"),
    ],
)
def test_what_is_no_question_is_refused_with_the_file_named(text, words, written):
    path = written(text)
    done = answer("plan", "--question", path)
    assert done.returncode == 2 and words in done.stderr and str(path) in done.stderr


def test_a_file_that_is_not_there(tmp_path):
    done = answer("plan", "--question", tmp_path / "none.toml")
    assert done.returncode == 2 and "no such file" in done.stderr


def test_other_verbs_read_no_question(tmp_path):
    assert answer("gap", "--question", tmp_path / "none.toml").returncode == 2
    assert answer("laws").returncode == 0
