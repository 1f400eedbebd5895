"""Options that are the fields of the library's own dataclasses: a setting is named and described where it is used."""

import ast
import inspect
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cyclopts import Parameter


def options_of(
    spec: type,
    *,
    without: Collection[str] = (),
    typed: Mapping[str, Any] | None = None,
    prefix: str = "",
    said: str = "",
) -> type:
    """A dataclass of options, one for each field of `spec`, with its default and its docstring.

    Args:
        spec: a dataclass; what its module imports, `--help` imports too.
        without: fields that are no options.
        typed: fields whose option has another type: a count as people write it, other names; one that may be None is
            no required option.
        prefix: of the options' names, e.g. `reference-`.
        said: instead of the docstrings, with {} for the name of the option without its prefix.
    """
    hints, docs, typed = get_type_hints(spec, include_extras=True), _said_of(spec), typed or {}
    made = []
    for one in fields(spec):
        if one.name in without:
            continue
        name = one.name.replace("_", "-")
        words = said.format(f"--{name}") if said else docs.get(one.name, "")
        option = Parameter(name=f"--{prefix}{name}", help=words)
        kind = typed.get(one.name, hints[one.name])
        default = one.default if one.default is not MISSING else None
        kind, *own = get_args(kind) if get_origin(kind) is Annotated else (kind,)  # its own names win
        is_needed = one.default is MISSING and type(None) not in get_args(kind)
        kind = Annotated[(kind, option, *own)]
        made.append((one.name, kind, field() if is_needed else field(default=default)))
    options = make_dataclass(f"{spec.__name__}Options", made, frozen=True, kw_only=True)
    options.__module__ = __name__  # that of make_dataclass, `types`, is taken for one of builtins
    return Parameter(name="*")(options)


def given(options: Any) -> dict[str, Any]:
    """{field: value} of options, all of them; nothing where none was typed."""
    return {} if options is None else {one.name: getattr(options, one.name) for one in fields(options)}


def _said_of(spec: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, those that it has from others too."""
    said = {}
    for each in reversed(spec.__mro__):
        if is_dataclass(each):
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            for line, words in pairwise(getattr(body, "body", ())):
                match line, words:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                        value=ast.Constant(value=str(text))
                    ):
                        said[name] = inspect.cleandoc(text)
    return said
