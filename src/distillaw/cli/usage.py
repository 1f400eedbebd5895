"""What is wrong with the words of a command line, in one line with the nearest right word."""

import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Literal, get_args, get_origin

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.exceptions import UnknownCommandError

_MOST_NAMES = 12
"""More commands than these are left to --help."""


def usage_error(error: CycloptsError) -> str:
    """What is wrong, and where to look it up."""
    command = shlex.join(["distillaw", *(error.command_chain or ())])
    return f"{_said(error)}; `{command} --help` lists what there is"


def _said(error: CycloptsError) -> str:
    if isinstance(error, UnknownOptionError):
        word = error.token.keyword or error.token.value
        options = [
            name for argument in error.argument_collection if argument.parse for name in argument.names
        ]
        return f"unknown option {word}{_near(word, options)}"
    if isinstance(error, UnknownCommandError | UnusedCliTokensError) and error.unused_tokens:
        return _unknown_word(error)
    if isinstance(error, CoercionError) and error.argument and error.token and not error.msg:
        return _wrong_value(error)
    if type(error) is MissingArgumentError and error.argument:
        return _missing(error)
    return str(error).strip().removesuffix(".")


def _unknown_word(error: CycloptsError) -> str:
    assert error.unused_tokens
    word = error.unused_tokens[0]
    known = [name for name in error.app or () if not name.startswith("-")]
    near = _near(word, known)
    what = f"unknown {'option' if word.startswith('-') else 'command'} {word!r}"
    if isinstance(error, UnusedCliTokensError):
        what = f"{word!r} fits no argument"
    return what + near + (f". Commands: {', '.join(known)}" if known and len(known) <= _MOST_NAMES else "")


def _wrong_value(error: CoercionError) -> str:
    assert error.argument and error.token
    value, target = error.token.value, error.target_type
    seen = f"{error.token.keyword or _name(error)}: got {value!r}"
    if get_origin(target) is Literal:
        choices = [str(choice) for choice in get_args(target)]
        return f"{seen}{_near(value, choices)}; it must be one of {', '.join(choices)}"
    kind = {int: "a whole number", float: "a number"}.get(target) if target else None
    return f"{seen}; it must be {kind}" if kind else str(error).strip().removesuffix(".")


def _missing(error: MissingArgumentError) -> str:
    """An option without its value, or a required one left out."""
    assert error.argument
    if error.keyword is not None:
        return f"{error.keyword} needs a value"
    choices = get_args(error.argument.hint) if get_origin(error.argument.hint) is Literal else ()
    what = f"one of {', '.join(map(str, choices))}" if choices else _described(error)
    return f"`{' '.join(error.command_chain or ())}` needs {_name(error)}" + (f": {what}" if what else "")


def _name(error: CycloptsError) -> str:
    """An option with its dashes; what goes by its place in capitals."""
    assert error.argument
    is_placed = error.argument.index is not None
    return error.argument.name.lstrip("-").upper() if is_placed else error.argument.name


def _described(error: CycloptsError) -> str:
    """The first clause of what the command's docstring says of an argument."""
    assert error.argument
    doc = getattr(error.target, "__doc__", None) or ""
    found = re.search(rf"^( +){error.argument.field_info.name}: (.+(?:\n\1 +.+)*)", doc, re.MULTILINE)
    return re.split(r"; |\.(?:$| (?=[A-Z]))", " ".join(found[2].split()))[0] if found else ""


def _near(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for a slip of the hand or the beginning of a name; dashes say nothing of likeness."""
    names = {name.lstrip("-"): name for name in known}
    bare = word.lstrip("-")
    close = difflib.get_close_matches(bare, names, n=1, cutoff=0.7) or [
        n for n in names if bare and n.startswith(bare)
    ]
    return f" (did you mean {names[close[0]]!r}?)" if close else ""
