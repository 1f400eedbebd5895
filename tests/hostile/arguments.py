"""Argument sets from the commands' own options: each value one that could be meant, or one that nobody would."""

import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import App

from distillaw.cli.app import app

NUMBERS = (
    *"0 -1 -0.0 1 2 1e308 1e-308 1e309 1e400 5e-324 1e-400 nan inf -inf Infinity".split(),
    "1" * 5000,
    "9" * 400,
    *"0x10 1_000 1__0".split(),
    "\u0661\u0662\u0663",
    *(
        "1,5 1,000,0 1e99999999999 1e5e5 1B2 9007199254740993 99999999999999999999999 0.1 1/0 true null -5B 1e12 1e15 "
        "1e18 1e21 1e30 1e100 1e-5 1e-30 0.5 0.999999999 1.0000001 3.7 300M 20B 20k 7 1000000000"
    ).split(),
)
WORDS = (
    "",
    " ",
    *"- -- = a=b a=b=c =1 , ,, 1,2,3 1M@2M @ 1M@ :".split(),
    "x" * 10_000,
    "x" * 200,
    "\udcff",
    "\x1b[31mred",
    "two\nlines",
    *"{} [] $(x) ../../x /dev/null /dev/zero / . ~ * ?".split(),
    "\U0001f600",
    "\u202eabc",
    "{{ x }}",
    *(
        "%s {0} pipe folder loop missing broken.json http:// hub: mix: mix:0.5*a+0.5*b 1e400*text.txt oracle:window=2 "
        "none all last auto"
    ).split(),
)
COUNTS = ("300M", "1B", "3B", "6B", "20B", "0.1M", "50k", "1e9", "2e20", "1e18", "128", "1000")
FILES = (
    *(
        "runs.csv law.json study.toml study config.json text.txt question.toml world.toml folder missing empty.csv "
        "broken.toml broken.json pipe pipe.csv pipe.toml loop settle.toml /dev/zero /dev/null images.toml run.toml "
        "pipes"
    ).split(),
    "x" * 300,
)
MEANT: dict[str, tuple[str, ...]] = {
    "law": ("busbridge2025", "hoffmann2022", "surrogate-s1", "law.json"),
    "hardware": ("h100", "h200", "a100"),
    "device": ("h100", "cpu", "h200"),
    "teacher": ("llama-3.1-8b", "pythia-1b", "qwen3-8b", "1B@20B", "missing"),
    "scenario": ("best-case", "inference"),
    "columns": ("params=params,tokens=tokens,loss=loss", "params=N", "loss=loss,loss=params"),
    "where": ("params=1e8", "loss=*", "x=1"),
    "text": ("text.txt", "runs.csv", "pipes"),
    "group": ("none", "params"),
    "corpus": ("text.txt", "sotu", "pipes", "folder"),
    "cells": ("params=1M,tokens=1M", "params=1e8,tokens=1e10"),
    "kind": ("supervised", "isoflop-students", "teacher-choice", "gain"),
    "world": ("hmm", "ngram", "grammar", "world.toml"),
    "level": ("0.9", "0.5"),
    "priors": ("auto", "none"),
    "students": ("0.2M,0.4M", "0.5,1"),
    "teachers": ("1M", "0.3M,0.6M"),
    "delta": ("auto", "1e-3"),
    "unit": ("nats", "bits"),
    "size": ("5x9", "7"),
    "set": ("params=1e8", "lambda=1"),
    "name": ("busbridge2025", "law.json", "x"),
    "shell": ("bash", "zsh"),
    "study": ("study.toml", "study", "folder", "pipe.toml"),
    "cache_scheme": ("top-k", "full"),
    "keep": ("0.5", "100"),
    "rates": ("1e-3", "1e-3,3e-3"),
    "at": ("last", "all", "1B,2B"),
    "noise": ("0.003",),
    "margin": ("0.01",),
    "budget": ("1e18", "20%"),
    "question": ("question.toml", "pipe.toml"),
    "config": ("config.json", "folder", "pipe.json"),
    "against": ("pretrain", "text.txt"),
    "mfu": ("0.4", "0.9"),
}
"""Values that mean something to an option of that name."""

TRAINS = {
    ("study", "run"): {"study": ("broken.toml", "pipe.toml", "missing", "folder")},
    ("train",): {},
    ("distil",): {},
    ("recipe", "minima"): {},
    ("branch",): {},
    ("settle",): {},
    ("large-batch", "run"): {},
    ("instruct", "generate"): {},
    ("study", "new"): {},
    ("report",): {"study": ("folder", "missing", "pipe")},
    ("page",): {},
    ("prune",): {},
}
"""Commands that would work for minutes with good input, and what they may be given instead."""
LEFT_OUT = {("toys", "mapping"), ("toys", "kernel"), ("worlds", "make"), ("doctor",), ("study", "run", "--workers")}
"""Commands whose work is what their numbers say; `--open` opens a browser, `--measure` measures the machine."""
NEVER = ("--open", "--measure", "--judge", "--ray-address")


def argument_sets(count: int, seed: int) -> Iterator[list[str]]:
    """That many command lines, the same for a seed."""
    chance = random.Random(seed)
    commands = [(chain, list(node.assemble_argument_collection())) for chain, node in _commands(app)]
    for i in range(count):
        chain, arguments = commands[i % len(commands)]
        yield _line(chain, arguments, chance)


def _commands(node: App, chain: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    verbs = [name for name in node if not name.startswith("-")]
    if (node.default_command is not None or not verbs) and chain not in LEFT_OUT and chain:
        yield chain, node
    for verb in verbs:
        yield from _commands(node[verb], (*chain, verb))


def _line(chain: tuple[str, ...], arguments: list[Any], chance: random.Random) -> list[str]:
    plain = [a for a in arguments if a.parse and not a.children and a.names[0] not in NEVER]
    words = list(chain)
    optional = [a for a in plain if not a.required]
    some = chance.sample(optional, min(len(optional), chance.choice((0, 1, 1, 2, 2, 3, 5))))
    if any("--dry-run" in a.names for a in plain):
        words.append("--dry-run")
        some = [a for a in some if "--dry-run" not in a.names]
    needed = [a for a in plain if a.required and chance.random() < 0.95]
    # an option that the command cannot do without, though it is not marked so
    needed += [
        a
        for a in optional
        if a.names[0] in ("--student", "--tokens", "--params") and a not in some and chance.random() < 0.8
    ]
    hostile = chance.choice((0.0, 0.15, 0.4, 1.0))
    for argument in (*needed, *some):
        words += _given(chain, argument, chance, hostile)
    if chance.random() < 0.35 and "--json" not in words:
        words.append("--json")
    if chance.random() < 0.03:
        words.insert(chance.randrange(len(words) + 1), chance.choice(WORDS))
    return words


def _given(chain: tuple[str, ...], argument: Any, chance: random.Random, hostile: float) -> list[str]:
    kind = _bare(argument.hint)
    name = argument.names[0]
    if kind is bool:
        return [chance.choice(argument.names)]
    only = TRAINS.get(chain, {}).get(name.lstrip("-").lower())
    value = chance.choice(only) if only else _value(kind, name, chance, hostile)
    return [value] if argument.index is not None and chance.random() < 0.8 else [name, value]


def _value(kind: Any, name: str, chance: random.Random, hostile: float) -> str:
    if chance.random() < hostile:
        return chance.choice(NUMBERS if chance.random() < 0.6 else WORDS)
    if get_origin(kind) is Literal:
        return str(chance.choice(get_args(kind)))
    bare = name.lstrip("-").lower().replace("-", "_")
    meant = MEANT.get(bare) or next((values for key, values in MEANT.items() if bare.endswith(key)), None)
    if meant:
        return chance.choice(meant)
    if kind is int:
        return chance.choice(("0", "1", "2", "16", "-1", "64"))
    if kind is float:
        return chance.choice(("0.5", "2", "0.1", "-1", "1e-3", "40"))
    if kind is str:
        return chance.choice(COUNTS)
    return chance.choice(FILES)


def _bare(hint: Any) -> Any:
    """The type without Annotated, None, and the list around it."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (list, tuple):
        return _bare(get_args(hint)[0])
    if get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        kinds = [part for part in get_args(hint) if part is not type(None)]
        return _bare(kinds[-1])
    return hint
