"""Finds what is to be audited: `file.py:name`, `package.module:name`, or the name of an adapter."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

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
        raise ConfigError(
            f"target {target!r}: importing {place} fails: {type(error).__name__}: {error}"
        ) from error
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = [n for n in vars(value) if not n.startswith("_")]
            raise ConfigError(f"target {target!r}: {place} has no {part!r}{did_you_mean(part, names)}")
        value = getattr(value, part)
    if not callable(value):
        raise ConfigError(
            f"target {target!r}: {name} is of type {type(value).__name__}; give a function or a class"
        )
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
