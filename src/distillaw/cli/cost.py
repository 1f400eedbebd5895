"""`distillaw cost`: parameters, FLOP by part, memory, stored targets, time and money of a run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.accounting.architecture import Architecture, as_architecture
from distillaw.accounting.config import read_architecture
from distillaw.accounting.conventions import ParamConvention, Params
from distillaw.accounting.estimate import CountedModel, counted_family, counted_model, estimate
from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB, FixedAspect
from distillaw.accounting.hardware import hardware
from distillaw.accounting.memory import Precision
from distillaw.accounting.scenarios import CostShares, Scenario, amortised
from distillaw.accounting.shapes import FFN_RATIO, Shape
from distillaw.accounting.storage import DEFAULT_SCHEME
from distillaw.cli.app import print_json
from distillaw.cli.cost_view import as_json, print_text
from distillaw.errors import ConfigError
from distillaw.quantities import parse_count


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOptions:
    """The student: by size, by config file, or by shape."""

    params: str | None = None
    """Size within the fixed-aspect family, e.g. 1.82B; non-embedding unless --convention says otherwise."""
    config: Path | None = None
    """A Hugging Face config.json, or the folder that holds it."""
    layers: str | None = None
    """Number of layers; with --width, --ffn and --heads a shape of its own."""
    width: str | None = None
    """d_model."""
    ffn: str | None = None
    """d_ff of the gated FFN."""
    heads: str | None = None
    """Query heads."""
    kv_heads: str | None = None
    """Key-value heads; one per query head by default."""
    head_dim: str | None = None
    """Width of a head; width / heads by default."""
    vocab: str | None = None
    """Vocabulary size; that of the config, or 32768."""
    context: str | None = None
    """Tokens of one sequence; that of the config, or 4096."""
    tied: bool | None = None
    """Whether the head is the embedding matrix: a size is tied by default, a shape is not."""
    convention: Literal["non-embedding", "one-matrix", "all-weights"] = "non-embedding"
    """What --params and --teacher-params count."""
    aspect: float = 128.0
    """Width over layers of the family that --params means."""
    ffn_ratio: float = FFN_RATIO
    """d_ff over d_model of that family."""
    group_size: float = 1.0
    """Query heads per key-value head of that family."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOptions:
    """The teacher, and who pays for it."""

    teacher_params: str | None = None
    """Its size within the same family."""
    teacher_config: Path | None = None
    """Its Hugging Face config.json, or folder."""
    teacher_tokens: str | None = None
    """Tokens it is trained on, if its training is to be counted."""
    scenario: Literal["best-case", "inference", "pretraining", "pretraining-inference"] | None = None
    """Which teacher costs are paid here; all that are given, by default."""
    delta_lgt: float | None = None
    """Share of the teacher's forward passes paid here, 0 to 1."""
    delta_pre: float | None = None
    """Share of the teacher's pretraining paid here, 0 to 1."""
    students: int = 1
    """Equal students that share this teacher."""
    logits: Literal["own", "shared"] = "shared"
    """With several students: one teacher pass for all, or each its own."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """The machine, and how the run uses it."""

    hardware: str = "h100-sxm"
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
    cache_scheme: str = DEFAULT_SCHEME
    """How teacher targets are stored: top-64, sampled-12, dense-bf16, ..."""


def cost(
    *,
    tokens: str,
    student: StudentOptions | None = None,
    teacher: TeacherOptions | None = None,
    machine: MachineOptions | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Parameters, FLOP by part, memory, stored targets, time and money of a student and its teacher.

    Args:
        tokens: tokens the student is trained on, e.g. 512B.
        student: the student.
        teacher: the teacher.
        machine: the machine.
        json_: print one JSON object instead.
    """
    student, teacher, machine = (
        student or StudentOptions(),
        teacher or TeacherOptions(),
        machine or MachineOptions(),
    )
    _check_machine(machine)
    _refuse_unused(student, has_size=bool(student.params or teacher.teacher_params))
    counted = count_student(student)
    answer = estimate(
        counted,
        student_tokens=parse_count(tokens, name="--tokens"),
        device=hardware(machine.hardware),
        teacher=count_teacher(teacher, student, counted),
        teacher_tokens=parse_count(teacher.teacher_tokens, name="--teacher-tokens")
        if teacher.teacher_tokens
        else 0.0,
        shares=read_shares(teacher),
        students=teacher.students,
        shared_logits=teacher.logits == "shared",
        precision=Precision.named(machine.precision) if machine.precision else None,
        sequences=machine.sequences,
        recompute=machine.recompute,
        scheme=machine.cache_scheme,
        mfu=machine.mfu,
        price_per_hour=machine.price,
    )
    print_json(as_json(answer)) if json_ else print_text(answer)


def count_student(options: StudentOptions) -> CountedModel:
    """The student, from the one description that was given."""
    by_shape = {
        "--layers": options.layers,
        "--width": options.width,
        "--ffn": options.ffn,
        "--heads": options.heads,
    }
    given = {
        "--params": options.params is not None,
        "--config": options.config is not None,
        "--layers": any(value is not None for value in by_shape.values()),
    }
    if sum(given.values()) != 1:
        named = " and ".join(name for name, is_given in given.items() if is_given) or "none"
        raise ConfigError(
            f"describe the student in one way, got {named}: --params N, or --config config.json, "
            "or --layers --width --ffn --heads (with --vocab --context)"
        )
    if options.params is not None:
        return _from_size(options.params, options, name="--params")
    if options.config is not None:
        arch = _override(read_architecture(options.config), options)
        counted = counted_model(arch, label=f"{arch.name}, from {options.config}")
        if options.context is None:
            longest = f"{arch.context} tokens is the longest the config allows; training usually takes fewer: --context"
            counted = replace(counted, notes=(*counted.notes, longest))
        return counted
    missing = [name for name, value in by_shape.items() if value is None]
    if missing:
        raise ConfigError(
            f"a shape needs --layers, --width, --ffn and --heads; missing: {', '.join(missing)}"
        )
    return counted_model(read_shape(options), label="gated FFN, RMSNorm, rotary positions, from --layers ...")


def count_teacher(
    options: TeacherOptions, student_options: StudentOptions, student: CountedModel
) -> CountedModel | None:
    """The teacher at the student's context, or None."""
    if options.teacher_params and options.teacher_config:
        raise ConfigError("describe the teacher in one way: --teacher-params or --teacher-config")
    context = as_architecture(student.shape).context
    if options.teacher_params:
        return _from_size(options.teacher_params, student_options, name="--teacher-params", like=student)
    if options.teacher_config:
        arch = read_architecture(options.teacher_config)
        return counted_model(arch, label=f"{arch.name}, from {options.teacher_config}", context=context)
    if options.teacher_tokens or options.students != 1 or options.scenario or _has_deltas(options):
        raise ConfigError(
            "teacher options without a teacher: add --teacher-params N or --teacher-config config.json"
        )
    return None


def read_shares(options: TeacherOptions) -> CostShares:
    """Who pays for the teacher: a named scenario, explicit shares, or amortisation over students."""
    ways = [bool(options.scenario), _has_deltas(options), options.students != 1]
    if sum(ways) > 1:
        raise ConfigError(
            "say once who pays for the teacher: --scenario, or --delta-lgt/--delta-pre, or --students"
        )
    if options.scenario:
        return Scenario[options.scenario.upper().replace("-", "_")].value
    if options.students != 1:
        return amortised(options.students, logits=options.logits)
    default = Scenario.PRETRAINING_INFERENCE.value
    return CostShares(
        default.delta_lgt if options.delta_lgt is None else options.delta_lgt,
        default.delta_pre if options.delta_pre is None else options.delta_pre,
    )


def read_shape(options: StudentOptions) -> Shape:
    """A shape from --layers, --width and the rest."""
    width, heads = _whole(options.width, "--width"), _whole(options.heads, "--heads")
    if options.head_dim is None and width % heads:
        raise ConfigError(
            f"--width {width} is not a multiple of --heads {heads}; change one, or give --head-dim"
        )
    return Shape(
        layers=_whole(options.layers, "--layers"),
        width=width,
        ffn=_whole(options.ffn, "--ffn"),
        heads=heads,
        kv_heads=_whole(options.kv_heads, "--kv-heads", heads),
        head_dim=_whole(options.head_dim, "--head-dim", width // heads),
        vocab=_whole(options.vocab, "--vocab", PAPER_VOCAB),
        context=_whole(options.context, "--context", PAPER_CONTEXT),
        tied=bool(options.tied),
    )


def _from_size(
    text: str, options: StudentOptions, *, name: str, like: CountedModel | None = None
) -> CountedModel:
    """A member of the fixed-aspect family; a teacher takes the student's vocabulary and context."""
    arch = as_architecture(like.shape) if like else None
    return counted_family(
        Params(parse_count(text, name=name), ParamConvention(options.convention)),
        family=FixedAspect(aspect=options.aspect, ffn_ratio=options.ffn_ratio, group_size=options.group_size),
        context=arch.context if arch else _whole(options.context, "--context", PAPER_CONTEXT),
        vocab=arch.vocab if arch else _whole(options.vocab, "--vocab", PAPER_VOCAB),
        tied=options.tied is not False,
    )


def _override(arch: Architecture, options: StudentOptions) -> Architecture:
    """A config with another context, vocabulary or tying on request."""
    return replace(
        arch,
        vocab=_whole(options.vocab, "--vocab", arch.vocab),
        context=_whole(options.context, "--context", arch.context),
        tied=arch.tied if options.tied is None else options.tied,
    )


def _refuse_unused(options: StudentOptions, *, has_size: bool) -> None:
    """An option that would silently do nothing is an error."""
    of_shape = {"--kv-heads": options.kv_heads, "--head-dim": options.head_dim}
    unused = [name for name, value in of_shape.items() if value is not None and options.layers is None]
    if unused:
        raise ConfigError(f"{unused[0]} belongs to a shape: give --layers --width --ffn --heads")
    defaults = StudentOptions()
    changed = {
        "--convention": options.convention != defaults.convention,
        "--aspect": options.aspect != defaults.aspect,
        "--ffn-ratio": options.ffn_ratio != defaults.ffn_ratio,
        "--group-size": options.group_size != defaults.group_size,
    }
    if any(changed.values()) and not has_size:
        name = next(name for name, is_changed in changed.items() if is_changed)
        raise ConfigError(
            f"{name} belongs to --params and --teacher-params: a config or a shape says it itself"
        )


def _check_machine(machine: MachineOptions) -> None:
    if machine.sequences < 1:
        raise ConfigError(f"--sequences {machine.sequences}: a micro-batch has at least one sequence")


def _has_deltas(options: TeacherOptions) -> bool:
    return options.delta_lgt is not None or options.delta_pre is not None


def _whole(text: str | None, name: str, default: int | None = None) -> int:
    """A whole number such as 4096 or 32k."""
    if text is None:
        assert default is not None, f"{name} is required before this point"
        return default
    value = parse_count(text, name=name)
    if value != int(value):
        raise ConfigError(f"{name}: got {text!r}; it must be a whole number")
    return int(value)
