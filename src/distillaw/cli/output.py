"""What every verb is asked about its output: --json and --quiet, and the two lines that --quiet leaves out.

The answer goes to stdout; progress, notes and errors to stderr. With --quiet stderr has errors only, and stdout the
answer without the command that is likely next.
"""

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from distillaw.cli.console import say, write_whole
from distillaw.cli.progress import waiting
from distillaw.runs.files import read_json

SCHEMA_VERSION = 1
"""Of the keys of `--json`: raised when what they mean changes."""
Settings = Annotated[tuple[str, ...], Parameter(name="--set")]
"""KEY=VALUE over those of a TOML file, each checked as if the file said it; a verb documents it as `settings`."""
_GROUP = Group("Output", sort_key=1000)
_BLANK = re.compile(r"(?<![\w./-])[A-Z][A-Z_]+(?:\.toml)?(?![\w./-])")
"""A word of a command that stands for something: YOUR_TEXT, SPEC.toml."""


@Parameter(name="*", group=_GROUP)
@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a verb answers; every verb takes it."""

    json: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """Print one JSON object instead of text: numbers at full precision, "schema_version": 1."""
    quiet: Annotated[bool, Parameter(negative="", show_default=False)] = False
    """The result only: no progress, no notes, no next command; stderr has errors alone."""

    def answer(self, document: Mapping[str, object], show: Callable[..., object], *shown: object) -> None:
        """Print the answer: the JSON object that --json asks for, else what `show(*shown)` prints for people."""
        if self.json:
            _print_json({"schema_version": SCHEMA_VERSION, **document})
        else:
            show(*shown)

    def say(self, message: str) -> None:
        """A line of progress or a note on stderr."""
        say(message, quiet=self.quiet)

    def step(self, message: str) -> None:
        """The same for one step of the work, indented under what it belongs to."""
        self.say(f"  {message}")

    def working(self, what: str) -> AbstractContextManager[Callable[[str], None]]:
        """Signs of life while something takes long; gives what takes the lines that the work says of itself."""
        return waiting(what, quiet=self.quiet)

    def suggest(self, command: str, first: str = "") -> None:
        """The likely next command, as the last line of an answer for people; before it, what to do first.

        `next: ` is followed by what runs as it stands. Words in capitals (YOUR_TEXT, SPEC.toml) are the user's to fill
        in, and the line says which.
        """
        if self.quiet or self.json:
            return
        blanks = ", ".join(dict.fromkeys(_BLANK.findall(command)))
        label = f"next, with your own {blanks}:" if blanks else "next:"
        print(f"\n{first}\n{label} {command}" if first else f"\n{label} {command}")


def _print_json(document: Mapping[str, object]) -> None:
    try:
        text = json.dumps(document, indent=2, allow_nan=False)
    except ValueError:
        # JSON has no infinity: what is not a number is null, so that other programs can read the rest. The fuzz wants
        # to see it, since the command should have said null itself.
        if os.environ.get("DISTILLAW_STRICT_JSON"):
            raise
        text = json.dumps(_without_infinities(document), indent=2, allow_nan=False)
    write_whole(text + "\n")


def _without_infinities(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_infinities(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def same_command(*, without: str | None = None) -> str:
    """The command line that was called, less a flag: for the record of what it made, or to be copied."""
    return shlex.join(["distillaw", *(word for word in sys.argv[1:] if word != without)])


def command_of(folder: Path) -> str:
    """How a study was started, to be copied; its status where the folder does not say."""
    command = str(read_json(folder / "study.json").get("command") or "")
    if command.startswith("distillaw "):
        return command
    return f"distillaw study status {shlex.quote(str(folder))}"
