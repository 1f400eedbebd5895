"""Every command that the documentation or a message of ours names can be typed: it parses against the command line.

Names of commands stand for themselves (`distillaw study run`): what a command still asks for is not missed. Words that
stand for something (FILE, 300M) are taken as they are; nothing is run.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnknownCommandError, UnusedCliTokensError

from distillaw.cli.app import app
from distillaw.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
SOURCES = sorted((ROOT / "src" / "distillaw").glob("**/*.py"))
_TICKED = re.compile(r"`(distillaw [^`]+)`")
_BLOCK = re.compile(r"^```(?:console|sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^(?:\$ )?(distillaw (?:[^\n\\]|\\.|\\\n)*)", re.MULTILINE)
ANY = "ANY"
"""What a message puts into a command."""
_ABRIDGED = re.compile(r"\.\.\.|…|^distillaw\[|^distillaw [a-z-]+ \|")
"""Not to be typed as it stands."""


def commands_of_page(text: str) -> Iterator[str]:
    for block in _BLOCK.findall(text):
        yield from _LINE.findall(block)
    yield from _TICKED.findall(_BLOCK.sub("", text))


def commands_of_source(text: str, *, is_verb: bool = True) -> Iterator[str]:
    """In string literals: between backticks; of a verb also the whole of one that begins like a command."""
    for node in ast.walk(ast.parse(text)):
        said = _words(node)
        if said is None:
            continue
        yield from _TICKED.findall(said)
        if is_verb and re.match(r"distillaw [a-z-]+( |$)", said) and "\n" not in said and not said.endswith("."):
            yield said


def _words(node: ast.AST) -> str | None:
    """A string, what is put into it as a word; parts of an f-string are read with the whole."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(v.value if isinstance(v, ast.Constant) else ANY for v in node.values)
    return None


def complaint(command: str) -> str | None:
    """Why a command cannot be typed; None where it can."""
    plain = command.replace("\\\n", " ").replace("\\|", "|").split(" # ")[0].split(" | ")[0].split(" && ")[0]
    words = [w for w in shlex.split(plain, comments=True)[1:] if not w.startswith((">", "2>", "<"))]
    words = [word.strip("[]") for word in words if word != "&"]
    if not words or words[0].startswith("-"):
        return None
    stands_for = [word for word in words if re.fullmatch(r"[A-Z_]+", word)]
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        return None
    except (CoercionError, UnknownCommandError, UnusedCliTokensError) as error:
        return (
            None if any(f'"{word}"' in str(error) or f"'{word}'" in str(error) for word in stands_for) else str(error)
        )
    except CycloptsError as error:
        return f"{type(error).__name__}: {error}"
    except ConfigError as error:  # of `plan --question FILE`, which is read while words are parsed
        return None if "no such file" in str(error) else str(error)
    return None


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_can_be_typed(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no out/ of an earlier command lies
    text = path.read_text()
    found = commands_of_page(text) if path.suffix == ".md" else commands_of_source(text, is_verb="cli" in path.parts)
    wrong = {c: why for c in dict.fromkeys(found) if not _ABRIDGED.search(c) and (why := complaint(c)) is not None}
    assert not wrong


def test_commands_are_found_and_wrong_ones_are_told():
    page = "Say `distillaw plan --student 1B`.\n```sh\ndistillaw fit runs.csv \\\n  --law supervised  # fit\n```\n"
    assert list(commands_of_page(page)) == [
        "distillaw fit runs.csv \\\n  --law supervised  # fit",
        "distillaw plan --student 1B",
    ]
    message = 'x = f"see `distillaw fit {y} --law supervised`"'
    assert list(commands_of_source(message)) == ["distillaw fit ANY --law supervised"]
    assert complaint("distillaw study run") is None
    assert complaint("distillaw study new STUDY.toml --kind isoflop-students")
    assert complaint("distillaw plan --studnet 1B")
    assert complaint("distillaw report --no-such-thing DIR")
