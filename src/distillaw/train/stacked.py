"""Students of one shape as one batched model, and its many small kernels launched as one captured CUDA graph.

What a small model costs is mostly the launching of its kernels. Here the weights of S students are stacked to
(S, ...) and the body of the first is mapped over them (`torch.func.vmap`), so that each kernel works for all S.
Everything else stays with the student: its head and loss (teacher, lambda, temperature), its clipping, its optimiser
and rate, its checkpoint. The stack is made anew in each pass and nothing is kept, so students may join, leave, diverge
or resume at any step, and a finished student is an ordinary run. Its numbers are those of the student trained alone up
to the order in which a batched product is summed (on the x86 CPU measured: the same bits). Where it is done unasked,
and what was measured: `STACKING_PAYS`.

On CUDA forward and backward pass of a stack are captured once and replayed every step, guarded: what is replayed must
first give, on the batch at hand, the losses and every gradient that each student computes alone; if it does not, or
cannot be captured, a warning says so and the students train one after another. Weights are read where the optimiser
changes them in place, so nothing has to be captured again after a step or a restored checkpoint. On the CPU the same
code runs without a graph and is tested so. No GPU was lent when it was written: capture and replay themselves have
never been run. `python -m benchmarks.engine.stacked --device cuda` checks and times them.
Shape suffixes: S student, B sequence, T position, H width.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from distillaw.distill.losses import LossParts
from distillaw.errors import DistillawWarning
from distillaw.models.teacher import hidden_states
from distillaw.train.student import Signal, Student

if TYPE_CHECKING:
    from transformers import PreTrainedModel


STACKING_PAYS = frozenset({"cuda"})
"""Kinds of device on which students are stacked unasked.

Not "cpu": there it gains 10 % only with batches of 256 tokens and four students or more (0.88 to 1.36 times the tokens
per CPU-second, benchmarks/results/stacked.json); DISTILLAW_STACK=always asks for it. "cuda", with captured graphs, is
on the list because small kernels leave a GPU idle; DISTILLAW_STACK=never turns it off.
"""


def can_stack(student: torch.nn.Module) -> TypeGuard[Student]:
    """Whether a student can be part of a stack: in one process, dense, with activations kept and windows seen whole."""
    if not isinstance(student, Student) or student.routers is not None or student.end_of_text is not None:
        return False
    return not student.recipe.checkpoint_activations


def stacked_losses(
    students: Sequence[Student],
    tokens_BT: torch.Tensor,
    signals: Sequence[Signal],
    num_tokens: int,
    *,
    trusted: bool = False,
) -> list[LossParts]:
    """The loss of each student on the same sequences, as `Student.forward` gives it.

    Args:
        students: of one shape and precision, each `can_stack`.
        signals: each student's own teacher's.
        trusted: the ids are not looked at (`Student.loss`).
    """
    with students[0].precision(tokens_BT.device.type):
        hidden_SBTH = stacked_hidden([student.model for student in students], tokens_BT[:, :-1])
    return [
        student.loss(hidden_BTH, tokens_BT, signal, num_tokens, trusted=trusted)
        for student, hidden_BTH, signal in zip(students, hidden_SBTH.unbind(0), signals, strict=True)
    ]


def stacked_hidden(models: Sequence["PreTrainedModel"], input_ids_BT: torch.Tensor) -> torch.Tensor:
    """Last hidden states of each model, (S, B, T, H); gradients reach the weights of each."""
    first = models[0]
    buffers = dict(first.named_buffers())
    bodies = [dict(model.base_model.named_parameters(prefix=model.base_model_prefix)) for model in models]
    stacked = {name: torch.stack([body[name] for body in bodies]) for name in bodies[0]}
    body = _Body(first)

    def one(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = {f"model.{name}": value for name, value in {**buffers, **weights}.items()}
        return functional_call(body, parts, (input_ids_BT,))

    with _FoldedAttention():
        return vmap(one, randomness="different")(stacked)


class _Body(torch.nn.Module):
    """`hidden_states` as a module, which `functional_call` asks for."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        return hidden_states(self.model, input_ids_BT)


class _FoldedAttention(TorchFunctionMode):
    """Inside `vmap`, fold the students into the sequences around attention: its kernels have no rule of their own."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.scaled_dot_product_attention:
            assert len(args) == 3, "transformers passes everything but query, key and value by name"
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                # transformers cannot look for packed sequences now and makes a mask; ours are never packed
                kwargs = {**(kwargs or {}), "attn_mask": None, "is_causal": True}
            return _Folded.apply(*args, kwargs)
        return func(*args, **(kwargs or {}))


class _Folded(torch.autograd.Function):
    """Attention over (S, B, heads, T, dim) as attention over (S B, heads, T, dim)."""

    @staticmethod
    def forward(*inputs):  # pyrefly: ignore[bad-override] - never without `vmap`
        """Refuse to be called outside `vmap`."""
        raise AssertionError("folded attention is for vmap alone")

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is kept: the fold is differentiated by autograd itself."""

    @staticmethod
    def vmap(info, in_dims, *args):
        """One call of the kernel for all students."""
        *tensors, options = args
        folded = [x.movedim(at, 0).flatten(0, 1) for x, at in zip(tensors, in_dims, strict=False)]
        out = functional.scaled_dot_product_attention(*folded, **options)
        return out.unflatten(0, (info.batch_size, -1)), 0


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
        self._made: dict[tuple[tuple[int, bool], ...], _Stack] = {}
        self._tokens = 0

    def accumulate(
        self, students: Sequence[Student], tokens_BT: torch.Tensor, signals: Sequence[Signal], num_tokens: int
    ) -> list[LossParts]:
        """Set the gradients of every student, which has none yet, and give its loss; arguments as of `stacked_losses`.

        Tokens are the whole batch; signals no sparse targets, whose shapes change from batch to batch.
        """
        if num_tokens != self._tokens:  # another batch: the graphs are of the one before
            self._made, self._tokens = {}, num_tokens
        # a student whose lessons have ended (`Recipe.distill_until`) needs another graph
        key = tuple((id(student), bool(_tensors(signal))) for student, signal in zip(students, signals, strict=True))
        if key not in self._made:
            for old in [old for old in self._made if dict(old).keys() & dict(key).keys()]:
                del self._made[old]  # another company: the old graph's memory goes first
            self._made[key] = _Stack(students, signals, num_tokens)
        return self._made[key].accumulate(tokens_BT, signals)


def can_capture(signal: Signal) -> bool:
    """Whether the shapes of a teacher's signal are those of the batch alone, and it weighs the same in each."""
    return signal.targets is None and signal.share == 1


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
            LossParts(next(outputs), next(outputs) if taught else None, next(outputs) if read else None, next(outputs))
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
        return self._outputs(
            [
                student(tokens_BT, signal, self._num_tokens)
                for student, signal in zip(self._students, signals, strict=True)
            ]
        )

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
