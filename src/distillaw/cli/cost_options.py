"""What `distillaw cost` is asked: the student, the teacher, the machine, as typed. Reading it is in cost.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.accounting.memory import DEFAULT_SCHEME
from distillaw.accounting.shapes import FFN_RATIO
from distillaw.cli.counts import Count, Whole
from distillaw.cli.names import HardwareName, TeacherName
from distillaw.cli.options import options_of
from distillaw.cli.typed import formerly


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The student: by size, by config file, or by shape."""

    params: Annotated[Count | None, Parameter(name="--student", alias=("--params", "--student-params"))] = (
        None
    )
    """Size within the fixed-aspect family, e.g. 1.82B; non-embedding unless --convention says otherwise."""
    config: Path | None = None
    """A Hugging Face config.json, or the folder that holds it."""
    layers: Whole | None = None
    """Number of layers; with --width, --ffn and --heads a shape of its own."""
    width: Whole | None = None
    """d_model."""
    ffn: Whole | None = None
    """d_ff of the gated FFN."""
    heads: Whole | None = None
    """Query heads."""
    kv_heads: Whole | None = None
    """Key-value heads; one per query head by default."""
    head_dim: Whole | None = None
    """Width of a head; width / heads by default."""
    vocab: Whole | None = None
    """Vocabulary size; that of the config, or 32768."""
    context: Whole | None = None
    """Tokens of one sequence; that of the config, or 4096."""
    tied: bool | None = None
    """Whether the head is the embedding matrix: a size is tied by default, a shape is not."""
    convention: Literal["non-embedding", "one-matrix", "all-weights"] = "non-embedding"
    """What --student and --teacher-params count."""
    aspect: float | None = None
    """Width over layers of the family that --student means; 128 by default."""
    ffn_ratio: float | None = None
    """d_ff over d_model of that family; 8/3 by default."""
    group_size: float | None = None
    """Query heads per key-value head of that family; 1 by default."""


TeacherModel = options_of(
    ModelOptions,
    without=("context", "convention"),
    typed={
        "params": Annotated[
            Count | None, Parameter(name="--teacher-params", help="Or its size within a family.")
        ]
    },
    prefix="teacher-",
    said="The teacher's, as {} of the student.",
)
"""The teacher, described like the student or not at all."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOptions:
    """The teacher by name, and who pays for it."""

    teacher: TeacherName | None = None
    """Name of a real model (`distillaw teachers` lists them)."""
    teacher_tokens: Count | None = None
    """Tokens it is trained on, if its training is to be counted."""
    scenario: Literal["best-case", "inference", "pretraining", "pretraining-inference"] | None = None
    """Which teacher costs are paid here; all that are given, by default."""
    delta_lgt: float | None = None
    """Share of the teacher's forward passes paid here, 0 to 1."""
    delta_pre: float | None = None
    """Share of the teacher's pretraining paid here, 0 to 1."""
    students_served: Annotated[int, formerly("--students")] = 1
    """Equal students that share this teacher."""
    logits: Literal["own", "shared"] | None = None
    """With several students: one teacher pass for all (the default), or each its own."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """The machine, and how the run uses it."""

    device: Annotated[HardwareName, formerly("--hardware")] = "h100-sxm"
    """A preset; an unknown name lists them."""
    mfu: float | None = None
    """Model FLOP over peak, 0 to 1; the preset's by default."""
    price: float | None = None
    """US dollars per device-hour; the preset's by default."""
    precision: Literal["fp32", "mixed", "bf16"] | None = None
    """How training keeps its numbers; mixed by default, fp32 on a CPU."""
    sequences: int = 1
    """Sequences of one micro-batch, for activations."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, more hardware work."""
    serving_sequences: int = 1
    """Sequences served at once, for the key-value cache."""
    serving_bits: Literal[32, 16, 8, 4] = 16
    """Bits of a weight while serving; the key-value cache stays in 16."""
    cache_scheme: str = DEFAULT_SCHEME
    """How teacher targets are stored: top-64, sampled-12, dense-bf16, ..."""


FAMILY_DEFAULTS = {"aspect": 128.0, "ffn_ratio": FFN_RATIO, "group_size": 1.0}
"""The fixed-aspect family of arXiv 2502.08606v2."""
