"""One option, one name: what an option was called before still works, and messages use the words that were typed.

The library says `teacher_params`, which is right in Python; who typed `--teacher-params` reads that. Nothing is passed
on: a configuration of cyclopts, called once per command line, remembers what was typed.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar

from cyclopts import App, Parameter
from cyclopts.argument import ArgumentCollection

from distillaw.cli.console import say

_CONTRACT = {"predict": {"--student-params", "--student-tokens"}, "cost": {"--params"}}
"""Second names that scripts may rely on for good: no note."""
_ELSEWHERE = {
    "student_params": "--student",
    "student_tokens": "--tokens",
    "price_per_hour": "--price",
    "max_params": "--max-student",
    "corpus": "--corpus",
}
"""Python's name -> the option, where they differ."""
_OPTION = re.compile(r"`[^`]*`|(?<![\w-])--[a-z][a-z0-9-]*")
_ARGUMENT = re.compile(r"`[^`]*`|(?<![\w.-])[a-z]+(?:_[a-z0-9]+)+\b(?!\()")
_LEADING = re.compile(r"^([a-z][a-z -]*)(?= = |: got |: cannot read )")

_words: ContextVar[Mapping[str, str] | None] = ContextVar("words typed", default=None)
_notes: ContextVar[tuple[str, ...]] = ContextVar("old names typed", default=())


def formerly(*names: str) -> Parameter:
    """An option that has other names too."""
    return Parameter(alias=names)


STUDENT = Parameter(name="--student", alias="--student-params")
"""The student's size, whatever the function calls it."""


def remember_words(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Keep which name of each option was typed, and which are old; a configuration of cyclopts."""
    words: dict[str, str] = {}
    notes: list[str] = []
    quiet = any("--quiet" in each.names and each.tokens for each in arguments)
    for argument in arguments:
        names = [name for name in argument.names if name.startswith("--")]
        if not names or not argument.parse:
            continue
        typed = next((token.keyword for token in argument.tokens if token.keyword in names), names[0])
        for name in names:
            words[name] = words[name[2:].replace("-", "_")] = typed
        is_old = typed in (argument.parameter.alias or ()) and typed not in _CONTRACT.get(commands[0], ())
        if is_old and not quiet:
            notes.append(f"note: {typed} is now called {names[0]}; the old name still works")
    words |= {word: words[option] for word, option in _ELSEWHERE.items() if option in words}
    _words.set(words)
    _notes.set(tuple(notes))


def say_old_names() -> None:
    """The notes on old names, once the answer is there: an error stays one line."""
    for note in _notes.get():
        say(note)
    _notes.set(())


def in_typed_words(message: str) -> str:
    """A message of the library with the options' names as they were typed."""
    words = _words.get()
    if not words:
        return message

    def said(found: re.Match[str]) -> str:
        return words.get(found[0], found[0])

    def leading(found: re.Match[str]) -> str:
        return words.get(re.sub("[ -]", "_", found[1]), found[1])

    return _ARGUMENT.sub(said, _OPTION.sub(said, _LEADING.sub(leading, message)))
