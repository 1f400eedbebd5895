"""Finds what is to be audited, `file.py:name` or `package.module:name`, and which parameter plays which role."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillaw.audit.contract import DeclaredTarget
from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean


def load(target: str) -> Any:
    """The object that `file.py:name` or `module:name` names.

    Raises:
        ConfigError: no such file, module or name; what importing it raised is part of the message.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ConfigError(f"target {target!r}: give file.py:name or package.module:name")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"target {target!r}: importing {place} fails: {type(error).__name__}: {error}") from error
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = [n for n in vars(value) if not n.startswith("_")]
            raise ConfigError(f"target {target!r}: {place} has no {part!r}{did_you_mean(part, names)}")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(f"target {target!r}: {name} is of type {type(value).__name__}; give a function or a class")
    return value


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"target: {path}: no such file")
    path = path.resolve()
    name = f"_audited_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def match_roles(
    function: Callable[..., Any],
    target: DeclaredTarget,
    known: Mapping[str, Sequence[str]],
    *,
    by_place: Sequence[str] = (),
    unnamed: Sequence[str] = (),
) -> tuple[dict[str, str], list[str]]:
    """Role -> parameter, and the parameters that keep their defaults because nobody says what they mean.

    Args:
        function: what is called.
        target: its declared arguments, which win, and its options.
        known: role -> names of parameters, besides its own, that can mean nothing else.
        by_place: roles of the first free parameters where neither of the first two is found by name.
        unnamed: further roles, which have no usual names.

    Raises:
        ConfigError: a declared parameter that is not there, or one without a default that plays no role.
    """
    parameters = inspect.signature(function).parameters
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    roles = dict(target.arguments)
    for role, name in roles.items():
        if name not in named and not any_name:
            raise ConfigError(
                f"target.arguments: {role} = {name!r}, but the target takes {', '.join(named) or 'no names'}"
            )
    taken = {*roles.values(), *target.options}
    for role, names in known.items():
        found = next((n for n in (role, *names) if n in named and n not in taken), None)
        if role not in roles and found is not None:
            roles[role] = found
            taken.add(found)
    if not any(role in roles for role in by_place[:2]):
        again = {roles.get(role) for role in by_place}
        free = [n for n in named if n not in taken or n in again]
        roles |= zip(by_place, free, strict=False)
        taken |= set(roles.values())
    undeclared = [n for n in named if n not in taken]
    if missing := sorted(n for n in undeclared if parameters[n].default is inspect.Parameter.empty):
        raise ConfigError(
            f"target: parameters {', '.join(missing)} have no default and no declared role: name them under "
            f"[target.arguments] (roles: {', '.join([*known, *unnamed])}) or give values under [target.options]"
        )
    return roles, undeclared
