"""Whole training steps of the engine with random weights: speed, model FLOP utilisation, memory; alone and under FSDP.

The published figures (one H200, 3.2B student of an 8B teacher, 8k context: 58.3 GB and 304 TFLOP/s with a loss all
fused, 61.8 GB and 335 with chunks in the forward pass) are those that this project was set as a mark; they seem to be
of arXiv 2608.03796, whose teacher is cached top-k logits and not in memory. So there is a cell with stored targets.
"""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import distributed
from transformers import LlamaForCausalLM

from benchmarks.engine.simulated_memory import SHAPES
from benchmarks.gpu.place import Cells, Place, Row, SkippedError
from benchmarks.trunks import trunk_of
from distillaw.accounting.architecture import as_architecture
from distillaw.accounting.layout import ROOM, DeviceMemory, LayoutChoice, device_memory
from distillaw.distill.heads import SparseTargets
from distillaw.models.fresh import llama_config
from distillaw.models.parallel import Ranks
from distillaw.models.teacher import decoder_blocks, head_of, hidden_states, model_flops
from distillaw.runs.spec import Recipe
from distillaw.shapes import Shape
from distillaw.train.checkpoint import TrainState
from distillaw.train.loop import StepFacts, Trainer
from distillaw.train.metering import matmul_rate
from distillaw.train.optim import build_optimizer
from distillaw.train.student import Signal, Student

STUDENT_300M = Shape(layers=20, width=1024, ffn=4096, heads=16, kv_heads=4, head_dim=64, vocab=128_256, context=2048)
"""304M parameters besides embedding and head, with Llama 3's vocabulary."""
LONG = 8192
PUBLISHED = {"all fused": {"GB": 58.3, "TFLOP/s": 304}, "chunked in the forward pass": {"GB": 61.8, "TFLOP/s": 335}}
STORED = 64
"""Targets per token, where the teacher is stored."""


def small_setting(place: Place) -> Row:
    """A student and a teacher whose step float64 takes in seconds, on a CPU."""
    size = (4, 256, 704, 4, 2, 64, 4096, 256) if place.on_gpu else (2, 32, 64, 2, 2, 16, 300, 16)
    names = ("layers", "width", "ffn", "heads", "kv_heads", "head_dim", "vocab", "context")
    shape = Shape(**dict(zip(names, size, strict=True)))
    return {"student": shape, "teacher": shape, "sequences": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train."""

    student: Shape
    teacher: Shape | None = None
    sequences: int = 8
    precision: str = "bf16"
    """Of products; fp64 of everything."""
    weights: torch.dtype = torch.float32
    """Of the student's weights, gradients and moments."""
    recompute: bool = False
    stored: bool = False
    """Whether targets stand for the teacher."""
    sharded: bool = False
    """By FSDP2, over this process alone."""

    def foreseen(self) -> DeviceMemory:
        """Bytes of a step by our own formula; weights in bfloat16 need half the states and no copy."""
        memory = device_memory(
            as_architecture(self.student),
            None if self.teacher is None else as_architecture(self.teacher),
            LayoutChoice("ddp", self.recompute, self.sequences),
            world=1,
            context=self.student.context,
        )
        half = replace(memory, states=memory.states / 2, gathered=0.0)
        return memory if self.weights == torch.float32 else half

    def tiny(self) -> "Setting":
        """The same in a second on a CPU."""
        small = {"layers": 2, "width": 32, "ffn": 64, "heads": 4, "kv_heads": 2, "head_dim": 8}
        shapes = [shape and replace(shape, **small, vocab=300, context=16) for shape in (self.student, self.teacher)]
        return replace(self, student=shapes[0], teacher=shapes[1], sequences=2)  # type: ignore[arg-type]


class Task:
    """A student and perhaps its teacher on one device, and one batch of random tokens."""

    def __init__(self, device: torch.device, setting: Setting) -> None:
        torch.manual_seed(0)
        student, teacher, precision = setting.student, setting.teacher, setting.precision
        half = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}[precision]
        weights = half if precision == "fp64" else setting.weights
        self.teacher = None if teacher is None else _model(teacher, device, half).eval().requires_grad_(False)
        self.model = _model(student, device, weights).train()
        self.flops = 3 * model_flops(self.model, student.context)
        self.flops += 0.0 if self.teacher is None else model_flops(self.teacher, student.context)
        recipe = Recipe(
            context=student.context,
            head_dim=student.head_dim,
            precision="bf16" if precision == "bf16" and weights == torch.float32 else "fp32",
            checkpoint_activations=setting.recompute,
        )
        spec = trunk_of(student, recipe, rate=1e-4, batch_tokens=setting.sequences * student.context, label="gpu")
        whole: torch.nn.Module = Student(self.model, recipe)
        if setting.sharded:  # `wrap` shards for two and more; here the group has one process, and nothing is averaged
            two = Ranks(world=2, sharding="fsdp", device=device)
            whole = two.wrap(whole, decoder_blocks(self.model), half=precision == "bf16")
        state = TrainState(self.model, build_optimizer(self.model, width=None, weight_decay=0.0))
        self._trainer = Trainer(spec=spec, student=whole, state=state, ranks=Ranks(device=device))
        shape, random = (setting.sequences, student.context + 1), torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, student.vocab, shape, generator=random).to(device)
        self._targets = _stored(setting, device) if setting.stored else None

    def accumulate(self) -> None:
        """The teacher's forward pass, the student's both."""
        signal = Signal(targets=self._targets) if self._targets is not None else Signal()
        if self.teacher is not None:
            with torch.no_grad():
                hidden = hidden_states(self.teacher, self.tokens[:, :-1])
            signal = Signal(teacher_hidden=hidden, teacher_head=head_of(self.teacher))
        self._trainer.accumulate(self.tokens, signal, last=True)

    def update(self) -> StepFacts:
        """Clipping and AdamW."""
        return self._trainer.update(1e-4)

    def step(self) -> StepFacts:
        """All of it."""
        self.accumulate()
        return self.update()


def _model(shape: Shape, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlamaForCausalLM(llama_config(shape))
    finally:
        torch.set_default_dtype(torch.float32)


def _stored(setting: Setting, device: torch.device) -> SparseTargets:
    """Random targets, unlike tokens at each position."""
    random, vocab = torch.Generator().manual_seed(1), setting.student.vocab
    positions, kept = (setting.sequences, setting.student.context), min(STORED, setting.student.vocab)
    ids = torch.randint(0, vocab, (*positions, 1), generator=random) + torch.arange(kept) * (vocab // kept)
    weights = torch.rand(*positions, kept, generator=random).softmax(-1)
    return SparseTargets(ids=ids.remainder(vocab), weights=weights).to(device)


def run(place: Place, setting: Setting, **facts: object) -> Row:
    """Figures of a setting's steps; refused where our own formula says that it does not fit."""
    memory = setting.foreseen()
    if memory.total > ROOM * place.memory:
        raise SkippedError(
            f"{memory.total / 1e9:.1f} GB by our own formula (states {memory.states / 1e9:.1f}, teacher "
            f"{memory.teacher / 1e9:.1f}, activations {memory.activations / 1e9:.1f}, loss {memory.loss / 1e9:.1f}), "
            f"and {ROOM:.0%} of this device are {ROOM * place.memory / 1e9:.1f} GB"
        )
    setting = setting.tiny() if place.is_rehearsal else setting
    with _group(place) if setting.sharded else contextlib.nullcontext():
        task = Task(place.device, setting)
        few = place.is_rehearsal
        row = place.measure(task.step, repeats=2 if few else 10, warm_ups=1 if few else 3)
        row["loss"] = task.step().loss
    rate = task.tokens[:, 1:].numel() / float(row["seconds"])  # type: ignore[arg-type]
    product = matmul_rate(place.device, "bf16" if place.on_gpu else "fp32")
    row |= {
        "tokens_per_second": rate,
        "TFLOP_per_second": rate * task.flops / 1e12,
        "mfu_of_measured_product": rate * task.flops / product,
        "bytes_foreseen": memory.total,
        **facts,
    }
    if place.preset is not None:
        row["mfu_of_printed_peak"] = rate * task.flops / place.preset.peak_flop_per_second
    if place.on_gpu:
        row["foreseen_over_measured"] = memory.total / float(row["bytes_at_peak"])  # type: ignore[arg-type]
    del task
    gc.collect()
    torch.cuda.empty_cache()
    return row


@contextlib.contextmanager
def _group(place: Place) -> Iterator[None]:
    """A process group of this process alone."""
    backend = "nccl" if place.on_gpu else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


BESIDE = Setting(student=STUDENT_300M, teacher=SHAPES["1B"])


def _of(place: Place, settings: dict[str, Setting], **facts: object) -> Cells:
    return {name: partial(run, place, setting, **facts) for name, setting in settings.items()}


def steps(place: Place) -> Cells:
    """1B teaches 300M, 16k tokens a step."""
    settings = {
        "300M of 1B": BESIDE,
        "300M of 1B, recomputed": replace(BESIDE, recompute=True),
        "300M of 1B, 64 stored targets": replace(BESIDE, teacher=None, stored=True),
        "300M alone": replace(BESIDE, teacher=None),
        "300M of 1B, 32 sequences": replace(BESIDE, sequences=32),
    }
    return _of(place, settings)


def published(place: Place) -> Cells:
    """8B teaches 3.2B at 8k context, one sequence; each way that fits."""
    student, teacher = replace(SHAPES["3B"], context=LONG, tied=True), replace(SHAPES["8B"], context=LONG)
    beside = Setting(student=student, teacher=teacher, sequences=1)
    stored, half = replace(beside, teacher=None, stored=True), torch.bfloat16
    settings = {
        "stored targets, float32 states, recomputed": replace(stored, recompute=True),
        "teacher beside, float32 states, recomputed": replace(beside, recompute=True),
        "teacher beside, float32 states": beside,
        "teacher beside, bfloat16 states, recomputed": replace(beside, recompute=True, weights=half),
        "stored targets, bfloat16 states": replace(stored, weights=half),
    }
    return _of(place, settings, published=PUBLISHED)


def sharded(place: Place) -> Cells:
    """FSDP2 with one process: what sharding itself costs, and whether it computes the same."""
    settings = {"300M of 1B, whole": BESIDE, "300M of 1B, FSDP": replace(BESIDE, sharded=True)}
    return {"same numbers": partial(_same_sharded, place), **_of(place, settings)}


def _same_sharded(place: Place) -> Row:
    whole, found = Setting(**small_setting(place), precision="fp32"), []  # type: ignore[arg-type]
    for setting in (whole, replace(whole, sharded=True)):
        with _group(place) if setting.sharded else contextlib.nullcontext():
            task = Task(place.device, setting)
            found.append([task.step() for _ in range(3)])
    pairs = list(zip(*found, strict=True))
    row = {key: max(abs(getattr(a, key) / getattr(b, key) - 1) for a, b in pairs) for key in ("loss", "grad_norm")}
    return {**row, "bound": 1e-4, "is_right": max(row.values()) <= 1e-4}
