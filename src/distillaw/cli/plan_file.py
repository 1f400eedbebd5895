"""`distillaw plan --question FILE`: options from a TOML file, as the planner page writes it.

    [plan]
    student = "300M"
    tokens = "20B"
    teacher = ["pythia-1.4b"]

Keys are the options' names. What is typed beside the file wins: one option over its key, and a budget typed over the
budget of the file, whatever its kind.
"""

from collections.abc import Mapping
from pathlib import Path

from cyclopts import App
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.config import MOST_ENTRIES, read_toml

VERB = "plan"
_TABLE = "plan"
_BUDGETS = ("tokens", "compute", "device-hours", "money")
_ELSEWHERE = ("question", "help", "version")
"""Options that a file cannot give."""


def question_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what the file of --question says; a configuration of cyclopts.

    Raises:
        ConfigError: the file is missing or no TOML, has another table or key, or a value that no option takes.
    """
    if commands != (VERB,):
        return
    asked = arguments.get("--question")
    if asked is None or not asked.tokens:
        return
    path = Path(asked.tokens[-1].value)
    options = {name[2:] for each in arguments for name in each.names if name.startswith("--")}
    given = _read(path, options - {*_ELSEWHERE})
    if any(arguments[f"--{name}"].tokens for name in _BUDGETS):
        given = {key: value for key, value in given.items() if key not in _BUDGETS}
    # under the command's name: without, cyclopts drops the keys that are names of other commands (study, scout)
    Dict({VERB: given}, source=str(path))(app, commands, arguments)


def _read(path: Path, options: set[str]) -> Mapping[str, object]:
    given = _table(path)
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


def _table(path: Path) -> dict[str, object]:
    tables = read_toml(path)
    given = tables.get(_TABLE)
    if len(tables) != 1 or not isinstance(given, dict):
        raise ConfigError(
            f"--question {path}: it must have one table, [{_TABLE}], whose keys are options of `distillaw plan`; "
            f"found {', '.join(sorted(tables)) or 'nothing'}"
        )
    return given
