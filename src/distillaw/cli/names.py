"""Types of options that several verbs share, with what a shell completes: names, places; and their lines of help.

Each list comes from where the names are defined; a shell asks for it when Tab is pressed; nothing heavy is imported.
"""

from collections.abc import Callable, Iterable
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from distillaw.runs.places import check_file, check_folder

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext


def _beginning(context: "CompletionContext", names: Iterable[str], *suffixes: str) -> list[str]:
    """Names that begin as typed, whatever their case, then folders and files of these suffixes."""
    begun = context.incomplete
    found = [name for name in names if name.lower().startswith(begun.lower())]
    paths = sorted(glob(f"{escape(begun)}*")) if suffixes else []
    return found + [path for path in paths if Path(path).is_dir() or Path(path).suffix in suffixes]


def _laws(context: "CompletionContext") -> list[str]:
    from distillaw.laws.published import laws_available

    return _beginning(context, laws_available(), ".json")


def _teachers(context: "CompletionContext") -> list[str]:
    from distillaw.accounting.families import named_models

    return _beginning(context, (each.name for each in named_models()))


def _hardware(context: "CompletionContext") -> list[str]:
    from distillaw.accounting.hardware import hardware_presets

    return _beginning(context, hardware_presets())


def _kinds(context: "CompletionContext") -> list[str]:
    from distillaw.protocols.catalogue import KINDS

    return _beginning(context, (kind.name for kind in KINDS))


def _worlds(context: "CompletionContext") -> list[str]:
    from distillaw.worlds.spec import PRESETS

    return _beginning(context, PRESETS, ".toml")


LawName: TypeAlias = Annotated[str, Parameter(completer=_laws)]
"""A published law, or the file of a fitted one."""
LawNames: TypeAlias = Annotated[list[str], Parameter(completer=_laws)]
TeacherName: TypeAlias = Annotated[str, Parameter(completer=_teachers)]
"""A model of `distillaw teachers`."""
TeacherNames: TypeAlias = Annotated[list[str], Parameter(completer=_teachers)]
HardwareName: TypeAlias = Annotated[str, Parameter(completer=_hardware)]
"""A preset of accounting/data/hardware.toml."""
KindName: TypeAlias = Annotated[str, Parameter(completer=_kinds)]
"""A kind of study."""
WorldName: TypeAlias = Annotated[str, Parameter(completer=_worlds)]
"""A synthetic language by name, or its TOML file."""
Place: TypeAlias = str | Path
"""A file, a folder or a name (of a text, a model): always a str, since that comes first; the shell completes paths."""
Model: TypeAlias = Annotated[
    Place, Parameter(help="Hugging Face folder, FOLDER/FILE.gguf, or name on the hub.")
]
"""A model, wherever it is."""
Device: TypeAlias = Annotated[str, Parameter(help="cpu, cuda or auto.")]
"""Where models run; torch_device.py reads it."""


def checked_folder(option: str) -> Callable[[type, Path | None], None]:
    """Refuses, before the work, a folder that cannot take its results or holds what is not ours."""
    return lambda kind, path: None if path is None else check_folder(path, option)


def _checked_file(kind: type, path: Path | None) -> None:
    if path is not None:
        check_file(path)


OutFolder: TypeAlias = Annotated[Path, Parameter(validator=checked_folder("--out"))]
OutFile: TypeAlias = Annotated[Path, Parameter(validator=_checked_file)]
"""Where results go, refused before the work where they could not, or where something is that is not ours."""
