"""How a distillation is laid out on many devices before any is paid for: sharding, micro-batch, memory, speed, money.

Memory is that of our own engine (train/, models/parallel.py): weights, gradients and moments in float32, products in
bfloat16, the teacher's weights in bfloat16. With w devices and FSDP, per device and in bytes (P student, T teacher
parameters, E of their embeddings and heads, b of one block, N tokens of a micro-batch, V vocabulary, H width):

    12 P / w                    weights and moments; 4 P / w more where the weights of step 0 are kept
    2 E                         the student's embedding and head, gathered from forward to backward pass
    2 (T - E_T) / w + 2 E_T     the teacher, whose embedding and head stay whole, and its hidden states
    the largest of
      saved + 8 V H + 6 N H + logits + 2 b     the loss: gradients of head and hidden states, the product that is added
                                               to the former, a chunk of logits of both
      saved + 10 V H + 8 N H + 2 b             after it: these gradients scaled, then in bfloat16
      saved + 2 V H + 10 b                     the last layer's backward pass: two blocks, a gradient, its reduction
      saved of a layer + 4 P / w + 6 E         the end of it: all gradients, those of embedding and head twice

`saved` is what autograd keeps (memory.py), with 6 N H of the last norm; recomputed, the inputs of layers and one layer.
With whole models (ddp) 12 P, 2 for each weight of a block that autocast copies, 2 T, and the larger of saved and loss,
or a layer's saved and 4 P. Gradients of several micro-batches, and DDP's buckets, are there all the time: 16 P; one
process keeps a copy of the former besides, for the noise scale: 20 P.
Products in float32, as on CPUs, take 4 for 2 and nothing that is a copy in bfloat16. What is sharded is held to a
simulation of the engine's own step within 10 % (tests/train/test_layout.py), all of it to the peaks of small real runs
(benchmarks/engine/measured_memory.py). Allocators add fragmentation, so a tenth of the device is left free.

Time: model FLOP over the preset's range of utilisation; what is gathered and reduced goes over the network of the
preset, wholly hidden at the upper end and not at all at the lower. Recomputation is work that counts for nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from distillaw.accounting.architecture import Architecture, as_architecture, count_params
from distillaw.accounting.estimate import CountedModel
from distillaw.accounting.hardware import SECONDS_PER_HOUR, Hardware, hardware
from distillaw.accounting.memory import Precision, training_memory
from distillaw.errors import ConfigError

ROOM = 0.9
"""Share of a device's memory that a layout may take: the rest is fragments, communication buffers, the driver."""
MOST_SEQUENCES = 64
"""Of a micro-batch: more fill no matrix product better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Some devices of one kind."""

    count: int
    kind: Hardware


def read_devices(text: str) -> Devices:
    """`64xh100`: how many of which preset.

    Raises:
        ConfigError: not of that form, or no such preset.
    """
    found = re.fullmatch(r"(\d+) ?[x*] ?([\w.-]+)", text.strip())
    if found is None or not 1 <= int(found[1]) <= 100_000:
        raise ConfigError(f"--devices {text}: write how many of what, e.g. 64xh100")
    return Devices(count=int(found[1]), kind=hardware(found[2]))


class Numerics(NamedTuple):
    """What memory depends on besides the layout: chunks of the loss (distill/losses.py), types of numbers."""

    logits: int = 2**26
    """Of a chunk."""
    block_logits: int = 2**26
    """Of a block of a chunk."""
    product: float = 4.0
    """Bytes per weight of the head of what a chunk adds to its gradient: in float32; 2 on a CPU, which multiplies
    bfloat16 into bfloat16; nothing in float32, which is added in place."""
    hand_on: float = 10.0
    """Bytes per weight of the head while the loss hands its gradient on: as it is, scaled, in bfloat16; 6 on a CPU,
    where a factor of 1 is left out; 4 in float32."""
    half: bool = True
    """Products of the student in bfloat16; else in float32."""
    teacher: float = 2.0
    """Bytes per weight of the teacher."""


ON_ACCELERATOR = Numerics()


def on_cpu(logits: int, block_logits: int, *, half: bool, teacher: float = 4.0) -> Numerics:
    """A CPU, with the sizes of a chunk and of a block of it there (distill/losses.py)."""
    product, hand_on = (2.0, 6.0) if half else (0.0, 4.0)
    return Numerics(logits, block_logits, product, hand_on, half, teacher)


class LayoutChoice(NamedTuple):
    """What is to be chosen."""

    sharding: str
    """`ddp`, or `fsdp` over all devices; the teacher lies as the student does, beside it on every device."""
    recompute: bool
    """Activations, in the backward pass."""
    sequences: int
    """Of a micro-batch of one device."""
    accumulates: bool = False
    """Whether a step takes several micro-batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Bytes on one device at the peak of a step, by part."""

    states: float
    """Weights, gradients and moments of the student."""
    first_weights: float
    gathered: float
    """Of the student: embedding and head; with whole models the copies that autocast makes."""
    teacher: float
    """Its weights."""
    activations: float
    loss: float
    """Of the vocabulary loss, or where that is more the gradients of the backward pass."""

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return sum((self.states, self.first_weights, self.gathered, self.teacher, self.activations, self.loss))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLayout:
    """One way to run a distillation."""

    sharding: str
    """`ddp`, or `fsdp` over all devices; the teacher lies as the student does, beside it on every device."""
    sequences: int
    """Of a micro-batch of one device."""
    accumulation: int
    """Micro-batches of a step."""
    recompute: bool
    memory: DeviceMemory
    mfu: tuple[float, float]
    """Lowest and highest: model FLOP, student's and teacher's, over peak."""
    tokens_per_second: tuple[float, float]
    hours: tuple[float, float]
    """Wall time of the whole run, shortest first."""
    price: tuple[float, float] | None

    @property
    def options(self) -> str:
        """The settings of execution that run it."""
        words = f"--sharding {self.sharding} --precision bf16 --micro-batch {self.sequences}"
        return words + (" --checkpoint-activations" if self.recompute else "")


def device_memory(
    student: Architecture,
    teacher: Architecture | None,
    way: LayoutChoice,
    *,
    world: int,
    context: int,
    first_weights: bool = False,
    place: Numerics = ON_ACCELERATOR,
) -> DeviceMemory:
    """Bytes per device of a training step (formulas: see the module).

    Args:
        student: its parameters are trained.
        teacher: None: nobody teaches.
        first_weights: whether the weights of step 0 are kept.
    """
    count, tokens, recompute = count_params(student), way.sequences * context, way.recompute
    shards = world if way.sharding == "fsdp" else 1
    outside, block = count.embedding + count.head, count.non_embedding / student.layers
    precision, size = (Precision.BF16, 2.0) if place.half else (Precision.FP32, 4.0)
    layers = training_memory(student, sequences=way.sequences, context=context, precision=precision).activations
    one, last = layers / student.layers, 3 * size * tokens * student.width
    inputs = size * tokens * student.layers * student.width
    saved = inputs + last if recompute else layers + last
    rows = min(tokens, max(256, place.logits // student.vocab))
    taught = teacher is not None
    in_block = min(place.block_logits, rows * student.vocab)
    logits = rows * student.vocab * (4 * (1 + taught) + (2 if place.half else 0)) + in_block * 4 * (1 + taught)
    loss = (4.0 + place.product) * student.vocab * student.width + 6 * tokens * student.width + logits
    states, gradients = 12 * count.total / shards, 4 * count.total / shards
    # the weights that are whole, and what else there is: at the loss, in the last layer's backward pass, at its end
    if shards > 1:
        gathered, handed_on = size * outside, size * student.vocab * student.width
        at_loss = (saved, loss + size * block)
        scaled = place.hand_on * student.vocab * student.width + 8 * tokens * student.width
        after_loss = (saved, scaled + size * block)
        in_backward = (saved + one if recompute else saved, handed_on + (3 * size + 4) * block)
        at_end = (one, gradients + (size + 4) * outside)
        activations, rest = max(at_loss, after_loss, in_backward, at_end, key=sum)
    else:
        gathered = 2.0 * count.non_embedding if place.half else 0.0
        in_backward = (saved + one if recompute else saved, 4.0 * student.vocab * student.width)
        at_end = (one, 0.0 if world > 1 or way.accumulates else gradients)
        # the noise scale of one process keeps a copy beside what accumulates (train/metering.py)
        states += (gradients - at_end[1]) * (1 + (world == 1))
        activations, rest = max((saved, loss), in_backward, at_end, key=sum)
    return DeviceMemory(
        states=states,
        first_weights=4 * count.total / shards if first_weights else 0.0,
        gathered=gathered,
        teacher=0.0 if teacher is None else _teacher_bytes(teacher, shards, tokens, place.teacher),
        activations=activations,
        loss=rest,
    )


def _teacher_bytes(teacher: Architecture, shards: int, tokens: int, size: float) -> float:
    """Its weights and the hidden states that it hands on; it is at work when nothing of the student is."""
    count = count_params(teacher)
    outside = count.embedding + count.head
    return size * ((count.total - outside) / shards + outside + tokens * teacher.width)


def propose(
    student: CountedModel,
    teacher: CountedModel | None,
    devices: Devices,
    *,
    tokens: float,
    batch_tokens: float | None = None,
    mfu: float | None = None,
    price_per_hour: float | None = None,
) -> list[DeviceLayout]:
    """Layouts that fit, the fastest first (by the geometric middle of their range).

    Args:
        student: what is trained, at its context.
        batch_tokens: of a step; None: one micro-batch on every device.
        mfu: utilisation instead of the preset's range.
        price_per_hour: of a device, instead of the preset's.

    Raises:
        ConfigError: not even one sequence fits, with everything sharded and recomputed; or devices that cannot share
            the batch.
    """
    arch = as_architecture(student.shape)
    context, world = arch.context, devices.count
    share = None if batch_tokens is None else batch_tokens / context / world
    if batch_tokens is not None and share is not None and share < 1:
        raise ConfigError(
            f"--batch {batch_tokens:,.0f}: {batch_tokens / context:.1f} sequences of {context} cannot be shared by "
            f"{world} devices, which take one each at least. Give a larger batch, or fewer devices"
        )
    taught_by = None if teacher is None else as_architecture(teacher.shape)
    memory = {way: device_memory(arch, taught_by, way, world=world, context=context) for way in _ways(world, share)}
    room = ROOM * devices.kind.memory_bytes
    asked: dict[str, Any] = {"tokens": tokens, "share": share, "mfu": mfu, "price_per_hour": price_per_hour}
    found = [
        _layout(way, needed, student, teacher, devices, **asked)
        for way, needed in memory.items()
        if needed.total <= room
    ]
    if not found:
        least = min(needed.total for needed in memory.values())
        raise ConfigError(
            f"{world} x {devices.kind.name}: one sequence of {context} tokens takes {least / 1e9:.0f} GB of the "
            f"{devices.kind.memory_bytes / 1e9:.0f} of a device, sharded and recomputed. More devices, a shorter "
            "--context, a smaller teacher, or its targets stored once (distillaw cache build)"
        )
    return sorted(found, key=lambda one: (-one.tokens_per_second[0] * one.tokens_per_second[1], one.memory.total))


def _ways(world: int, share: float | None) -> Iterator[LayoutChoice]:
    """All that may be tried: micro-batches in powers of two, up to a device's share of the batch."""
    for sharding in ("ddp", "fsdp") if world > 1 else ("ddp",):
        for recompute in (False, True):
            sequences = 1
            while sequences <= min(MOST_SEQUENCES, share or MOST_SEQUENCES):
                yield LayoutChoice(sharding, recompute, sequences, share is not None and round(share / sequences) > 1)
                sequences *= 2


def _layout(
    way: LayoutChoice,
    memory: DeviceMemory,
    student: CountedModel,
    teacher: CountedModel | None,
    devices: Devices,
    *,
    tokens: float,
    share: float | None,
    mfu: float | None,
    price_per_hour: float | None,
) -> DeviceLayout:
    """Time and money of one way; `share`: sequences of a step for one device, or None for one micro-batch."""
    kind, world = devices.kind, devices.count
    context = as_architecture(student.shape).context
    accumulation = 1 if share is None else max(1, round(share / way.sequences))
    model = 3 * student.forward + (teacher.forward if teacher else 0.0)
    work = model + (student.forward if way.recompute else 0.0)
    of_step = accumulation * way.sequences * context
    sent = _sent(student, teacher, way.sharding, accumulation) if world > 1 else 0.0
    network = kind.network_bytes_per_second if world > 8 else kind.link_bytes_per_second
    exposed = 0.0 if network is None else sent / network
    low, high = (mfu, mfu) if mfu is not None else (kind.mfu_low, kind.mfu_high)
    seconds = [
        join(work * of_step / (kind.peak_flop_per_second * used), exposed)
        for used, join in ((high, max), (low, lambda compute, network: compute + network))
    ]
    rates = tuple(world * of_step / each for each in reversed(seconds))
    hours = tuple(tokens / rate / SECONDS_PER_HOUR for rate in reversed(rates))
    price = kind.price_per_hour if price_per_hour is None else price_per_hour
    return DeviceLayout(
        sharding=way.sharding,
        sequences=way.sequences,
        accumulation=accumulation,
        recompute=way.recompute,
        memory=memory,
        mfu=tuple(rate * model / world / kind.peak_flop_per_second for rate in rates),  # type: ignore[arg-type]
        tokens_per_second=rates,  # type: ignore[arg-type]
        hours=hours,  # type: ignore[arg-type]
        price=None if price is None else tuple(world * each * price for each in hours),  # type: ignore[arg-type]
    )


def _sent(student: CountedModel, teacher: CountedModel | None, sharding: str, accumulation: int) -> float:
    """Bytes that a device takes in and gives out in a step: gradients in float32, weights that are gathered in bf16.

    FSDP gathers the student for each micro-batch's forward and backward pass and the teacher for its forward pass, and
    reduces gradients; whole models exchange gradients alone, once (a ring sends them twice).
    """
    count = student.params.total
    if sharding == "ddp":
        return 8.0 * count
    theirs = 0 if teacher is None else teacher.params.total - teacher.params.embedding - teacher.params.head
    return accumulation * (8.0 * count + 2.0 * theirs)
