"""What was typed: messages use its words, no option does nothing unseen, and a file may stand for typing (`plan`).

The library says `teacher_params`, which is right in Python; who typed `--teacher-params` reads that. Nothing is passed
on: a configuration of cyclopts, called once per command line, remembers what was typed. What is wrong with a command
line is said in one line, with the nearest right word.
"""

import difflib
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Literal, get_args, get_origin

from cyclopts import (
    UNSET,
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict
from cyclopts.exceptions import UnknownCommandError

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.config import MOST_ENTRIES, read_toml

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

_typed: ContextVar[Mapping[str, list[str]] | None] = ContextVar("options typed", default=None)
_words: ContextVar[Mapping[str, str] | None] = ContextVar("words typed", default=None)


STUDENT = Parameter(name="--student", alias="--student-params")
"""The student's size, whatever the function calls it."""


def remember_words(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Keep what was typed, and by which name of each option; a configuration of cyclopts."""
    words: dict[str, str] = {}
    given: dict[str, list[str]] = {}
    for argument in arguments:
        names = [name for name in argument.names if name.startswith("--")]
        if not names or not argument.parse:
            continue
        typed = next((token.keyword for token in argument.tokens if token.keyword in names), names[0])
        for token in argument.tokens:
            is_flag = token.implicit_value is not UNSET
            given.setdefault(names[0], []).extend(
                word for word in (token.keyword, None if is_flag else token.value) if word is not None
            )
        for name in names:
            words[name] = words[name[2:].replace("-", "_")] = typed
    words |= {word: words[option] for word, option in _ELSEWHERE.items() if option in words}
    _typed.set(given)
    _words.set(words)


def typed_options(*, without: Collection[str]) -> str:
    """The options of this command line as they were typed, each after a blank, less some by their present names."""
    words = [word for name, said in (_typed.get() or {}).items() if name not in without for word in said]
    return "".join(f" {shlex.quote(word)}" for word in words)


def refuse_idle(options: Iterable[str], why: str) -> None:
    """Refuse options that were typed where they cannot act, lest someone believes that they did something.

    Raises:
        ConfigError: names the first of them; `why` is what they need.
    """
    typed = _typed.get() or {}
    for option in options:
        if option in typed:
            words = " ".join(typed[option])
            raise ConfigError(f"{words} does nothing here: {why}; leave it out, or give what it needs")


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


# --- what is wrong with the words of a command line ---------------------------------------------------------


_MOST_NAMES = 12
"""More commands than these are left to --help."""


def usage_error(error: CycloptsError) -> str:
    """What is wrong, and where to look it up; a value that the option's own type refuses says so itself."""
    if isinstance(error.__cause__, ConfigError):
        return in_typed_words(str(error.__cause__))
    command = shlex.join(["distillaw", *(error.command_chain or ())])
    return f"{_said(error)}; `{command} --help` lists what there is"


def _said(error: CycloptsError) -> str:
    if isinstance(error, UnknownOptionError):
        word = error.token.keyword or error.token.value
        if re.match(r"-\.?\d", word):
            return f"{word} is read as an option, for it begins with a dash, and no value here is negative"
        options = [name for argument in error.argument_collection if argument.parse for name in argument.names]
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
    said = found[2] if found else error.argument.parameter.help or ""
    return re.split(r"; |\.(?:$| (?=[A-Z]))", " ".join(said.split()))[0]


def _near(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for a slip of the hand or the beginning of a name; dashes say nothing of likeness."""
    names = {name.lstrip("-"): name for name in known}
    bare = word.lstrip("-")
    close = difflib.get_close_matches(bare, names, n=1, cutoff=0.7) or [n for n in names if bare and n.startswith(bare)]
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


# --- `plan --question FILE`: options from a TOML file -------------------------------------------------------


_PLAN = "plan"
"""The verb, and the table of its file."""
_BUDGETS = ("tokens", "compute", "device-hours", "money")
_NOT_IN_FILE = ("question", "help", "version")
"""Options that a file cannot give."""


def question_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what the file of --question says, as the planner page writes it; a configuration of cyclopts.

    The file has a table [plan] whose keys are the options' names (student = "300M"). What is typed beside it wins: one
    option over its key, and a budget typed over the budget of the file, whatever its kind.

    Raises:
        ConfigError: the file is missing or no TOML, has another table or key, or a value that no option takes.
    """
    if commands != (_PLAN,):
        return
    asked = arguments.get("--question")
    if asked is None or not asked.tokens:
        return
    path = Path(asked.tokens[-1].value)
    options = {name[2:] for each in arguments for name in each.names if name.startswith("--")}
    given = _read(path, options - {*_NOT_IN_FILE})
    if any(arguments[f"--{name}"].tokens for name in _BUDGETS):
        given = {key: value for key, value in given.items() if key not in _BUDGETS}
    # under the command's name: without, cyclopts drops the keys that are names of other commands (study, scout)
    Dict({_PLAN: given}, source=str(path))(app, commands, arguments)


def _read(path: Path, options: set[str]) -> Mapping[str, object]:
    tables = read_toml(path)
    given = tables.get(_PLAN)
    if len(tables) != 1 or not isinstance(given, dict):
        raise ConfigError(
            f"--question {path}: it must have one table, [{_PLAN}], whose keys are options of `distillaw plan`; "
            f"found {', '.join(sorted(tables)) or 'nothing'}"
        )
    for key, value in given.items():
        if key not in options:
            raise ConfigError(
                f"--question {path}: unknown key {key!r}{did_you_mean(key, options)}; keys are the options of "
                "`distillaw plan` without the dashes before them"
            )
        each = value if isinstance(value, list) else [value]
        if not 0 < len(each) <= MOST_ENTRIES or not all(isinstance(one, str | int | float) for one in each):
            raise ConfigError(
                f"--question {path}: {key} = {value!r}: write a text, a number, true or false, or a list of these"
            )
    return given
