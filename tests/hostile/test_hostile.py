"""Whatever words and files a command is given: one line that says what and where, no hang, no traceback.

A sample runs in `make test`; four thousand argument sets and every hostile file in `make test-all`. To look at one:
`distillaw` with the words that the failure prints, in a folder made by `place.lay_out`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostile.arguments import argument_sets
from hostile.files import hostile_files
from hostile.place import lay_out

TESTS = Path(__file__).parents[1]
PARTS = 5
SETS = 4000


def findings(folder: Path, calls: list[list[str]], *, limit: float) -> list[str]:
    """What is wrong with how these calls end, in a process of their own."""
    (folder / "calls.json").write_text(json.dumps(calls))
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, TESTS / "hostile" / "judged.py", "calls.json", "findings.jsonl"],
        cwd=folder,
        timeout=limit,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    rows = [json.loads(line) for line in (folder / "findings.jsonl").read_text().splitlines()]
    begun = [row["begun"] for row in rows if "begun" in row]
    judged = {row["number"]: row["fault"] for row in rows if "fault" in row}
    ended = [
        f"the process ended with {done.returncode} at {calls[n]}: {done.stderr[-500:]}"
        for n in begun
        if n not in judged
    ]
    assert ended or len(judged) == len(calls), done.stderr[-2000:]
    return ended + [f"{fault}\n    {' '.join(calls[n])[:500]}" for n, fault in judged.items() if fault]


def check(folder: Path, calls: list[list[str]], *, limit: float) -> None:
    """No findings."""
    found = findings(folder, calls, limit=limit)
    assert not found, f"{len(found)} of {len(calls)}:\n" + "\n".join(found[:40])


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with a good file of each kind."""
    lay_out(tmp_path)
    return tmp_path


def test_a_sample_of_arguments(place):
    slow = ("worlds", "scout", "evaluate", "map", "page", "settle")
    calls = [words for words in argument_sets(25, seed=100) if words[0] not in slow]
    check(place, calls, limit=500)


def test_a_sample_of_files(place):
    calls = [words for _, words in hostile_files(place, seed=100, with_models=False)]
    check(place, calls[::96], limit=500)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("part", range(PARTS))
def test_arguments(place, part):
    check(place, list(argument_sets(SETS // PARTS, seed=part)), limit=2300)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_files(place):
    calls = [words for _, words in hostile_files(place)]
    assert len(calls) > 700
    check(place, calls, limit=2300)
