"""How `distillaw cost` shows an estimate: the JSON of the interface contract, and text with its sources."""

from collections.abc import Iterator

from distillaw.accounting.architecture import ParamCount, as_architecture
from distillaw.accounting.conventions import PRINTED_UNIT
from distillaw.accounting.estimate import CostEstimate, CountedModel
from distillaw.accounting.layout import ROOM, Devices, Layout
from distillaw.cli.console import print_table
from distillaw.quantities import format_bytes, format_count, format_dollars, format_flop, format_hours
from distillaw.table import Table, number, text

PARTS = (
    ("attention_projections", "attention projections"),
    ("attention_scores", "attention scores, causal"),
    ("ffn", "feed-forward"),
    ("router", "router"),
    ("vectors", "norms and biases"),
    ("head", "output head"),
)


MOST_LAYOUTS = 6
"""Shown; --json has all."""


def print_layouts(devices: Devices, layouts: list[Layout]) -> None:
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
    parts = {
        "student's states": memory.states,
        "gathered": memory.gathered,
        "teacher": memory.teacher,
        "activations": memory.activations,
        "loss": memory.loss,
    }
    said = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    print(f"  memory of the first, GB: {said}; {ROOM:.0%} of {devices.kind.memory_bytes / 1e9:.0f} may be taken")
    print(f"  ranges: utilisation ({devices.kind.mfu_source}); network hidden wholly or not at all")
    print(f"  distillaw train ... {best.options}")


def as_json(answer: CostEstimate) -> dict[str, object]:
    """The keys of the interface contract, and more."""
    student, teacher, compute = answer.student, answer.teacher, answer.compute
    return {
        "flops": {
            "student_forward_per_token": student.forward,
            "student_training": compute.student_training,
            "teacher_forward_per_token": teacher.forward if teacher else 0.0,
            "teacher_logits": compute.teacher_logits,
            "teacher_training": compute.teacher_training,
            "total": compute.total,
        },
        "params": _params_json(student.params),
        "memory_bytes": answer.training.total,
        "cache_bytes": answer.cache_bytes,
        "device_hours": answer.run.device_hours,
        "price": answer.run.price,
        "teacher_params": _params_json(teacher.params) if teacher else None,
        "flop_parts": {
            "student": _parts_json(student),
            "teacher": _parts_json(teacher) if teacher else None,
        },
        "shares": compute.shares,
        "delta_lgt": answer.shares.delta_lgt if teacher else 0.0,
        "delta_pre": answer.shares.delta_pre if teacher else 0.0,
        "approximations": _approximations_json(student, answer.student_tokens),
        "all_weights_6nd": answer.all_weights_axis.flop,
        "family": _family_json(answer),
        "memory": _memory_json(answer),
        "cache": {
            "scheme": answer.scheme.name,
            "meaning": answer.scheme.meaning,
            "tokens": answer.student_tokens,
            "bytes_per_token": answer.cache_bytes / answer.student_tokens,
        },
        "hardware": _hardware_json(answer),
        "assumptions": list(assumptions(answer)),
        "warnings": list(answer.warnings),
    }


def _params_json(count: ParamCount) -> dict[str, int]:
    whole = ("non_embedding", "embedding", "head", "total", "one_matrix")
    return {key: getattr(count, key) for key in (*whole, "active_non_embedding", "active_total")}


def _parts_json(model: CountedModel) -> dict[str, object]:
    parts = model.parts
    inside = {name: getattr(parts, name) for name, _ in PARTS}
    return {
        **inside,
        "total": parts.total,
        "outside_total": {"softmax": parts.softmax, "embedding": parts.embedding},
        "full_count": parts.full_count,
        "not_causal_total": model.dense_forward,
    }


def _approximations_json(student: CountedModel, tokens: float) -> dict[str, dict[str, float]]:
    """2 N and 6 N D with N non-embedding, and by how much they miss F and 3 F D (negative: too small)."""
    N, error = student.params.active_non_embedding, student.two_n_error
    return {
        "two_n": {"flop_per_token": 2.0 * N, "relative_error": error},
        "six_nd": {"flop": 6.0 * N * tokens, "relative_error": error},
    }


def _family_json(answer: CostEstimate) -> dict[str, float] | None:
    if answer.family is None:
        return None
    return {
        "students": answer.students,
        "total": answer.family.total,
        "marginal": answer.family.marginal,
        "without_teacher": answer.family.without_teacher,
    }


def _memory_json(answer: CostEstimate) -> dict[str, object]:
    training, serving = answer.training, answer.serving
    return {
        "precision": answer.precision.name.lower(),
        "training": {
            "weights": training.weights,
            "gradients": training.gradients,
            "optimizer": training.optimizer,
            "activations_estimate": training.activations,
            "logits_estimate": training.logits,
            "teacher_weights": training.teacher,
            "total": training.total,
        },
        "serving": {
            "sequences": answer.usage.serving_sequences,
            "bits_per_weight": float(answer.usage.serving_bits),
            "weights": serving.weights,
            "kv_cache": serving.kv_cache,
            "total": serving.total,
        },
    }


def _hardware_json(answer: CostEstimate) -> dict[str, object]:
    device, run = answer.device, answer.run
    return {
        "name": device.name,
        "device": device.device,
        "peak_flop_per_second": device.peak_flop_per_second,
        "peak_source": device.peak_source,
        "mfu": run.mfu,
        "mfu_source": device.mfu_source,
        "device_hours_range": [run.device_hours_low, run.device_hours_high],
        "price_source": device.price_source or None,
        "currency": "USD",
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


def print_text(answer: CostEstimate) -> None:
    """The answer for people: counts first, then what they rest on."""
    for warning in answer.warnings:
        print(f"WARNING: {warning}")
    models = [("student", answer.student)] + ([("teacher", answer.teacher)] if answer.teacher else [])
    _print_params(models)
    _print_forward(models)
    _print_compute(answer)
    _print_machine(answer)
    print("\nassumptions")
    for sentence in assumptions(answer):
        print(f"  - {sentence}")
    print("sources: arXiv 2502.08606v2 (parameters, FLOP, objective), 2311.07052 (6 N D axis); docs/accounting.md")


def _row(label: str, cells: list[str]) -> None:
    print((f"  {label:<32}" + "".join(f"{cell:>16}" for cell in cells)).rstrip())


def _print_params(models: list[tuple[str, CountedModel]]) -> None:
    print(f"{'parameters':<34}" + "".join(f"{name:>16}" for name, _ in models))
    rows = [
        ("N, non-embedding", "non_embedding"),
        ("token embedding and positions", "embedding"),
        ("output head", "head"),
        ("all weights", "total"),
        ("N + one matrix", "one_matrix"),
    ]
    if any(m.params.active_total != m.params.total for _, m in models):
        rows += [("N, active per token", "active_non_embedding"), ("all weights, active", "active_total")]
    for label, key in rows:
        values = [getattr(model.params, key) for _, model in models]
        _row(label, [format_count(v, digits=4) if v else "tied" for v in values])


def _print_forward(models: list[tuple[str, CountedModel]]) -> None:
    print("\nforward FLOP per token")
    for name, label in PARTS:
        values = [(getattr(m.parts, name), m.forward) for _, m in models]
        if any(value for value, _ in values):
            _row(label, [f"{_flop(value)} {100 * value / total:3.0f}%" for value, total in values])
    _row("F, their sum", [f"{_flop(m.forward)}     " for _, m in models])
    _row("outside F: attention not causal", [f"{_flop(m.dense_forward - m.forward)}     " for _, m in models])
    _row("outside F: softmax", [f"{_flop(m.parts.softmax)}     " for _, m in models])
    _row(
        "approximation 2 N",
        [f"{_flop(2 * m.params.active_non_embedding)} {100 * m.two_n_error:+3.0f}%" for _, m in models],
    )


def _print_compute(answer: CostEstimate) -> None:
    compute, shares = answer.compute, answer.compute.shares
    print("\ncompute")
    rows = [("student training, 3 F D", compute.student_training, shares["student_training"])]
    if answer.teacher:
        logits = f"teacher logits, {answer.shares.delta_lgt:.3g}"
        training = f"teacher training, {answer.shares.delta_pre:.3g}"
        rows += [
            (f"{logits} F D", compute.teacher_logits, shares["teacher_logits"]),
            (f"{training} x 3 F D", compute.teacher_training, shares["teacher_training"]),
        ]
    for label, flop, share in rows:
        _row(label, [f"{_flop(flop)} {100 * share:3.0f}%"])
    _row("total", [f"{_flop(compute.total)}     "])
    student = answer.student
    six_nd = 6 * student.params.active_non_embedding * answer.student_tokens
    _row("approximation 6 N D, student", [f"{_flop(six_nd)} {100 * student.two_n_error:+3.0f}%"])
    if answer.family:
        family = answer.family
        _row(f"{answer.students} students together", [f"{_flop(family.total)}     "])
        _row("one more student", [f"{_flop(family.marginal)}     "])
        _row("the same without a teacher", [f"{_flop(family.without_teacher)}     "])
    axis = answer.all_weights_axis.flop
    _row("6 N D axis of Pareto plots", [f"{_flop(axis)}     "])
    print(f"    (all weights, no attention, no teacher training; {axis / PRINTED_UNIT:.3g} in the printed 1e9 TFLOPs;")
    print("    not comparable with the total above)")


def _print_machine(answer: CostEstimate) -> None:
    training, serving, run, device = answer.training, answer.serving, answer.run, answer.device
    print("\nmemory and storage")
    states = training.weights + training.gradients + training.optimizer
    _row("weights, gradients, AdamW", [format_bytes(states)])
    _row("activations (estimate)", [format_bytes(training.activations)])
    _row("vocabulary loss (estimate)", [format_bytes(training.logits)])
    if training.teacher:
        _row("teacher weights", [format_bytes(training.teacher)])
    _row("training, one device", [format_bytes(training.total)])
    _row(_serving_label(answer), [format_bytes(serving.total)])
    per_token = answer.cache_bytes / answer.student_tokens
    _row(f"targets, {answer.scheme.name}", [format_bytes(answer.cache_bytes)])
    print(f"    ({per_token:.0f} B per token: {answer.scheme.meaning})")
    print(f"\ntime and money on {device.device}")
    _row("device time", [format_hours(run.device_hours)])
    if run.device_hours_low < run.device_hours_high:
        _row(
            "  at the ends of the MFU range",
            [f"{format_hours(run.device_hours_low)} to {format_hours(run.device_hours_high)}"],
        )
    _row("price", ["unknown: --price" if run.price is None else format_dollars(run.price)])
    for name, words in (
        ("peak", f"{device.peak_flop_per_second:.4g} FLOP/s {device.dtype}; {device.peak_source}"),
        ("MFU", f"{run.mfu:.0%}; " + ("yours" if run.mfu != device.mfu else device.mfu_source)),
        ("price", device.price_source or "none shipped"),
    ):
        print(f"    {name}: {words}")


def _serving_label(answer: CostEstimate) -> str:
    """E.g. `serving 8 sequences, 4 bits`."""
    number = answer.usage.serving_sequences
    sequences = "one sequence" if number == 1 else f"{number} sequences"
    return f"serving {sequences}, {answer.usage.serving_bits} bits"


def _flop(value: float) -> str:
    return format_flop(value).removesuffix(" FLOP")
