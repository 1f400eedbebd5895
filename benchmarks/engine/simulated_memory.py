"""Bytes of one device in a training step of any world size, simulated: our own step on fake tensors, no memory spent.

A process group that sends nothing (torch's `fake` backend) stands for all ranks; torch's trackers of memory watch the
real student, teacher, loss and FSDP2. What `distillaw cost --devices` computes by formula is held against it.

    python -m benchmarks.engine.simulated_memory        # 8B to 1B, 32B to 3B, 70B to 8B at 8, 64, 512 devices
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from unittest import mock

import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaForCausalLM

from distillaw.accounting.architecture import as_architecture
from distillaw.accounting.layout import Chunks, Way, device_memory
from distillaw.distill.losses import BLOCK_ENTRIES, CHUNK_ENTRIES
from distillaw.models.fresh import llama_config
from distillaw.models.parallel import Ranks
from distillaw.models.teacher import decoder_blocks, head_of, hidden_states, shard_frozen
from distillaw.runs.spec import Recipe
from distillaw.shapes import Shape
from distillaw.train.optim import fill_moments
from distillaw.train.student import Signal, Student

SHAPES = {
    "1B": Shape(
        layers=16, width=2048, ffn=8192, heads=32, kv_heads=8, head_dim=64, vocab=128_256, context=2048
    ),
    "3B": Shape(
        layers=28, width=3072, ffn=8192, heads=24, kv_heads=8, head_dim=128, vocab=128_256, context=2048
    ),
    "8B": Shape(
        layers=32, width=4096, ffn=14_336, heads=32, kv_heads=8, head_dim=128, vocab=128_256, context=2048
    ),
    "32B": Shape(
        layers=64, width=5120, ffn=25_600, heads=64, kv_heads=8, head_dim=128, vocab=128_256, context=2048
    ),
    "70B": Shape(
        layers=80, width=8192, ffn=28_672, heads=64, kv_heads=8, head_dim=128, vocab=128_256, context=2048
    ),
}
"""Llama's shapes of these sizes; 32B is Qwen's with Llama's vocabulary."""


@contextlib.contextmanager
def _fake_ranks(world: int) -> Iterator[None]:
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    mesh = distributed.init_device_mesh("cpu", (world,))  # real, so made before tensors are fake
    module = "torch.distributed.fsdp._fully_shard._fully_shard._init_default_mesh"
    try:
        with (
            mock.patch(module, lambda *_, **__: mesh),
            mock.patch.object(torch.Tensor, "item", lambda self: 1.0),
            mock.patch.object(LlamaForCausalLM, "to", lambda self, *_, **__: self),
            FakeTensorMode(allow_non_fake_inputs=True),
        ):
            yield
    finally:
        distributed.destroy_process_group()


def _model(shape: Shape, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.set_default_dtype(dtype)
    try:
        return LlamaForCausalLM(llama_config(shape))
    finally:
        torch.set_default_dtype(torch.float32)


def simulated_peak(
    student: Shape, teacher: Shape | None, *, world: int, sequences: int, recompute: bool
) -> float:
    """Bytes at the peak of the second step on one of `world` devices, everything sharded."""
    context = student.context
    with _fake_ranks(world):
        ranks = Ranks(rank=0, world=world, sharding="fsdp")
        taught_by = None
        if teacher is not None:
            taught_by = shard_frozen(_model(teacher, torch.bfloat16), ranks)
        model = _model(student, torch.float32).train()
        recipe = Recipe(context=context, precision="bf16", checkpoint_activations=recompute)
        whole = Student(model, recipe)
        whole.loss = functools.partial(whole.loss, trusted=True)  # ids of fake tensors cannot be looked at
        wrapped = ranks.wrap(whole, decoder_blocks(model), half=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
        fill_moments(optimizer)
        tracker = FSDPMemTracker(wrapped, optimizer)
        if taught_by is not None:
            tracker.track_external(taught_by)
        with tracker:
            for step in range(2):
                if step:
                    tracker.reset_mod_stats()
                tokens, signal = torch.zeros(sequences, context + 1, dtype=torch.long), Signal()
                if taught_by is not None:
                    with torch.no_grad():
                        hidden = hidden_states(taught_by, tokens[:, :-1])
                    signal = Signal(teacher_hidden=hidden, teacher_head=head_of(taught_by))
                parts = wrapped(tokens, signal, sequences * context)
                parts.total.backward()
                optimizer.step()
                optimizer.zero_grad()
                del parts, signal
        (snapshot,) = tracker.get_tracker_snapshot("peak").values()
        return float(snapshot["Total"])


def formula(student: Shape, teacher: Shape | None, *, world: int, sequences: int, recompute: bool) -> float:
    """The same by accounting/layout.py, with the chunks of the loss as on the CPU that the simulation runs on."""
    return device_memory(
        as_architecture(student),
        None if teacher is None else as_architecture(teacher),
        Way("fsdp", recompute, sequences),
        world=world,
        context=student.context,
        chunks=Chunks(CHUNK_ENTRIES["cpu"], BLOCK_ENTRIES["cpu"], hand_on=6.0),
    ).total


def main(worlds: list[int]) -> None:
    """The table of docs/accounting.md."""
    for teacher, student in (("8B", "1B"), ("32B", "3B"), ("70B", "8B")):
        for world in worlds:
            how = {"world": world, "sequences": 1, "recompute": False}
            found = [f(SHAPES[student], SHAPES[teacher], **how) / 1e9 for f in (simulated_peak, formula)]
            print(
                f"{teacher} to {student}, {world:3}: simulated {found[0]:.1f} GB, formula {found[1]:.1f}, "
                f"{found[1] / found[0] - 1:+.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [8, 64, 512])
