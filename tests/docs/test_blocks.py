"""Every fenced block of README.md and docs/ runs as printed, or says why it does not."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from blocks import RUN, SHOWN, Block, blocks_of, commands, is_slow, matches

from in_process import answer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_SHELL = re.compile(r"[|;&<>*~]|\$\(")


def _runs(page: Path) -> bool:
    return any(block.language in RUN and block.not_run is None for block in blocks_of(page))


_LONG = [pytest.mark.slow, pytest.mark.timeout(2400)]  # minutes of training, on machines that others use too
RUNNING = [pytest.param(page, id=page.name, marks=_LONG if is_slow(page) else []) for page in PAGES if _runs(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_language_and_runs_or_says_why_not(page):
    for block in blocks_of(page):
        assert block.language in RUN + SHOWN, f"{block.where}: a block of language {block.language!r}"
        if block.not_run is not None:
            assert block.language in RUN, f"{block.where}: {block.language} is never run, so needs no reason"
            assert re.fullmatch(r"[A-Za-z].{5,}", block.not_run), f"{block.where}: why is it not run?"
        if block.language == "console":
            assert commands(block.body), f"{block.where}: a console block without a line that begins with '$ '"
        if block.language == "text":
            assert not re.search(r"^(\$ |distillaw )", block.body, re.MULTILINE), f"{block.where}: holds a command"
        if block.language == "toml":
            tomllib.loads(block.body)


@pytest.mark.parametrize("page", RUNNING)
def test_blocks_run_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "122")
    for name in ("studies", "benchmarks", "src"):  # a reader stands in a checkout
        (tmp_path / name).symlink_to(ROOT / name)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks_of(page):
        if block.not_run is None:
            _run(block, names)


def _run(block: Block, names: dict[str, object]) -> None:
    if block.setup:
        _python(block.setup, block, names)
    if block.language == "python":
        _python(block.body, block, names)
    elif block.language in ("sh", "bash"):
        lines = [line for line in block.body.replace("\\\n", " ").splitlines() if line.strip()]
        for script in lines if all(_plain(line) for line in lines) else [block.body]:
            _check(block, script, _command(script), "", code=block.exits)
    elif block.language == "console":
        every = commands(block.body)
        for at, (command, expected) in enumerate(every):
            code = block.exits if at == len(every) - 1 else 0
            _check(block, command, _command(command), expected, code=code)
    elif block.file is not None:
        Path(block.file).write_text(block.body)


def _python(code: str, block: Block, names: dict[str, object]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile("\n" * block.line + code, block.page, "exec"), names)


def _command(command: str) -> tuple[int, str]:
    """What it prints and its exit code: in this process where that is all the same, by a shell elsewhere."""
    words = _plain(command)
    if not words:
        return _shell(command)
    done = answer(*words[1:], joined=True)
    return done.returncode, done.stdout


def _plain(command: str) -> list[str]:
    """The words of a single call of distillaw in which nothing is left to a shell; of anything else none."""
    try:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
    except ValueError:  # the quotes of a script
        return []
    is_call = words[:1] == ["distillaw"] and words.count("distillaw") == 1
    return words if is_call and not any(_SHELL.search(word) for word in words) else []


def _shell(script: str) -> tuple[int, str]:
    """A script in the present folder, both streams as they come."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    return done.returncode, done.stdout


def _check(block: Block, command: str, done: tuple[int, str], expected: str, *, code: int) -> None:
    ended, printed = done
    assert ended == code, f"{block.where}: $ {command}\nexit code {ended}, not {code}\n{printed}"
    if expected:
        alike = matches(printed, expected, tolerance=block.tolerance)
        assert alike, f"{block.where}: $ {command}\nprinted\n{printed}\nwhere the page has\n{expected}"


def test_dots_stand_for_anything_and_nothing_else_does():
    assert matches("a 1\nb\nc\nend 2.5 s\n", "a 1\n...\nend ... s")
    assert matches("a\nend\n", "a\n...\nend")
    assert matches("a\nb\n", "a\n...")
    assert not matches("a\nb\n", "a")
    assert not matches("loss 2.51", "loss 2.52")
    assert matches("loss 2.51  [2, 3]", "loss 2.52 [2, 3]", tolerance=0.01)
    assert not matches("loss 2.81", "loss 2.52", tolerance=0.01)
    assert not matches("lose 2.51", "loss 2.51", tolerance=0.01)
