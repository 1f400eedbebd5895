"""docs/accounting.md: what its commands print is what the page shows."""

import shlex
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "accounting.md"
BLOCKS = [part.split("```")[0] for part in PAGE.read_text(encoding="utf-8").split("```console\n")[1:]]


def test_the_page_has_commands():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0][2:] for block in BLOCKS])
def test_printed_output(block):
    command, _, shown = block.partition("\n")
    assert command.startswith("$ distillaw ")
    done = subprocess.run(shlex.split(command[2:]), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for line in shown.splitlines():
        assert line == "..." or line in done.stdout.splitlines(), line
