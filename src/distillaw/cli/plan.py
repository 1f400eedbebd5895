"""`distillaw plan`: the verdict, five lines to decide by and tables to check them with.

Its options are those of its question, made of the fields of `PlanQuestion`, and those of --scout.
"""

from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter

from distillaw.cli.console import print_sections, print_table
from distillaw.cli.options import Count, HardwareName, LawNames, Number, Place, Several, TeacherNames, Text, flag, given
from distillaw.cli.output import Output
from distillaw.data.corpus import WHOLE, Reading
from distillaw.errors import ConfigError
from distillaw.planning.api import answer
from distillaw.planning.paired import study_teacher
from distillaw.planning.phrases import interval
from distillaw.planning.question import Count as AnyCount
from distillaw.planning.question import OptionHelp, PlanQuestion, situation_of, with_measured
from distillaw.planning.situation import Teacher
from distillaw.planning.verdict import Verdict, cost_table, evidence_table, nearest_table, strategy_table
from distillaw.planning.wording import caught_up
from distillaw.runs.store import run_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distillaw.evaluate.scout import ScoutedTeacher
    from distillaw.runs.record import StudyRecord


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
    made = make_dataclass(title, [_option(name, defaults[name]) for name in chosen], frozen=True, kw_only=True)
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
    reading: Annotated[Reading, Parameter(name="*")] = WHOLE
    """What is read of each document of --text."""
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
        usual = given(ScoutOptions()) | given(WHOLE)
        for name, value in (given(self) | given(self.reading)).items():
            if value != usual[name] and name != "reading":
                raise ConfigError(f"{flag(name)} is for --scout: name the model folders, --scout DIR [DIR ...]")


def plan(
    *,
    question: Path | None = None,
    asked: AskedOptions = AskedOptions(),  # noqa: B008 - frozen, and made above
    scouting: ScoutOptions = ScoutOptions(),
    laws: LawOptions = LawOptions(),  # noqa: B008
    explain: bool = False,
    output: Output = Output(),
) -> None:
    """Decide whether to distil or pretrain one student, from which teacher, how many tokens, and how sure.

    Args:
        question: TOML file of options, as the planner page saves it: a table [plan] whose keys are the options below.
            Options typed beside it win.
        asked: the student, its budget, its teachers and who pays for them.
        scouting: teachers that are measured on your text first.
        laws: whom to ask.
        explain: walk through the equations with the numbers put in.
    """
    del question  # its options were put among the others before this was called (typed.py)
    with output.working("planning"):
        verdict = _answer(question_of(asked, laws), scouting, output)
    why: list[str] = []
    if explain:
        from distillaw.planning.explain import explanation

        why = explanation(verdict)
    output.answer(verdict.to_json() | ({"explanation": why} if explain else {}), show, verdict, why)
    output.suggest(verdict.next_command)


def _answer(question: "PlanQuestion", scouting: ScoutOptions, output: Output) -> "Verdict":
    """The verdict; teachers are measured once all else that was typed can be planned with."""
    scouting.check()
    record = question.record
    situation = situation_of(question, record, more_to_come=bool(scouting.scout))
    if not scouting.scout:
        return answer(question, situation, record)
    teachers, measured = _scouted(scouting, record, output)
    vocab = next((each.vocab for each in measured.values()), None)
    situation = with_measured(situation, question, record, teachers=teachers, vocab=vocab)
    verdict = answer(question, situation, record)
    if record is None or not measured:
        return verdict
    apart = (
        f"{', '.join(Path(model).name for model in measured)}: measured on {scouting.text}, the study's runs on its "
        "own held-out documents; where the two are not alike, the teacher's loss is of another text"
    )
    return replace(verdict, warnings=(apart, *verdict.warnings))


def _scouted(
    asked: ScoutOptions, record: "StudyRecord | None", output: Output
) -> "tuple[list[Teacher], dict[str, ScoutedTeacher]]":
    """Teachers in the order given, and those of them that had to be measured.

    What a study trained keeps the loss it has there: it is of the documents that the study's runs and laws speak of.
    Others must have the study's tokenizer, or one among themselves; that is looked at before anything is measured.

    Raises:
        ConfigError: no --text for what must be measured, or a text or model that cannot be.
        VocabularyError: models of several tokenizers, or of another than the study's.
    """
    models = asked.scout or []
    ran = {model: str(run_result(model).get("run_id")) for model in models}
    known = {model: run for model, run in ran.items() if record is not None and run in record.teachers}
    others = [model for model in models if model not in known]
    found = _measured(others, asked, record, output) if others else {}
    teachers = []
    for model, tokens in zip(models, asked.scout_tokens or [None] * len(models), strict=True):
        if model in known:
            assert record is not None
            teachers.append(study_teacher(record, known[model]))
            output.step(f"{model}: a teacher of the study, of loss {teachers[-1].loss:.3f} there")
        else:
            teachers.append(_as_teacher(found[model], tokens))
    return teachers, found


def _as_teacher(found: "ScoutedTeacher", tokens: float | None) -> "Teacher":
    from distillaw.evaluate.scout import trained_tokens

    return Teacher(
        name=Path(found.name).name,
        params=float(found.params),
        loss=found.nats_per_token,
        loss_se=found.nats_per_token_se,
        tokenizer=found.tokenizer,
        tokens=trained_tokens(found) if tokens is None else tokens,
    )


def _measured(
    models: "Sequence[str]", asked: ScoutOptions, record: "StudyRecord | None", output: Output
) -> "dict[str, ScoutedTeacher]":
    if asked.text is None:
        raise ConfigError("--scout measures models on your text: give it, --text FILE or FOLDER")
    from distillaw.cli.teachers import check_inputs, measure  # brings what models need, for --scout alone

    check_inputs(models, asked.text, asked.reading)
    from distillaw.evaluate.scout import check_tokenizers

    check_tokenizers(models, asked.text, None if record is None else record.folder)
    where = {"max_bytes": asked.max_bytes, "out": asked.scout_out, "output": output}
    return dict(zip(models, measure(models, asked.text, asked.reading, **where), strict=True))


def show(verdict: "Verdict", why: "Sequence[str]" = ()) -> None:
    """Print it and how it comes about; tables are folded to the terminal."""
    first = [line for line in verdict.warnings if line.startswith(("left out", "are these losses"))]
    warnings = [line for line in verdict.warnings if line not in first]
    print("\n".join([str(verdict), *(f"{line[0].upper()}{line[1:]}." for line in first)]))
    tables = (strategy_table(verdict), cost_table(verdict), evidence_table(verdict), nearest_table(verdict))
    for table in tables:
        print()
        print_table(table)
    if verdict.teachers is not None:
        print(f"\n{verdict.teachers.sentence}")
    print("On-policy distillation (distillaw instruct onpolicy) is left out: no law says what it is worth.")
    for line in _consequences(verdict):
        print(line)
    sections = {
        "How it comes about": why,
        "Changes if": verdict.flips_if[1:],
        "Assumes": verdict.assumptions,
        "Warnings": warnings,
        "Run next": verdict.next_runs,
    }
    print_sections(sections)


def _consequences(verdict: "Verdict") -> list[str]:
    """From how many tokens on a teacher is not needed, where no line above says it; what a wrong answer costs."""
    if not verdict.headline.is_decisive:
        return []
    lines, band = [], verdict.crossover
    if band is not None and band.median is not None and verdict.verdict != "distil":
        lines.append(f"Catching up: at {caught_up(band, verdict.level)}.")
    return [*lines, f"If this answer is wrong it costs {interval(verdict.regret_if_wrong)} nats/token."]
