"""The options of `distillaw plan`: those of its question, made of the fields of `PlanQuestion`; those of --scout."""

from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter

from distillaw.cli.options import Count, HardwareName, LawNames, Number, Place, TeacherNames, Text
from distillaw.errors import ConfigError
from distillaw.planning.question import Count as AnyCount
from distillaw.planning.question import OptionHelp, PlanQuestion

Several = Parameter(consume_multiple=True)

_TYPED: dict[str, Any] = {
    "device": HardwareName,
    "teachers": Annotated[TeacherNames | None, Several],
    "teacher_loss": Annotated[list[float] | None, Several],
    "student_loss": Annotated[list[str] | None, Several],
    "teacher_params": Annotated[list[str] | None, Several],
    "teacher_tokens": Annotated[list[str] | None, Several],
    "score_at": Annotated[list[str] | None, Several],
    "study": Path,
    "law": Annotated[LawNames | None, Several],
}
"""Fields that take objects in Python, lists, or names that a shell completes."""
_HINTS = get_type_hints(PlanQuestion, include_extras=True)


def _option(name: str, default: object) -> tuple[str, Any, object]:
    """A field of a dataclass of options: name, type with all that is shown of it, default."""
    kind, asked = get_args(_HINTS[name])
    assert isinstance(asked, OptionHelp)
    option = f"--{asked.negates or asked.name or name.replace('_', '-')}"
    shown = Parameter(name=option, alias=f"--{asked.alias}" if asked.alias else None, help=asked.help)
    if asked.negates:
        negative = Parameter(negative="") if option.startswith("--no-") else Parameter()
        return name, Annotated[bool, negative, shown], False
    typed = _TYPED.get(name, Text if kind == AnyCount | None else kind)
    return name, Annotated[typed if default is not None else typed | None, shown], default


def _options(title: str, first: str, last: str) -> type:
    """A dataclass of options of the fields from `first` to `last`."""
    defaults = {field.name: field.default for field in fields(PlanQuestion)}
    names = list(defaults)
    chosen = names[names.index(first) : names.index(last) + 1]
    made = make_dataclass(
        title, [_option(name, defaults[name]) for name in chosen], frozen=True, kw_only=True
    )
    made.__module__ = __name__  # that of make_dataclass, `types`, is taken for one of builtins
    return Parameter(name="*")(made)


AskedOptions = _options("AskedOptions", "student_params", "students_served")
"""The student, its budget, its teachers and who pays for them."""
LawOptions = _options("LawOptions", "study", "context")
"""Who is asked, and how FLOP are counted."""


def question_of(*options: Any) -> PlanQuestion:
    """The question that options were typed for."""
    given = {field.name: getattr(part, field.name) for part in options for field in fields(part)}
    for name in given:
        if get_args(_HINTS[name])[1].negates:
            given[name] = not given[name]
    return PlanQuestion(**given)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutOptions:
    """Teachers that are measured first, and the text they are measured on."""

    scout: Annotated[list[str] | None, Several] = None
    """Models to measure on --text first: folders, FOLDER/FILE.gguf, or names on the hub. A teacher that --study
    trained keeps the loss it has there."""
    scout_tokens: Annotated[list[Number] | None, Several] = None
    """Tokens each of them was trained on, where known, so that laws can be brought to the scale of your text; read from
    runs of this package and known for models of `distillaw teachers`."""
    text: Place | None = None
    """Your text, for --scout: .txt, .jsonl or .parquet, a folder of them, `hub:owner/name`, or `sotu`."""
    max_bytes: Count | None = None
    """Text read at most, by whole documents, e.g. 2M; all by default."""
    max_document_chars: int = 0
    """Read only the first characters of each document, e.g. 4000: more documents for the bytes."""
    section_chars: int = 0
    """Cut each document of --text into sections of about so many characters, at line ends: for one long file."""
    text_column: str = "text"
    """The field that holds the text."""
    scout_out: Path | None = None
    """Folder that keeps what was measured, as `distillaw scout --out` does: asking again is free."""

    def check(self) -> None:
        """Refuse options that do not go together, before anything else is done.

        Raises:
            ConfigError: an option that does nothing without --scout, or a number of --scout-tokens too few or too many.
        """
        if self.scout:
            if self.scout_tokens and len(self.scout_tokens) != len(self.scout):
                raise ConfigError(
                    f"--scout-tokens has {len(self.scout_tokens)} values for {len(self.scout)} models: one each"
                )
            return
        for field in fields(self)[1:]:
            if getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"--{field.name.replace('_', '-')} is for --scout: name the model folders, --scout DIR [DIR ...]"
                )
