"""Many small kernels launched as one: functions of tensors replayed from captured CUDA graphs, guarded.

A small model leaves a GPU idle because its kernels are done before the next one is launched. Here the students of one
shape are one batched model (train/stacked.py) whose forward and backward pass is captured once and replayed every step.
Clipping, optimiser, guard and logs stay outside, since they are each student's own; so do the teachers' forward passes.

What is replayed must first give, on the batch at hand, the losses and every gradient that each student computes alone;
if it does not, or cannot be captured, a warning says so and the students train one after another. Weights are read
where the optimiser changes them in place, so nothing has to be captured again after a step or a restored checkpoint.

State: on the CPU the same code runs without a graph and is tested so. No GPU was lent when it was written: capture and
replay themselves have never been run. `python -m benchmarks.engine.stacked --device cuda` checks and times them.
"""

import warnings
from collections.abc import Callable, Sequence

import torch

from distillaw.distill.losses import LossParts
from distillaw.errors import DistillawWarning
from distillaw.train.stacked import stacked_losses
from distillaw.train.student import Student
from distillaw.train.teaching import Signal

Tensors = list[torch.Tensor]
Run = Callable[[Tensors], Tensors]

HAVE_GRAPHS = frozenset({"cuda"})
"""Kinds of device whose stacks are replayed."""
WARM_UPS = 3
"""Runs before a capture, on another stream, so that libraries have made their choices (PyTorch's CUDA graphs notes)."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative difference, norm over norm, between a replayed and a plain output; a wrong kernel is far off."""


class Captured:
    """A pure function of tensors in two ways, `fast` recorded once per shape of its inputs, and `plain`.

    The outputs of a replay are the same tensors every time, overwritten by the next call.
    """

    def __init__(self, fast: Run, plain: Run, *, name: str, dtype: torch.dtype = torch.float32) -> None:
        self._fast, self._plain, self._name, self._tolerance = fast, plain, name, TOLERANCE[dtype]
        self._recorded: dict[tuple[torch.Size, ...], _Recording | None] = {}

    def __call__(self, inputs: Tensors) -> Tensors:
        """The outputs for inputs of any shapes; new ones are recorded."""
        key = tuple(x.shape for x in inputs)
        if key not in self._recorded:
            self._recorded[key] = self._record(inputs)
        recording = self._recorded[key]
        return self._plain(inputs) if recording is None else recording(inputs)

    def _record(self, inputs: Tensors) -> "_Recording | None":
        wanted = [x.clone() for x in self._plain(inputs)]
        try:
            recording = _Recording(self._fast, inputs)
            worst = max(map(_distance, recording(inputs), wanted))
        except RuntimeError as error:  # what cannot be captured, vmapped or held in memory
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            if worst <= self._tolerance:
                return recording
            reason = f"its outputs differ by {worst:.1e} from those computed one by one"
        warnings.warn(
            f"{self._name}: no captured graph ({reason}); computed one by one", DistillawWarning, stacklevel=2
        )
        return None


class _Recording:
    """A function on tensors that stay where they are."""

    def __init__(self, run: Run, inputs: Tensors) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._replay, self._outputs = _record(lambda: run(self._inputs), inputs[0].device)

    def __call__(self, inputs: Tensors) -> Tensors:
        for kept, new in zip(self._inputs, inputs, strict=True):
            kept.copy_(new)
        self._replay()
        return self._outputs


def _record(run: Callable[[], Tensors], device: torch.device) -> tuple[Callable[[], object], Tensors]:
    """(what fills the outputs again, the outputs); without CUDA the run itself, under the same contract."""
    if device.type != "cuda":
        outputs = [x.clone() for x in run()]
        return lambda: [kept.copy_(new) for kept, new in zip(outputs, run(), strict=True)], outputs
    side, here = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return graph.replay, outputs


def _distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm; infinite where it is not a number."""
    difference = (got.float() - wanted.float()).norm() / wanted.float().norm().clamp(min=1e-12)
    return float(difference.nan_to_num(nan=torch.inf))


class CapturedStacks:
    """Gradients of students of one shape on one batch, from one replayed graph per set of students."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], _Stack] = {}

    def accumulate(
        self, students: Sequence[Student], tokens_BT: torch.Tensor, signals: Sequence[Signal], num_tokens: int
    ) -> list[LossParts]:
        """Set the gradients of every student and give its loss.

        Args:
            students: of one shape and precision, each `can_stack`, without gradients yet.
            tokens_BT: the whole batch, context + 1 ids per sequence.
            signals: each student's own teacher's; not sparse targets, whose shapes change from batch to batch.
            num_tokens: tokens of the step.
        """
        key = tuple(map(id, students))
        if key not in self._made:
            for old in [old for old in self._made if set(old) & set(key)]:
                del self._made[old]  # another company: the old graph's memory goes first
            self._made[key] = _Stack(students, signals, num_tokens)
        return self._made[key].accumulate(tokens_BT, signals)


def can_capture(signal: Signal) -> bool:
    """Whether the shapes of a teacher's signal are those of the batch alone."""
    return signal.targets is None


class _Stack:
    """One set of students."""

    def __init__(self, students: Sequence[Student], signals: Sequence[Signal], num_tokens: int) -> None:
        self._students, self._num_tokens = students, num_tokens
        self._heads = [signal.teacher_head for signal in signals]
        self._taught = [bool(_tensors(signal)) for signal in signals]
        self._parameters = [list(student.model.parameters()) for student in students]
        self._have: list[tuple[bool, bool]] = []
        dtype = torch.bfloat16 if students[0].recipe.precision == "bf16" else torch.float32
        self._run = Captured(self._fast, self._plain, name=f"a stack of {len(students)}", dtype=dtype)

    def accumulate(self, tokens_BT: torch.Tensor, signals: Sequence[Signal]) -> list[LossParts]:
        outputs = iter(self._run([tokens_BT, *(x for signal in signals for x in _tensors(signal))]))
        every = [
            LossParts(
                next(outputs),
                next(outputs) if taught else None,
                next(outputs) if read else None,
                next(outputs),
            )
            for taught, read in self._have
        ]
        for parameters in self._parameters:
            for parameter in parameters:
                parameter.grad = next(outputs)
        return every

    def _fast(self, inputs: Tensors) -> Tensors:
        tokens_BT, signals = inputs[0], self._signals(inputs)
        every = stacked_losses(self._students, tokens_BT, signals, self._num_tokens, trusted=True)
        return self._outputs(every)

    def _plain(self, inputs: Tensors) -> Tensors:
        tokens_BT, signals = inputs[0], self._signals(inputs)
        return self._outputs([
            student(tokens_BT, signal, self._num_tokens)
            for student, signal in zip(self._students, signals, strict=True)
        ])  # fmt: skip

    def _signals(self, inputs: Tensors) -> list[Signal]:
        """Each student's signal, from the inputs after the tokens."""
        rest, signals = iter(inputs[1:]), []
        for head, has_one in zip(self._heads, self._taught, strict=True):
            if head is not None:
                signals.append(Signal(teacher_hidden=next(rest), teacher_head=head))
            else:
                signals.append(Signal(teacher_logits=next(rest)) if has_one else Signal())
        return signals

    def _outputs(self, every: list[LossParts]) -> Tensors:
        """Losses and their parts, then all gradients."""
        self._have = [(parts.distillation is not None, parts.next_token is not None) for parts in every]
        flat = [p for parameters in self._parameters for p in parameters]
        gradients = torch.autograd.grad([parts.total for parts in every], flat)
        values = [value.detach() for parts in every for value in parts if value is not None]
        # laid out as their parameters, which `backward` sees to and the fused optimiser takes for granted
        return values + [gradient.contiguous() for gradient in gradients]


def _tensors(signal: Signal) -> Tensors:
    return [x for x in (signal.teacher_hidden, signal.teacher_logits) if x is not None]
