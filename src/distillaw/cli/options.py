"""Types of options: fields of the library's own dataclasses, numbers as people write them, names and places.

A setting is named and described where it is used, so `options_of` makes options of a dataclass's fields. A number such
as 1.82B is checked, and named in errors as it was typed. Lists of names come from where these are defined; a shell asks
for them when Tab is pressed, and nothing heavy is imported.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from glob import escape, glob
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter

from distillaw.errors import ConfigError
from distillaw.quantities import parse_count
from distillaw.runs.places import check_file, check_folder

if TYPE_CHECKING:
    from cyclopts import Token
    from cyclopts.completion import CompletionContext


def options_of(
    spec: type,
    *,
    without: Collection[str] = (),
    typed: Mapping[str, Any] | None = None,
    prefix: str = "",
    said: str = "",
    group: str | None = None,
) -> type:
    """A dataclass of options, one for each field of `spec`, with its default and its docstring.

    Args:
        spec: a dataclass; what its module imports, `--help` imports too.
        without: fields that are no options.
        typed: fields whose option has another type: a count as people write it, other names; one that may be None is
            no required option.
        prefix: of the options' names, e.g. `reference-`.
        said: instead of the docstrings, with {} for the name of the option without its prefix.
        group: the heading under which --help lists them.
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
    # a group of None would be none at all, and --help lists nothing of what has none
    listed = {} if group is None else {"group": Group(group, sort_key=999)}
    return Parameter(name="*", **listed)(options)


def given(options: Any) -> dict[str, Any]:
    """{field: value} of options, all of them; nothing where none was typed."""
    return {} if options is None else {one.name: getattr(options, one.name) for one in fields(options)}


def typed_of(options: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    """{field: value} of those options that are not None: of some of them, or of all."""
    chosen = given(options) if names is None else values_of(options, names)
    return {name: value for name, value in chosen.items() if value is not None}


def values_of(of: object, names: Iterable[str] | str) -> dict[str, Any]:
    """{name: value} of some attributes, for JSON: names in a sequence, or in a text with blanks between."""
    return {name: getattr(of, name) for name in (names.split() if isinstance(names, str) else names)}


def flag(name: str, prefix: str = "--") -> str:
    """The option of a field: `--teacher-tokens` of teacher_tokens."""
    return prefix + name.replace("_", "-")


def _said_of(spec: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, those that it has from others too."""
    said = {}
    for each in reversed(spec.__mro__):
        if is_dataclass(each):
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            for line, words in pairwise(getattr(body, "body", ())):
                match line, words:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        said[name] = inspect.cleandoc(text)
    return said


# --- numbers ------------------------------------------------------------------------------------------------


_MOST = 100
"""Numbers of one option: each is trained with; more are a slip."""
_LARGEST = 1e12
"""No dimension of a model is larger; beyond 2**53 a float is no exact count."""


def count(text: str, name: str) -> float:
    """A number of parameters or tokens: at least one."""
    value = parse_count(text, name=name)
    if value < 1:
        raise ConfigError(f"{name}: got {text!r}; it counts whole things, so it must be at least 1, e.g. 300M")
    return value


def whole(text: str, name: str) -> int:
    """A whole number such as 4096 or 32k."""
    value = parse_count(text, name=name)
    if value != int(value) or value > _LARGEST:
        raise ConfigError(f"{name}: got {text!r}; it must be a whole number, at most {_LARGEST:g}")
    return int(value)


def _reads(read: Callable[[str, str], Any]) -> Parameter:
    """How an option is read; a negative number reaches `parse_count`, which says what is wrong with it."""

    def convert(kind: type, tokens: "Sequence[Token]") -> Any:
        return read(tokens[0].value, tokens[0].keyword or "")

    return Parameter(converter=convert, allow_leading_hyphen=True, n_tokens=1)


def _numbers(text: str, name: str) -> tuple[float, ...]:
    if text.count(",") >= _MOST:
        raise ConfigError(f"{name}: {text.count(',') + 1:,} numbers; at most {_MOST} are taken")
    return tuple(parse_count(part, name=name) for part in text.split(","))


Count: TypeAlias = Annotated[float, _reads(count)]
"""Parameters or tokens."""
Number: TypeAlias = Annotated[float, _reads(lambda text, name: parse_count(text, name=name))]
"""Positive and finite."""
Whole: TypeAlias = Annotated[int, _reads(whole)]
Numbers: TypeAlias = Annotated[tuple[float, ...], _reads(_numbers)]
"""Several with commas between, e.g. 3e-4,1e-3."""
Wholes: TypeAlias = Annotated[
    tuple[int, ...], _reads(lambda text, name: tuple(whole(part, name) for part in text.split(",")))
]
Words: TypeAlias = Annotated[
    tuple[str, ...], _reads(lambda text, _: tuple(dict.fromkeys(w.strip() for w in text.split(",") if w.strip())))
]
"""Several with commas between, each once."""
Text: TypeAlias = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A number that is kept as it was typed: for its label, or because others read it."""
Several = Parameter(consume_multiple=True)
"""An option that takes all the words up to the next one."""


# --- names and places ---------------------------------------------------------------------------------------


def _listed(path: str, *suffixes: str) -> Parameter:
    """Completes the names that `module:attribute` lists, imported when Tab is pressed, then files of these suffixes."""

    def complete(context: "CompletionContext") -> list[str]:
        found, begun = resolve_name(path), context.incomplete
        names = [getattr(each, "name", each) for each in (found() if callable(found) else found)]
        paths = sorted(glob(f"{escape(begun)}*")) if suffixes else []
        fitting = [name for name in names if name.lower().startswith(begun.lower())]
        return fitting + [path for path in paths if Path(path).is_dir() or Path(path).suffix in suffixes]

    return Parameter(completer=complete)


_LAWS = _listed("distillaw.laws.published:laws_available", ".json")
_TEACHERS = _listed("distillaw.accounting.families:named_models")
LawName: TypeAlias = Annotated[str, _LAWS]
"""A published law, or the file of a fitted one."""
LawNames: TypeAlias = Annotated[list[str], _LAWS]
TeacherName: TypeAlias = Annotated[str, _TEACHERS]
"""A model of `distillaw teachers`."""
TeacherNames: TypeAlias = Annotated[list[str], _TEACHERS]
HardwareName: TypeAlias = Annotated[str, _listed("distillaw.accounting.hardware:hardware_presets")]
"""A preset of accounting/data/hardware.toml."""
KindName: TypeAlias = Annotated[str, _listed("distillaw.protocols.catalogue:KINDS")]
"""A kind of study."""
WorldName: TypeAlias = Annotated[str, _listed("distillaw.worlds.spec:PRESETS", ".toml")]
"""A synthetic language by name, or its TOML file."""
Place: TypeAlias = str | Path
"""A file, a folder or a name (of a text, a model): always a str, since that comes first; the shell completes paths."""
Model: TypeAlias = Annotated[Place, Parameter(help="Hugging Face folder, FOLDER/FILE.gguf, or name on the hub.")]
"""A model, wherever it is."""
Device: TypeAlias = Annotated[str, Parameter(help="cpu, cuda or auto.")]
"""Where models run; cli/machine.py reads it."""


def checked_folder(option: str) -> Callable[[type, Path | None], None]:
    """Refuses, before the work, a folder that cannot take its results or holds what is not ours."""
    return lambda kind, path: None if path is None else check_folder(path, option)


def _checked_file(kind: type, path: Path | None) -> None:
    if path is not None:
        check_file(path)


OutFolder: TypeAlias = Annotated[Path, Parameter(validator=checked_folder("--out"))]
OutFile: TypeAlias = Annotated[Path, Parameter(validator=_checked_file)]
"""Where results go, refused before the work where they could not, or where something is that is not ours."""
