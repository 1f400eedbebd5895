"""One estimate of everything a run costs: parameters, FLOP, memory, stored targets, time and money.

This file puts the counts of the package together and states what was assumed; it counts nothing itself.

    distillaw cost --student 1.82B --tokens 512B --teacher-params 7.75B
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distillaw.accounting.architecture import (
    Model,
    ParamConvention,
    ParamCount,
    Params,
    as_architecture,
    count_params,
    distillation_axis,
    params_of,
    training_axis,
)
from distillaw.accounting.family import FixedAspect
from distillaw.accounting.flops import DistillationFlops, FlopParts, forward_flops
from distillaw.accounting.hardware import Hardware, RunCost, estimate_cost
from distillaw.accounting.memory import (
    DEFAULT_SCHEME,
    Precision,
    ServingMemory,
    TargetScheme,
    TrainingMemory,
    serving_memory,
    target_scheme,
    training_memory,
)
from distillaw.accounting.scenarios import CostShares, Scenario, StudentFamily, family_compute, total_compute
from distillaw.errors import ConfigError

CHECKED_SIZES = (1.03e8, 1.26e10)
"""Sizes of the published table that F(N) was checked on (arXiv 2502.08606v2, Table 13)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedModel:
    """One model with its counts, from a shape or from N alone."""

    label: str
    """Where the counts come from, in words."""
    params: ParamCount
    parts: FlopParts
    dense_forward: float
    """F with the whole attention square: what a dense kernel executes and torch's FLOP counter reports."""
    shape: Model
    """The shape itself, or the nearest whole-number shape of the family; for memory."""
    notes: tuple[str, ...] = ()

    @property
    def forward(self) -> float:
        """F, FLOP per token."""
        return self.parts.total

    @property
    def two_n_error(self) -> float:
        """Relative error of 2 N (and of 6 N D) for this model, N non-embedding and active."""
        return 2 * self.params.active_non_embedding / self.forward - 1


def counted_model(model: Model, *, label: str) -> CountedModel:
    """Counts of a shape or an architecture."""
    arch = as_architecture(model)
    notes = ()
    if any(block.attention.window for block in arch.blocks):
        notes = ("sliding windows are counted: a query sees at most its window",)
    return CountedModel(
        label=label,
        params=count_params(arch),
        parts=forward_flops(arch),
        dense_forward=forward_flops(arch, causal=False).total,
        shape=arch,
        notes=notes,
    )


def counted_family(params: Params, *, family: FixedAspect, context: int, vocab: int, tied: bool = True) -> CountedModel:
    """Counts of the member of a fixed-aspect family with these parameters, in any convention."""
    N = family.convert(params, ParamConvention.NON_EMBEDDING, vocab=vocab, matrices=1 if tied else 2).value
    shape = replace(family.nearest_shape(N, context=context, vocab=vocab), tied=tied)
    rounded, embedding = round(N), round(vocab * family.width(N))
    head = 0 if tied else embedding
    total = rounded + embedding + head
    notes = []
    if not CHECKED_SIZES[0] / 1.5 <= N <= CHECKED_SIZES[1] * 1.5 or family != FixedAspect():
        notes.append("F(N) was checked on the paper's family, 103M to 12.6B; elsewhere a shape is safer: --layers")
    parts = family.forward_parts(N, context=context, vocab=vocab)
    notes += [f"memory from the nearest whole-number shape, {shape.layers} layers of width {shape.width}"]
    if params.convention is not ParamConvention.NON_EMBEDDING:
        notes.append(f"{params.value:.4g} {params.convention} parameters are N = {N:.4g} non-embedding")
    return CountedModel(
        label=f"N alone, family of width = {family.aspect:g} x layers, omega = {family.omega:g}",
        params=ParamCount(
            non_embedding=rounded,
            embedding=embedding,
            head=head,
            total=total,
            one_matrix=rounded + embedding,
            active_non_embedding=rounded,
            active_total=total,
        ),
        parts=parts,
        dense_forward=parts.total + parts.attention_scores,
        shape=shape,
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How a device is used, by the training run and by who serves the student."""

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


AS_PRESET = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """What a student costs, with its teacher if it has one."""

    student: CountedModel
    teacher: CountedModel | None
    student_tokens: float
    teacher_tokens: float
    shares: CostShares
    compute: DistillationFlops
    all_weights_axis: float
    """FLOP on the 6 N D axis of Pareto plots; never comparable with `compute`."""
    precision: Precision
    training: TrainingMemory
    serving: ServingMemory
    usage: Usage
    scheme: TargetScheme
    cache_bytes: float
    """Stored teacher targets of the student's tokens, under `scheme`."""
    device: Hardware
    run: RunCost
    family: StudentFamily | None
    """Totals over `students` equal students of the teacher; None for one."""
    students: int
    warnings: tuple[str, ...]


def estimate(
    student: CountedModel,
    *,
    student_tokens: float,
    device: Hardware,
    usage: Usage = AS_PRESET,
    teacher: CountedModel | None = None,
    teacher_tokens: float = 0.0,
    shares: CostShares = Scenario.PRETRAINING_INFERENCE.value,
    students: int = 1,
    shared_logits: bool = True,
) -> CostEstimate:
    """Put a student, its teacher, a device and a cache scheme together.

    Args:
        student: from `counted_model` or `counted_family`.
        student_tokens: D_S.
        device: a preset of hardware.py.
        teacher_tokens: D_T; 0 for a teacher whose training is not to be counted.
        students: equal students of one teacher, for the totals over a family.
        shared_logits: whether one teacher pass feeds all of them.

    Raises:
        ConfigError: a usage that cannot be, or sizes beyond all numbers.
    """
    if usage.sequences < 1:
        raise ConfigError(f"--sequences {usage.sequences}: a micro-batch has at least one sequence")
    if usage.serving_sequences < 1:
        raise ConfigError(f"--serving-sequences {usage.serving_sequences}: serving needs at least one sequence")
    forward = teacher.forward if teacher else 0.0
    compute = total_compute(
        student_forward=student.forward,
        student_tokens=student_tokens,
        teacher_forward=forward,
        teacher_tokens=teacher_tokens,
        shares=shares,
    )
    if not math.isfinite(compute.total):
        raise ConfigError(
            f"the compute of {student.params.non_embedding:.3g} parameters and {student_tokens:.3g} tokens is no "
            "finite number; check sizes and token counts"
        )
    precision = Precision.named(usage.precision or ("fp32" if device.dtype == "fp32" else "mixed"))
    vocab = as_architecture((teacher or student).shape).vocab
    target = target_scheme(usage.cache_scheme)
    own, *theirs = (params_of(m.params, ParamConvention.ALL_WEIGHTS, active=True) for m in (student, teacher) if m)
    axis = distillation_axis(own, theirs[0], student_tokens) if theirs else training_axis(own, student_tokens)
    return CostEstimate(
        student=student,
        teacher=teacher,
        student_tokens=student_tokens,
        teacher_tokens=teacher_tokens,
        shares=shares,
        compute=compute,
        all_weights_axis=axis,
        precision=precision,
        training=training_memory(
            student.shape,
            sequences=usage.sequences,
            precision=precision,
            recompute=usage.recompute,
            total_params=student.params.total,
            online_teacher_params=teacher.params.total if teacher and shares.delta_lgt else None,
        ),
        serving=serving_memory(
            student.shape,
            sequences=usage.serving_sequences,
            weight_bytes=usage.serving_bits / 8,
            total_params=student.params.total,
        ),
        usage=usage,
        scheme=target,
        cache_bytes=target.bytes_per_token(vocab) * student_tokens,
        device=device,
        run=estimate_cost(compute.total, device, mfu=usage.mfu, price_per_hour=usage.price),
        family=None
        if teacher is None or students == 1
        else family_compute(
            student_forwards=[student.forward] * students,
            student_tokens=[student_tokens] * students,
            teacher_forward=teacher.forward,
            teacher_tokens=teacher_tokens,
            shared_logits=shared_logits,
        ),
        students=students,
        warnings=tuple(_warnings(student, teacher, device, student_tokens)),
    )


def _warnings(student: CountedModel, teacher: CountedModel | None, device: Hardware, tokens: float) -> Sequence[str]:
    warnings = []
    if teacher is not None:
        ours, theirs = as_architecture(student.shape), as_architecture(teacher.shape)
        if ours.vocab != theirs.vocab:
            warnings.append(
                f"vocabularies differ ({ours.vocab} and {theirs.vocab} rows): logits line up only if both "
                "tokenizers are the same up to padding rows"
            )
        if teacher.params.non_embedding < student.params.non_embedding:
            warnings.append("the teacher is smaller than the student")
    if tokens < student.params.non_embedding:
        warnings.append("less than one token per parameter: far outside the range of every published law")
    states = student.params.total * 16
    if states > 8 * device.memory_bytes:
        warnings.append(
            f"16 bytes per parameter alone need {states / device.memory_bytes:.0f} devices of {device.name}"
        )
    return warnings
