"""Every command, without exception: --json, --quiet, help that says what it does and in which units."""

import re

import pytest
from cyclopts import App

from distillaw.cli.app import app
from distillaw.cli.verbs import GROUPS, VERBS
from in_process import answer


def commands(parent: App = app, path: tuple[str, ...] = ()):
    """(words, App) of everything that can be called."""
    for name in parent:
        if name.startswith("-"):
            continue
        child = parent[name]
        if child.default_command is not None:
            yield (*path, name), child
        yield from commands(child, (*path, name))


COMMANDS = dict(sorted(commands()))
every_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)

VERB_FORMS = set(
    "bring build check choose compare compute cook count cut decide design draw drop examine find fine-tune fit "
    "fork freeze give have install list make measure predict print propose prune run add show store train tune write "
    "settle distil".split()
)

UNITS = {
    r"--(?!z-)(.*-)?loss$": r"nats|own loss without|law of the students",
    r"--(compute|budget)$": r"FLOP",
    r"--(price|dollars)$": r"[Dd]ollars|money|\$",
    r"--hours$": r"wall time|hours",
    r"--.*bandwidth$": r"per second|bytes",
    r"--.*memory$": r"GB|[Bb]ytes",
    r"--mfu$": r"peak|[Uu]tilisation",
}
"""Options with these names say their unit."""


def options(command: App):
    """Every argument of a command."""
    return command.assemble_argument_collection(parse_docstring=True)


def test_all_verbs_are_there():
    assert {words[0] for words in COMMANDS} == {name for name in VERBS if not name.startswith("-")}


@every_command
def test_json_and_quiet(words):
    names = {name for argument in options(COMMANDS[words]) for name in argument.names}
    assert {"--json", "--quiet"} <= names
    assert not {"--no-json", "--no-quiet"} & names


@every_command
def test_help_starts_with_a_verb(words):
    first = COMMANDS[words].help.strip().split("\n")[0]
    assert first.split()[0].lower().rstrip(":,") in VERB_FORMS, first
    assert first.endswith((".", "."))


@pytest.mark.parametrize("name", VERBS)
def test_lines_of_the_list_start_with_a_verb(name):
    line = VERBS[name][1]
    assert line.split()[0].lower().rstrip(":,") in VERB_FORMS and line.endswith("."), line


@every_command
def test_every_option_says_what_it_is(words):
    silent = [argument.name for argument in options(COMMANDS[words]) if argument.show and not argument.parameter.help]
    assert not silent


@every_command
def test_help_lists_every_option(words):
    """What has no heading is left out."""
    assert not [one.name for one in options(COMMANDS[words]) if one.show and not one.parameter.group]


@every_command
def test_units_are_named(words):
    for argument in options(COMMANDS[words]):
        for pattern, unit in UNITS.items():
            if argument.show and re.fullmatch(pattern, argument.name) and argument.field_info.annotation is not bool:
                assert re.search(unit, argument.parameter.help or ""), (argument.name, argument.parameter.help)


def test_paragraphs_of_the_docstring_are_in_the_help():
    assert "Safe to interrupt and to repeat" in COMMANDS["study", "run"].help


def test_no_option_to_empty_what_repeats():
    assert "--law" in answer("plan", "--help").stdout
    assert "--empty-law" not in answer("plan", "--help").stdout


def test_help_lists_every_verb_once_in_its_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(name for name in VERBS if not name.startswith("-"))
    text = answer("--help").stdout
    places = [text.index(f" {title} ") for title in GROUPS]
    assert places == sorted(places)
    for start, end, names in zip(places, [*places[1:], len(text)], GROUPS.values(), strict=True):
        assert all(name in text[start:end].split() for name in names)
