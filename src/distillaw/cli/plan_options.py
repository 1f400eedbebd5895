"""What `distillaw plan` is asked, as typed: budget, limits, teachers, who pays. Reading it is in plan_question.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.counts import Count
from distillaw.cli.names import HardwareName, LawNames, Place, TeacherNames
from distillaw.cli.typed import formerly

Several = Parameter(consume_multiple=True)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOptions:
    """What may be spent: one of tokens, compute, device-hours, money."""

    tokens: Count | None = None
    """Tokens the student is trained on, e.g. 20B; the same for every strategy."""
    compute: Count | None = None
    """FLOP, e.g. 1e21; the same bill for every strategy."""
    device_hours: float | None = None
    """Hours of one --device."""
    money: Annotated[float | None, formerly("--dollars")] = None
    """US dollars at --price, or the price of --device."""
    device: Annotated[HardwareName | None, formerly("--hardware")] = None
    """Hardware preset that turns hours and money into FLOP; h100-sxm by default."""
    mfu: float | None = None
    """Utilisation assumed; the preset's by default."""
    price: float | None = None
    """US dollars per device-hour; the preset's by default."""
    unique_tokens: Count | None = None
    """Distinct training tokens at hand; more are repeats and count for less."""
    inference_tokens: Count | None = None
    """Tokens the student will serve in its life; their FLOP are in every bill."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How large a student can be served."""

    max_student: Count | None = None
    """Largest student, non-embedding parameters; without --student the best size up to this is searched."""
    serve_memory: Count | None = None
    """Bytes for weights and the key-value cache of one sequence, e.g. 8e9."""
    serve_latency: float | None = None
    """Seconds per generated token; needs --serve-bandwidth."""
    serve_bandwidth: Count | None = None
    """Bytes per second that the serving device reads."""
    weight_bytes: float | None = None
    """Bytes per weight when served: 2 for 16 bits (the default), 0.5 for 4."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateOptions:
    """The teachers, and who pays for them."""

    teacher: Annotated[TeacherNames | None, Several] = None
    """Names of real models (`distillaw teachers` lists them), e.g. llama-3.1-8b; their losses are estimated."""
    teacher_loss: Annotated[list[float] | None, Several] = None
    """Loss of each teacher in nats/token on your text: of those of --teacher, or of those of --teacher-params."""
    teacher_params: Annotated[list[str] | None, Several] = None
    """Size of each teacher (non-embedding), needed to price its logits."""
    teacher_tokens: Annotated[list[str] | None, Several] = None
    """Tokens each teacher was (or would be) trained on."""
    train_teacher: bool = False
    """The teachers of --teacher-params do not exist yet; their training is in the bill."""
    only_existing: bool = False
    """Do not consider training a teacher of the best size."""
    scenario: Literal["best-case", "inference", "pretraining", "pretraining-inference"] | None = None
    """Which of the teacher's costs this student pays; inference by default."""
    delta_lgt: float | None = None
    """Share of the teacher's forward passes paid here, 0 to 1, instead of the scenario's."""
    delta_pre: float | None = None
    """Share of the teacher's pretraining paid here, 0 to 1, instead of the scenario's."""
    logits: Literal["online", "stored"] = "online"
    """Computed beside each student, or once and stored for all that are served."""
    students_served: int = 1
    """Students that share the bill for training a teacher, and for stored logits."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoutOptions:
    """Teachers that are measured first, and the text they are measured on."""

    scout: Annotated[list[str] | None, Several] = None
    """Models to measure on --text first: folders, FOLDER/FILE.gguf, or names on the hub. A teacher that --study
    trained keeps the loss it has there."""
    scout_tokens: Annotated[list[str] | None, Several] = None
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


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class LawOptions:
    """Whom to ask."""

    study: Path | None = None
    """Folder of a study; its paired runs and fitted laws come before any published law."""
    law: Annotated[LawNames | None, Several] = None
    """Laws to consult first: published names, or files of `distillaw fit --out`."""
    no_published: Annotated[bool, Parameter(negative="")] = False
    """Ask no published law that --law does not name."""
    level: float = 0.9
    """Coverage of the intervals."""
