"""Bytes of one device in a training step of any world size, simulated: our own step on fake tensors, no memory spent.

A process group that sends nothing (torch's `fake` backend) stands for all ranks; torch's trackers of memory watch the
real student, teacher, loss and FSDP2. What `distillaw cost --devices` computes by formula is held against it.

    python -m benchmarks.engine.simulated_memory        # 8B to 1B, 32B to 3B, 70B to 8B at 8, 64, 512 devices
"""

import argparse
import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker, _FSDPRefType
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaForCausalLM

from benchmarks.result_file import save, typed
from distillaw.accounting.architecture import as_architecture
from distillaw.accounting.layout import LayoutChoice, device_memory, on_cpu
from distillaw.distill.losses import BLOCK_ENTRIES, CHUNK_ENTRIES
from distillaw.models.fresh import llama_config
from distillaw.models.parallel import Ranks
from distillaw.models.teacher import decoder_blocks, head_of, hidden_states, shard_frozen
from distillaw.runs.spec import Recipe
from distillaw.shapes import Shape
from distillaw.train.optim import fill_moments
from distillaw.train.student import Signal, Student

SHAPES = {
    "1B": Shape(layers=16, width=2048, ffn=8192, heads=32, kv_heads=8, head_dim=64, vocab=128_256, context=2048),
    "3B": Shape(layers=28, width=3072, ffn=8192, heads=24, kv_heads=8, head_dim=128, vocab=128_256, context=2048),
    "8B": Shape(layers=32, width=4096, ffn=14_336, heads=32, kv_heads=8, head_dim=128, vocab=128_256, context=2048),
    "32B": Shape(layers=64, width=5120, ffn=25_600, heads=64, kv_heads=8, head_dim=128, vocab=128_256, context=2048),
    "70B": Shape(layers=80, width=8192, ffn=28_672, heads=64, kv_heads=8, head_dim=128, vocab=128_256, context=2048),
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
            # fake positions cannot be looked at for packed sequences, and transformers would keep a mask and whole keys
            mock.patch("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None),
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


def simulated_peak(student: Shape, teacher: Shape | None, *, world: int, sequences: int, recompute: bool) -> float:
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
            # this tracker takes no model from outside; what no operation hands on as it is must be told to it
            for module in (taught_by.get_input_embeddings(), taught_by.get_output_embeddings()):
                tracker._update_and_maybe_create_winfos(module.weight, _FSDPRefType.INP)
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
        LayoutChoice("fsdp", recompute, sequences),
        world=world,
        context=student.context,
        place=on_cpu(CHUNK_ENTRIES["cpu"], BLOCK_ENTRIES["cpu"], half=True, teacher=2.0),
    ).total


def small() -> list[tuple[str, Shape, Shape | None, int, int]]:
    """Name, student, teacher, devices and sequences of cases that take seconds (tests/train/test_layout.py)."""
    student = Shape(layers=6, width=512, ffn=1408, heads=8, kv_heads=4, head_dim=64, vocab=8192, context=512)
    teacher = replace(student, layers=12, width=1024, ffn=2816, heads=16, kv_heads=8)
    return [
        ("26M of 158M", student, teacher, 64, 2),
        ("26M alone", student, None, 512, 2),
        ("26M alone", student, None, 64, 2),
    ]


def main() -> None:
    """The tables of docs/accounting.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devices", nargs="*", type=int, help="default: 8 64 512")
    parser.add_argument("--small", action="store_true", help="cases that take seconds instead")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    cases, rows = small() if asked.small else [], []
    for teacher, student in () if asked.small else (("8B", "1B"), ("32B", "3B"), ("70B", "8B")):
        for world in asked.devices or (8, 64, 512):
            cases.append((f"{teacher} to {student}", SHAPES[student], SHAPES[teacher], world, 1))
    known: dict[tuple[str, int], float] = {}
    if asked.out and asked.out.exists() and not asked.small:  # large cases take minutes each: a second run goes on
        known = {
            (row["case"], row["devices"]): row["simulated_GB"] for row in json.loads(asked.out.read_text())["rows"]
        }
    for name, student, teacher, world, sequences in cases:
        how = {"world": world, "sequences": sequences, "recompute": False}
        simulated = known.get((name, world)) or simulated_peak(student, teacher, **how) / 1e9
        found = [simulated, formula(student, teacher, **how) / 1e9]
        rows.append({"case": name, "devices": world, "simulated_GB": found[0], "formula_GB": found[1]})
        print(f"{name}, {world:3}: simulated {found[0]:.3f} GB, formula {found[1]:.3f}, {found[1] / found[0] - 1:+.1%}")
        if asked.out:
            save(asked.out, typed(), rows=rows)


if __name__ == "__main__":
    main()
