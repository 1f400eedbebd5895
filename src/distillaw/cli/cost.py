"""`distillaw cost`: parameters, FLOP by part, memory, stored targets, time and money of a run."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.accounting.architecture import Architecture, as_architecture
from distillaw.accounting.config import read_architecture
from distillaw.accounting.conventions import ParamConvention, Params
from distillaw.accounting.estimate import (
    CostEstimate,
    CountedModel,
    Usage,
    counted_family,
    counted_model,
    estimate,
)
from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB, FixedAspect
from distillaw.accounting.hardware import hardware
from distillaw.accounting.layout import propose, read_devices
from distillaw.accounting.scenarios import CostShares, Scenario, amortised
from distillaw.cli.app import print_json
from distillaw.cli.cost_view import as_json, print_layouts, print_text
from distillaw.cli.options import Count, HardwareName, TeacherName, Whole, given, options_of
from distillaw.cli.output import Output
from distillaw.cli.typed import refuse_idle
from distillaw.errors import ConfigError
from distillaw.quantities import format_count
from distillaw.shapes import FFN_RATIO, Shape


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The student: by size, by config file, or by shape."""

    params: Annotated[Count | None, Parameter(name="--student", alias=("--params", "--student-params"))] = None
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
    typed={"params": Annotated[Count | None, Parameter(name="--teacher-params", help="Or its size within a family.")]},
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
    students_served: Annotated[int, Parameter(alias="--students")] = 1
    """Equal students that share this teacher."""
    logits: Literal["own", "shared"] | None = None
    """With several students: one teacher pass for all (the default), or each its own."""


UsageOptions = options_of(Usage)
FAMILY_DEFAULTS = {"aspect": 128.0, "ffn_ratio": FFN_RATIO, "group_size": 1.0}
"""The fixed-aspect family of arXiv 2502.08606v2."""


def cost(
    *,
    tokens: Count,
    student: ModelOptions | None = None,
    teacher: TeacherOptions | None = None,
    described: TeacherModel | None = None,
    device: Annotated[HardwareName, Parameter(alias="--hardware")] = "h100-sxm",
    devices: str | None = None,
    batch: Whole | None = None,
    used: UsageOptions | None = None,
    output: Output = Output(),
) -> None:
    """Count parameters, FLOP by part, memory, stored targets, time and money of a student and its teacher.

    Args:
        tokens: tokens the student is trained on, e.g. 512B.
        student: the student.
        teacher: who teaches, and who pays for it.
        described: the teacher, of the student's kind or of another.
        device: a preset; an unknown name lists them.
        devices: how many of which, e.g. 64xh100: proposes layouts on them, with memory per device, speed, hours and
            money.
        batch: tokens of a step on those devices; by default one micro-batch on each.
        used: how a device is used.
    """
    student, teacher, usage = student or ModelOptions(), teacher or TeacherOptions(), Usage(**given(used))
    own = ModelOptions(**given(described), convention=student.convention)
    many = None if devices is None else read_devices(devices)
    if many is None:
        refuse_idle(("--batch",), "it is about several devices: add --devices 64xh100")
    else:
        refuse_idle(("--device",), "--devices says which they are")
    counted = count_student(student, has_sized_teacher=own.params is not None)
    answer = estimate(
        counted,
        student_tokens=tokens,
        device=hardware(device) if many is None else many.kind,
        usage=usage,
        teacher=count_teacher(teacher.teacher, own, student, counted),
        teacher_tokens=teacher.teacher_tokens or 0.0,
        shares=read_shares(teacher),
        students=teacher.students_served,
        shared_logits=teacher.logits != "own",
    )
    layouts = None
    if many is not None:
        asked = {"tokens": tokens, "batch_tokens": batch, "mfu": usage.mfu, "price_per_hour": usage.price}
        layouts = propose(answer.student, answer.teacher, many, **asked)
    if output.json:
        print_json(as_json(answer) | ({} if layouts is None else {"layouts": [asdict(one) for one in layouts]}))
    else:
        print_text(answer)
        if many is not None and layouts is not None:
            print_layouts(many, layouts)
    output.suggest(_next(answer))


def _next(answer: CostEstimate) -> str:
    size, tokens = answer.student.params.non_embedding, answer.student_tokens
    return f"distillaw plan --student {format_count(size)} --tokens {format_count(tokens)}"


def count_student(options: ModelOptions, *, has_sized_teacher: bool = False) -> CountedModel:
    """The student, from the one description that was given."""
    way = _description(options, prefix="--")
    if way is None:
        raise ConfigError(
            "describe the student in one way, got none: --student N, or --config config.json, "
            "or --layers --width --ffn --heads (with --vocab --context)"
        )
    _refuse_unused(options, way, prefix="--", passed_on=has_sized_teacher)
    counted = _counted(options, way, prefix="--", context=options.context, vocab=PAPER_VOCAB)
    if way == "config" and options.context is None:
        longest = as_architecture(counted.shape).context
        note = f"{longest} tokens is the longest the config allows; training usually takes fewer: --context"
        return replace(counted, notes=(*counted.notes, note))
    return counted


def count_teacher(
    name: str | None, model: ModelOptions, student_options: ModelOptions, student: CountedModel
) -> CountedModel | None:
    """The teacher by name or of its own kind, at the student's context; None where none is described."""
    way = _description(model, prefix="--teacher-")
    if name is not None:
        return _named_teacher(name, model, way, student)
    if way is None:
        described = (f"teacher_{field.name}" for field in fields(TeacherModel))
        refuse_idle(
            (f"--{one.replace('_', '-')}" for one in (*described, *(f.name for f in fields(TeacherOptions)))),
            "no teacher is described: add --teacher NAME, --teacher-params N, --teacher-config config.json, or "
            "--teacher-layers --teacher-width --teacher-ffn --teacher-heads",
        )
        return None
    _refuse_unused(model, way, prefix="--teacher-")
    if way == "params":
        kept = {name: getattr(model, name) for name in ("aspect", "ffn_ratio", "group_size", "tied")}
        model = replace(model, **{name: getattr(student_options, name) if v is None else v for name, v in kept.items()})
    arch = as_architecture(student.shape)
    return _counted(model, way, prefix="--teacher-", context=arch.context, vocab=arch.vocab)


def _named_teacher(name: str, model: ModelOptions, way: str | None, student: CountedModel) -> CountedModel:
    """A real model at the student's context; nothing else may describe it."""
    from distillaw.accounting.families import model as named_model

    own = [f.name for f in fields(model) if f.name != "convention" and getattr(model, f.name) is not None]
    if way is not None or own:
        raise ConfigError(
            f"--teacher {name} is a whole model; leave --teacher-{own[0].replace('_', '-')} out, or describe the "
            "teacher by numbers alone"
        )
    found = named_model(name)
    arch = replace(found.architecture, context=as_architecture(student.shape).context)
    return counted_model(arch, label=f"{found.name}, {found.shape_source.text}")


def _description(options: ModelOptions, *, prefix: str) -> str | None:
    """Which one of `params`, `config` and `layers` describes the model; None for no description."""
    shape = (options.layers, options.width, options.ffn, options.heads)
    given = {
        "params": options.params is not None,
        "config": options.config is not None,
        "layers": any(value is not None for value in shape),
    }
    ways = [name for name, is_given in given.items() if is_given]
    if len(ways) > 1:
        who = "teacher" if prefix == "--teacher-" else "student"
        raise ConfigError(
            f"describe the {who} in one way, got {' and '.join(_option(prefix, way) for way in ways)}: "
            f"{_option(prefix, 'params')} N, or {prefix}config config.json, or a shape ({prefix}layers ...)"
        )
    return ways[0] if ways else None


def _counted(options: ModelOptions, way: str, *, prefix: str, context: int | None, vocab: int) -> CountedModel:
    """The counts of one model, from one description; `context` and `vocab` where it does not say."""
    if way == "params":
        assert options.params is not None
        asked = {name: getattr(options, name) for name in FAMILY_DEFAULTS}
        family = FAMILY_DEFAULTS | {name: value for name, value in asked.items() if value is not None}
        return counted_family(
            Params(options.params, ParamConvention(options.convention)),
            family=FixedAspect(**family),
            context=context or PAPER_CONTEXT,
            vocab=options.vocab or vocab,
            tied=options.tied is not False,
        )
    if way == "config":
        assert options.config is not None
        arch = _changed(read_architecture(options.config), vocab=options.vocab, context=context, tied=options.tied)
        return counted_model(arch, label=f"{arch.name}, from {options.config}")
    shape = read_shape(options, prefix=prefix, vocab=options.vocab or vocab, context=context or PAPER_CONTEXT)
    return counted_model(shape, label=f"gated FFN, RMSNorm, rotary positions, from {prefix}layers ...")


def read_shares(teacher: TeacherOptions) -> CostShares:
    """Who pays for the teacher: a named scenario, explicit shares, or amortisation over students."""
    ways = [
        bool(teacher.scenario),
        teacher.delta_lgt is not None or teacher.delta_pre is not None,
        teacher.students_served != 1,
    ]
    if sum(ways) > 1:
        raise ConfigError(
            "say once who pays for the teacher: --scenario, or --delta-lgt/--delta-pre, or --students-served"
        )
    if teacher.delta_pre is not None and teacher.teacher_tokens is None:
        raise ConfigError(
            f"--delta-pre {teacher.delta_pre} is a share of training the teacher, which is not counted: give "
            "--teacher-tokens 2T, or leave it out"
        )
    if teacher.students_served != 1:
        return amortised(teacher.students_served, logits=teacher.logits or "shared")
    refuse_idle(("--logits",), "it is about several students, --students-served N")
    if teacher.scenario:
        return Scenario[teacher.scenario.upper().replace("-", "_")].value
    default = Scenario.PRETRAINING_INFERENCE.value
    return CostShares(
        default.delta_lgt if teacher.delta_lgt is None else teacher.delta_lgt,
        default.delta_pre if teacher.delta_pre is None else teacher.delta_pre,
    )


def read_shape(options: ModelOptions, *, prefix: str, vocab: int, context: int) -> Shape:
    """A shape from --layers, --width and the rest."""
    needed = {name: getattr(options, name) for name in ("layers", "width", "ffn", "heads")}
    missing = [f"{prefix}{name}" for name, value in needed.items() if value is None]
    if missing:
        raise ConfigError(
            f"a shape needs {prefix}layers, {prefix}width, {prefix}ffn and {prefix}heads; missing: {', '.join(missing)}"
        )
    width, heads = needed["width"], needed["heads"]
    if options.head_dim is None and width % heads:
        raise ConfigError(
            f"{prefix}width {width} is not a multiple of {prefix}heads {heads}; change one, or give {prefix}head-dim"
        )
    return Shape(
        **needed,
        kv_heads=options.kv_heads or heads,
        head_dim=options.head_dim or width // heads,
        vocab=vocab,
        context=context,
        tied=bool(options.tied),
    )


def _changed(arch: Architecture, *, vocab: int | None, context: int | None, tied: bool | None) -> Architecture:
    """A config with another vocabulary, context or tying on request."""
    asked = {"vocab": vocab, "context": context, "tied": tied}
    return replace(arch, **{name: value for name, value in asked.items() if value is not None})


def _refuse_unused(options: ModelOptions, way: str, *, prefix: str, passed_on: bool = False) -> None:
    """An option that would silently do nothing is an error."""
    of_shape = [name for name in ("kv_heads", "head_dim") if getattr(options, name) is not None]
    if of_shape and way != "layers":
        name = of_shape[0].replace("_", "-")
        raise ConfigError(
            f"{prefix}{name} belongs to a shape: give {prefix}layers {prefix}width {prefix}ffn {prefix}heads"
        )
    of_family = [name for name in FAMILY_DEFAULTS if getattr(options, name) is not None]
    if options.convention != "non-embedding" and prefix == "--":
        of_family = ["convention", *of_family]
    if of_family and way != "params" and not passed_on:
        name = of_family[0].replace("_", "-")
        raise ConfigError(
            f"{prefix}{name} belongs to --student and --teacher-params: a config or a shape says it itself"
        )


def _option(prefix: str, way: str) -> str:
    """The option of a way to describe a model: a student's size is --student."""
    return "--student" if (prefix, way) == ("--", "params") else prefix + way
