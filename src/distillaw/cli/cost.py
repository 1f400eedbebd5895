"""`distillaw cost`: parameters, FLOP by part, memory, stored targets, time and money of a run."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.accounting.architecture import PRINTED_UNIT, ParamConvention, Params, as_architecture
from distillaw.accounting.config import read_architecture
from distillaw.accounting.estimate import CostEstimate, CountedModel, Usage, counted_family, counted_model, estimate
from distillaw.accounting.families import model as named_model
from distillaw.accounting.family import PAPER_CONTEXT, PAPER_VOCAB, FixedAspect
from distillaw.accounting.hardware import hardware
from distillaw.accounting.layout import ROOM, DeviceLayout, Devices, propose, read_devices
from distillaw.accounting.scenarios import CostShares, Scenario, amortised
from distillaw.cli.console import print_table
from distillaw.cli.options import Count, HardwareName, TeacherName, Whole, flag, given, options_of, typed_of, values_of
from distillaw.cli.output import Output
from distillaw.cli.typed import refuse_idle
from distillaw.errors import ConfigError
from distillaw.quantities import bare_flop, format_bytes, format_count, format_dollars, format_hours
from distillaw.shapes import FFN_RATIO, Shape
from distillaw.table import Column, Table, number, text


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
NO_TEACHER = (
    "no teacher is described: add --teacher NAME, --teacher-params N, --teacher-config config.json, or "
    "--teacher-layers --teacher-width --teacher-ffn --teacher-heads"
)


def cost(
    *,
    tokens: Count,
    student: ModelOptions = ModelOptions(),
    teacher: TeacherOptions = TeacherOptions(),
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
    usage, own = Usage(**given(used)), ModelOptions(**given(described), convention=student.convention)
    many = None if devices is None else read_devices(devices)
    if many is None:
        refuse_idle(("--batch",), "it is about several devices: add --devices 64xh100")
    else:
        refuse_idle(("--device",), "--devices says which they are")
    counted = _student(student, has_sized_teacher=own.params is not None)
    answer = estimate(
        counted,
        student_tokens=tokens,
        device=hardware(device) if many is None else many.kind,
        usage=usage,
        teacher=_teacher(teacher.teacher, own, student, counted),
        teacher_tokens=teacher.teacher_tokens or 0.0,
        shares=_shares(teacher),
        students=teacher.students_served,
        shared_logits=teacher.logits != "own",
    )
    layouts = []
    if many is not None:
        asked = {"tokens": tokens, "batch_tokens": batch, "mfu": usage.mfu, "price_per_hour": usage.price}
        layouts = propose(answer.student, answer.teacher, many, **asked)

    def show() -> None:
        _print(answer)
        if many is not None:
            _print_layouts(many, layouts)

    output.answer(as_json(answer) | ({} if many is None else {"layouts": [asdict(one) for one in layouts]}), show)
    size = format_count(counted.params.non_embedding)
    output.suggest(f"distillaw plan --student {size} --tokens {format_count(tokens)}")


# --- the models, each from the one description that was given -----------------------------------------------


def _student(options: ModelOptions, *, has_sized_teacher: bool) -> CountedModel:
    way = _description(options, "--")
    if way is None:
        raise ConfigError(
            "describe the student in one way, got none: --student N, or --config config.json, "
            "or --layers --width --ffn --heads (with --vocab --context)"
        )
    _refuse_unused(options, way, "--", passed_on=has_sized_teacher)
    counted = _counted(options, "--", context=options.context, vocab=PAPER_VOCAB)
    if way == "config" and options.context is None:
        longest = as_architecture(counted.shape).context
        note = f"{longest} tokens is the longest the config allows; training usually takes fewer: --context"
        return replace(counted, notes=(*counted.notes, note))
    return counted


def _teacher(name: str | None, model: ModelOptions, like: ModelOptions, student: CountedModel) -> CountedModel | None:
    """The teacher by name or by numbers, at the student's context; None where none is described."""
    way, arch = _description(model, "--teacher-"), as_architecture(student.shape)
    if name is not None:
        for own in typed_of(model):  # nothing else may describe it
            if own != "convention":
                raise ConfigError(
                    f"--teacher {name} is a whole model; leave {flag(own, '--teacher-')} out, or describe the teacher "
                    "by numbers alone"
                )
        found = named_model(name)
        label = f"{found.name}, {found.shape_source.text}"
        return counted_model(replace(found.architecture, context=arch.context), label=label)
    if way is None:
        described = [flag(field.name, "--teacher-") for field in fields(TeacherModel)]
        refuse_idle([*described, *(flag(field.name) for field in fields(TeacherOptions))], NO_TEACHER)
        return None
    _refuse_unused(model, way, "--teacher-")
    if way == "params":
        kept = {name: getattr(like, name) for name in (*FAMILY_DEFAULTS, "tied")}
        model = replace(model, **{name: value for name, value in kept.items() if getattr(model, name) is None})
    return _counted(model, "--teacher-", context=arch.context, vocab=arch.vocab)


def _description(options: ModelOptions, prefix: str) -> str | None:
    """Which one of `params`, `config` and `layers` describes the model; None for no description."""
    shape = values_of(options, "layers width ffn heads").values()
    ways = [way for way in ("params", "config") if getattr(options, way) is not None]
    ways += ["layers"] if any(value is not None for value in shape) else []
    if len(ways) > 1:
        size = "--student" if prefix == "--" else "--teacher-params"
        names = [size if way == "params" else prefix + way for way in ways]
        raise ConfigError(
            f"describe the {'student' if prefix == '--' else 'teacher'} in one way, got {' and '.join(names)}: "
            f"{size} N, or {prefix}config config.json, or a shape ({prefix}layers ...)"
        )
    return ways[0] if ways else None


def _counted(options: ModelOptions, prefix: str, *, context: int | None, vocab: int) -> CountedModel:
    """The counts of one model, from one description; `context` and `vocab` where it does not say."""
    if options.params is not None:
        family = FAMILY_DEFAULTS | typed_of(options, FAMILY_DEFAULTS)
        return counted_family(
            Params(options.params, ParamConvention(options.convention)),
            family=FixedAspect(**family),
            context=context or PAPER_CONTEXT,
            vocab=options.vocab or vocab,
            tied=options.tied is not False,
        )
    if options.config is not None:
        changed = {"vocab": options.vocab, "context": context, "tied": options.tied}
        arch = read_architecture(options.config)
        arch = replace(arch, **{name: value for name, value in changed.items() if value is not None})
        return counted_model(arch, label=f"{arch.name}, from {options.config}")
    needed = values_of(options, "layers width ffn heads")
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
    shape = Shape(
        **needed,
        kv_heads=options.kv_heads or heads,
        head_dim=options.head_dim or width // heads,
        vocab=options.vocab or vocab,
        context=context or PAPER_CONTEXT,
        tied=bool(options.tied),
    )
    return counted_model(shape, label=f"gated FFN, RMSNorm, rotary positions, from {prefix}layers ...")


def _refuse_unused(options: ModelOptions, way: str, prefix: str, *, passed_on: bool = False) -> None:
    """An option that would silently do nothing is an error."""
    of_shape, of_family = (list(typed_of(options, names)) for names in (("kv_heads", "head_dim"), FAMILY_DEFAULTS))
    if of_shape and way != "layers":
        raise ConfigError(
            f"{flag(of_shape[0], prefix)} belongs to a shape: give {prefix}layers {prefix}width {prefix}ffn "
            f"{prefix}heads"
        )
    if options.convention != "non-embedding" and prefix == "--":
        of_family = ["convention", *of_family]
    if of_family and way != "params" and not passed_on:
        raise ConfigError(
            f"{flag(of_family[0], prefix)} belongs to --student and --teacher-params: a config or a shape says it "
            "itself"
        )


def _shares(teacher: TeacherOptions) -> CostShares:
    """Who pays for the teacher: a named scenario, explicit shares, or amortisation over students."""
    deltas = typed_of(teacher, ("delta_lgt", "delta_pre"))
    if bool(teacher.scenario) + bool(deltas) + (teacher.students_served != 1) > 1:
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
    return replace(Scenario.PRETRAINING_INFERENCE.value, **deltas)


# --- the answer ---------------------------------------------------------------------------------------------


PARTS = {
    "attention_projections": "attention projections",
    "attention_scores": "attention scores, causal",
    "ffn": "feed-forward",
    "router": "router",
    "vectors": "norms and biases",
    "head": "output head",
}
"""Of the forward pass."""
PARAMS = {
    "non_embedding": "N, non-embedding",
    "embedding": "token embedding and positions",
    "head": "output head",
    "total": "all weights",
    "one_matrix": "N + one matrix",
    "active_non_embedding": "N, active per token",
    "active_total": "all weights, active",
}
MOST_LAYOUTS = 6
"""Shown; --json has all."""


def as_json(answer: CostEstimate) -> dict[str, object]:
    """The keys of the interface contract, and more."""
    student, teacher, family = answer.student, answer.teacher, answer.family
    device, run, training = answer.device, answer.run, answer.training
    N, error = student.params.active_non_embedding, student.two_n_error
    return {
        "flops": {
            "student_forward_per_token": student.forward,
            "teacher_forward_per_token": teacher.forward if teacher else 0.0,
            **values_of(answer.compute, "student_training teacher_logits teacher_training total"),
        },
        "params": values_of(student.params, PARAMS),
        "memory_bytes": training.total,
        "cache_bytes": answer.cache_bytes,
        **values_of(run, "device_hours price"),
        "teacher_params": values_of(teacher.params, PARAMS) if teacher else None,
        "flop_parts": {"student": _parts_json(student), "teacher": _parts_json(teacher) if teacher else None},
        "shares": answer.compute.shares,
        "delta_lgt": answer.shares.delta_lgt if teacher else 0.0,
        "delta_pre": answer.shares.delta_pre if teacher else 0.0,
        "approximations": {  # relative errors: by how much they miss F and 3 F D, negative where they are too small
            "two_n": {"flop_per_token": 2.0 * N, "relative_error": error},
            "six_nd": {"flop": 6.0 * N * answer.student_tokens, "relative_error": error},
        },
        "all_weights_6nd": answer.all_weights_axis,
        "family": family and {"students": answer.students, **values_of(family, "total marginal without_teacher")},
        "memory": {
            "precision": answer.precision.name.lower(),
            "training": {
                **values_of(training, "weights gradients optimizer total"),
                "activations_estimate": training.activations,
                "logits_estimate": training.logits,
                "teacher_weights": training.teacher,
            },
            "serving": {
                "sequences": answer.usage.serving_sequences,
                "bits_per_weight": float(answer.usage.serving_bits),
                **values_of(answer.serving, "weights kv_cache total"),
            },
        },
        "cache": {
            "scheme": answer.scheme.name,
            "meaning": answer.scheme.meaning,
            "tokens": answer.student_tokens,
            "bytes_per_token": answer.cache_bytes / answer.student_tokens,
        },
        "hardware": {
            **values_of(device, "name device peak_flop_per_second peak_source mfu_source"),
            "mfu": run.mfu,
            "device_hours_range": [run.device_hours_low, run.device_hours_high],
            "price_source": device.price_source or None,
            "currency": "USD",
        },
        "assumptions": list(assumptions(answer)),
        "warnings": list(answer.warnings),
    }


def _parts_json(model: CountedModel) -> dict[str, object]:
    return {
        **values_of(model.parts, (*PARTS, "total", "full_count")),
        "outside_total": values_of(model.parts, "softmax embedding"),
        "not_causal_total": model.dense_forward,
    }


def assumptions(answer: CostEstimate) -> Iterator[str]:
    """What the numbers rest on, one sentence each."""
    arch = as_architecture(answer.student.shape)
    yield f"sequences of {arch.context} tokens, vocabulary {arch.vocab}; attention counts half of the square"
    yield "a multiply-add is 2 FLOP, backward = 2 forward, look-ups are free, recomputation is not counted"
    yield f"student: {answer.student.label}"
    yield from answer.student.notes
    if answer.teacher:
        yield f"teacher: {answer.teacher.label}"
        yield from answer.teacher.notes
        yield (
            f"of the teacher, this run pays {answer.shares.delta_lgt:.3g} of the forward passes and "
            f"{answer.shares.delta_pre:.3g} of the pretraining"
        )
        yield "the teacher's forward passes run at the utilisation of training"
        if not answer.teacher_tokens:
            yield "the teacher's training is not counted (no --teacher-tokens)"
    yield (
        f"memory: one device without sharding, AdamW in {answer.precision.name.lower()} precision; activations "
        "and logits are estimates for fused attention and a dense vocabulary loss"
    )


def _print(answer: CostEstimate) -> None:
    """The answer for people: counts first, then what they rest on."""
    for warning in answer.warnings:
        print(f"WARNING: {warning}")
    models = {"student": answer.student} | ({"teacher": answer.teacher} if answer.teacher else {})
    own = list(models.values())
    print_table(Table([text("parameters"), *map(number, models)], list(_param_rows(own))))
    shares = [column for name in models for column in (number(name, bare_flop), number("share"))]
    _print_rows("forward FLOP per token", _forward_rows(own), shares)
    _print_rows("compute", _compute_rows(answer), [number("FLOP", bare_flop), number("share")])
    axis = answer.all_weights_axis / PRINTED_UNIT
    print(f"  (6 N D axis: all weights, no attention, no teacher training; {axis:.3g} in the printed 1e9 TFLOPs;")
    print("  not comparable with the total above)")
    _print_rows("memory and storage", _memory_rows(answer), [number("")])
    print(f"  ({answer.cache_bytes / answer.student_tokens:.0f} B per token: {answer.scheme.meaning})")
    run, device = answer.run, answer.device
    rows = [("device time", format_hours(run.device_hours))]
    if run.device_hours_low < run.device_hours_high:
        ends = f"{format_hours(run.device_hours_low)} to {format_hours(run.device_hours_high)}"
        rows.append(("at the ends of the MFU range", ends))
    rows.append(("price", "unknown: --price" if run.price is None else format_dollars(run.price)))
    _print_rows(f"time and money on {device.device}", rows, [number("")])
    print(f"  peak: {device.peak_flop_per_second:.4g} FLOP/s {device.dtype}; {device.peak_source}")
    print(f"  MFU: {run.mfu:.0%}; " + ("yours" if run.mfu != device.mfu else device.mfu_source))
    print(f"  price: {device.price_source or 'none shipped'}")
    print("\nassumptions", *(f"  - {sentence}" for sentence in assumptions(answer)), sep="\n")
    print("sources: arXiv 2502.08606v2 (parameters, FLOP, objective), 2311.07052 (6 N D axis); docs/accounting.md")


def _print_rows(title: str, rows: Iterable[Sequence[object]], columns: Sequence[Column]) -> None:
    print()
    print_table(Table([text(title), *columns], list(rows)))


def _param_rows(models: Sequence[CountedModel]) -> Iterator[tuple[str, ...]]:
    is_sparse = any(model.params.active_total != model.params.total for model in models)
    for key, label in PARAMS.items():
        if is_sparse or not key.startswith("active"):
            values = [getattr(model.params, key) for model in models]
            yield label, *(format_count(value, digits=4) if value else "tied" for value in values)


def _forward_rows(models: Sequence[CountedModel]) -> Iterator[list[object]]:
    def row(label: str, cells: Iterable[tuple[float, str]]) -> list[object]:
        return [label, *(part for cell in cells for part in cell)]

    for name, label in PARTS.items():
        values = [getattr(model.parts, name) for model in models]
        if any(values):
            yield row(label, [(v, f"{v / m.forward:.0%}") for v, m in zip(values, models, strict=True)])
    yield row("F, their sum", [(m.forward, "") for m in models])
    yield row("outside F: attention not causal", [(m.dense_forward - m.forward, "") for m in models])
    yield row("outside F: softmax", [(m.parts.softmax, "") for m in models])
    yield row("approximation 2 N", [(2 * m.params.active_non_embedding, f"{m.two_n_error:+.0%}") for m in models])


def _compute_rows(answer: CostEstimate) -> Iterator[tuple[str, float, str]]:
    compute, student, family = answer.compute, answer.student, answer.family
    parts = {"student_training": "student training, 3 F D"}
    if answer.teacher:
        parts["teacher_logits"] = f"teacher logits, {answer.shares.delta_lgt:.3g} F D"
        parts["teacher_training"] = f"teacher training, {answer.shares.delta_pre:.3g} x 3 F D"
    for key, label in parts.items():
        yield label, getattr(compute, key), f"{compute.shares[key]:.0%}"
    yield "total", compute.total, ""
    six_nd = 6 * student.params.active_non_embedding * answer.student_tokens
    yield "approximation 6 N D, student", six_nd, f"{student.two_n_error:+.0%}"
    if family:
        yield f"{answer.students} students together", family.total, ""
        yield "one more student", family.marginal, ""
        yield "the same without a teacher", family.without_teacher, ""
    yield "6 N D axis of Pareto plots", answer.all_weights_axis, ""


def _memory_rows(answer: CostEstimate) -> Iterator[tuple[str, str]]:
    training, served = answer.training, answer.usage.serving_sequences
    sequences = "one sequence" if served == 1 else f"{served} sequences"
    parts = {
        "weights, gradients, AdamW": training.weights + training.gradients + training.optimizer,
        "activations (estimate)": training.activations,
        "vocabulary loss (estimate)": training.logits,
        "teacher weights": training.teacher or None,
        "training, one device": training.total,
        f"serving {sequences}, {answer.usage.serving_bits} bits": answer.serving.total,
        f"targets, {answer.scheme.name}": answer.cache_bytes,
    }
    return ((label, format_bytes(size)) for label, size in parts.items() if size is not None)


def _print_layouts(devices: Devices, layouts: Sequence[DeviceLayout]) -> None:
    """The fastest layouts, and the parts of the first one's memory."""
    best, memory = layouts[0], layouts[0].memory
    print(f"\nlayouts on {devices.count} x {devices.kind.device}, fastest first; the teacher lies as its student does")

    def span(low: float, high: float, scale: float = 1.0, style: str = ".3g") -> str:
        return f"{low * scale:{style}} to {high * scale:{style}}"

    columns = [
        text("sharding", of=lambda one: one.sharding),
        number("micro-batch", of=lambda one: f"{one.sequences} x {one.accumulation}"),
        text("recompute", of=lambda one: "yes" if one.recompute else "no"),
        number("GB/device", of=lambda one: f"{one.memory.total / 1e9:.1f}"),
        number("tokens/s", of=lambda one: " to ".join(format_count(rate) for rate in one.tokens_per_second)),
        number("MFU, %", of=lambda one: span(*one.mfu, 100, ".0f")),
        number("hours", of=lambda one: span(*one.hours)),
        number("dollars", of=lambda one: " to ".join(map(format_dollars, one.price)) if one.price else "-"),
    ]
    print_table(Table.of(columns, layouts[:MOST_LAYOUTS]), indent=2)
    parts = {"student's states": memory.states} | values_of(memory, "gathered teacher activations loss")
    said = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    print(f"  memory of the first, GB: {said}; {ROOM:.0%} of {devices.kind.memory_bytes / 1e9:.0f} may be taken")
    print(f"  ranges: utilisation ({devices.kind.mfu_source}); network hidden wholly or not at all")
    print(f"  distillaw train ... {best.options}")
