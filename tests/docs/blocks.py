"""The fenced blocks of a page, and what it takes to run them as a reader would.

    ```console    lines that begin with "$ " are commands; what stands below one is what it prints
    ```sh         a script; it must end with exit code 0
    ```python     runs in the page's own namespace
    ```toml       is written to the file that the line before it names, `like this.toml`, if it names one; always parsed

In what a command prints, "..." stands for anything: a line of its own for lines, elsewhere for a part of the line.
Nothing below a command: only its exit code is checked. Comments before a block, which no reader sees:

    <!-- not run: needs Slurm -->     it is shown only, and this is why
    <!-- exits 2 -->                  its last command ends with this code
    <!-- numbers within 5 % -->       numbers that training gives differ between processors
    <!-- setup: python code -->       what the reader has and the block uses; runs before the block
    <!-- slow page: 4 minutes -->     anywhere: all blocks of the page run in `make test-all` only
"""

import re
from dataclasses import dataclass
from pathlib import Path

RUN = ("console", "sh", "bash", "python")
SHOWN = ("toml", "text", "json")

_BLOCK = re.compile(r"^```(?P<language>[^\n]*)\n(?P<body>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<kind>not run|exits|numbers within|setup):?\s*(?P<value>.*?)\s*-->", re.DOTALL)
_SLOW = re.compile(r"<!-- slow page: (.+?) -->")
_NUMBER = re.compile(r"[-+]?\d[\d,_]*\.?\d*(?:e[-+]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    body: str
    not_run: str | None
    """Why it is only shown."""
    exits: int
    tolerance: float
    """Relative, of numbers in what commands print."""
    setup: str
    file: str | None
    """Where a reader saves it: the last `name.toml` before the block."""

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    found, last = [], 0
    for match in _BLOCK.finditer(text):
        marks = dict(_marks(text[last : match.start()]))
        last = match.end()
        found.append(
            Block(
                page=page,
                line=text.count("\n", 0, match.start()) + 1,
                language=match["language"].strip(),
                body=match["body"],
                not_run=marks.get("not run"),
                exits=int(marks.get("exits", 0)),
                tolerance=float(marks.get("numbers within", "0 %").removesuffix("%")) / 100,
                setup=marks.get("setup", ""),
                file=_named_file(text[: match.start()]),
            )
        )
    return found


def is_slow(page: Path) -> bool:
    """Whether the page says that its blocks take long."""
    return _SLOW.search(page.read_text()) is not None


def _marks(before: str) -> list[tuple[str, str]]:
    """The comments that stand right above a block."""
    tail = re.search(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", before, re.DOTALL)
    return [(mark["kind"], mark["value"]) for mark in _MARK.finditer(tail.group() if tail else "")]


def _named_file(before: str) -> str | None:
    """`name.toml` on the line right above a block (comments and blank lines between them do not count)."""
    lines = re.sub(r"<!--.*?-->", "", before, flags=re.DOTALL).rstrip().splitlines()
    named = re.search(r"`([\w/-]+\.toml)`[^`]*:$", lines[-1]) if lines else None
    return named[1] if named else None


def commands(body: str) -> list[tuple[str, str]]:
    """Each command of a console block with what stands below it."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next(at for at, line in enumerate(lines) if not line.endswith("\\"))
        found.append(("\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :]).strip("\n")))
    return found


def matches(printed: str, expected: str, *, tolerance: float = 0.0) -> bool:
    """Whether a command printed what the page says; spaces at the ends of lines and runs of them do not count."""
    seen, wanted = _lines(printed), _lines(expected)
    if not tolerance:
        return re.fullmatch(_pattern(wanted, re.escape), "\n".join(seen), re.DOTALL) is not None
    found = re.fullmatch(_pattern(wanted, _numbers_free), "\n".join(seen), re.DOTALL)
    if found is None:
        return False
    said = [number for line in wanted for number in _NUMBER.findall(line)]
    return all(_near(*pair, tolerance) for pair in zip(said, found.groups(), strict=True))


def _lines(text: str) -> list[str]:
    return [re.sub(r"\s+", " ", line.rstrip()) for line in text.strip("\n").splitlines()]


def _pattern(lines: list[str], quoted: object) -> str:
    r"""A line of dots is any number of lines (none, too), dots inside a line are any part of it."""
    pattern = ""
    for at, line in enumerate(lines):
        last = at == len(lines) - 1
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?" if not last else r".*"
        else:
            inner = r"[^\n]*?".join(quoted(part) for part in line.split("..."))  # type: ignore[operator]
            pattern += inner + ("" if last else r"\n")
    return pattern


def _numbers_free(text: str) -> str:
    pieces = [re.escape(piece) for piece in _NUMBER.split(text)]
    return f"({_NUMBER.pattern})".join(pieces)


def _near(said: str, seen: str, tolerance: float) -> bool:
    a, b = (float(number.replace(",", "").replace("_", "")) for number in (said, seen))
    # half a unit of the last printed digit is rounding, not a difference
    digits = len(said.partition(".")[2].partition("e")[0])
    return abs(a - b) <= tolerance * max(abs(a), abs(b)) + 10.0**-digits
