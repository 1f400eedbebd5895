"""A teacher beside its student, on each of two processes, against one process of each: steps, waiting, bytes a token.

    python -m benchmarks.engine.teacher_ranks --out benchmarks/results/teacher_ranks.json

`distil`'s own engine on the package's text, processes as torchrun makes them (gloo), one thread each; wall time, so the
machine must be idle. Rounds alternate. Every case trains the same batches; with two students each reads half.
"""

import argparse
import multiprocessing
import os
import socket
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.result_file import save, typed
from distillaw.data.prepare import DataSpec
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = ("distillaw.sweep.single", "transformers.models.llama.modeling_llama")
BATCH, STEPS, WARM, ROUNDS = 1024, 20, 4, 3
CASES = {"one process": (1, 0), "two, the teacher beside each": (2, 0), "one of each": (2, 1)}
"""Processes, and how many of them are the teacher's."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    CONTEXT.set_forkserver_preload(list(PRELOAD))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for student, teacher in (("0.3M", "1M"), ("0.3M", "5M")):
            spec = _prepared(Path(folder) / f"{student}-{teacher}", student, teacher)
            found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
            for round_ in range(ROUNDS):
                for name, (world, teachers) in CASES.items():
                    found[name].append(_run(spec, Path(folder) / f"{student}-{teacher}", world, teachers, round_))
            for name, facts in found.items():
                middle = {key: float(np.median([each[key] for each in facts])) for key in facts[0]}
                rows.append({"student": student, "teacher": teacher, "case": name, **middle})
                print(rows[-1], flush=True)
    save(options.out, typed(), batch_tokens=BATCH, steps=STEPS, rounds=ROUNDS, rows=rows)


def _prepared(home: Path, student: str, teacher: str) -> TrunkSpec:
    """A text, a teacher of two steps, and the student's trunk."""
    from benchmarks.trunks import planned_trunk
    from distillaw.data.prepare import prepare_data
    from distillaw.runs.places import claim_folder
    from distillaw.train.trunk import train_trunks

    claim_folder(home)
    data = DataSpec(validation_documents=20, validation_tokens_per_document=96, max_document_chars=5000)
    store = prepare_data(data, home / "data")
    text = {"vocab_size": data.vocab_size, "data_hash": store.data_hash, "data": data}
    how = {"batch_tokens": BATCH, "tokens": BATCH * STEPS, "training": Recipe(warmup_tokens=BATCH)}
    pupil, tutor = (planned_trunk(size, rate=1e-3, **how, **text) for size in (student, teacher))
    taught_by = replace(tutor, role="teacher", split="teacher")
    train_trunks({taught_by: [2 * BATCH]}, StudyFolder(home))
    return replace(pupil, teacher_run=taught_by.run_id(2 * BATCH))


def _run(spec: TrunkSpec, home: Path, world: int, teachers: int, round_: int) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, pipes = [], []
    spec = replace(spec, label=f"{world}-{teachers}-{round_}")
    for rank in range(world):
        here, there = CONTEXT.Pipe(duplex=False)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        own = {**shared, "LOCAL_WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = CONTEXT.Process(target=_rank, args=(there, own if world > 1 else {}, spec, home, teachers))
        process.start()
        there.close()  # or a rank that dies would be waited for
        processes.append(process)
        pipes.append(here)
    facts = pipes[0].recv()
    for process in processes:
        process.join()
    return facts


def _rank(pipe: Connection, environment: dict[str, str], spec: TrunkSpec, home: Path, teachers: int) -> None:
    os.environ |= environment
    import torch

    from distillaw.models.parallel import join_ranks
    from distillaw.models.teacher import serve_teachers
    from distillaw.runs.execution import Execution
    from distillaw.train.trunk import train_trunks

    torch.set_num_threads(1)
    with join_ranks(Execution(teacher_processes=teachers)) as ranks:
        if ranks.link and ranks.link.is_teacher:
            serve_teachers(ranks)
            return
        seen: list[tuple[float, float]] = []

        def report(tokens: int, loss: float) -> None:
            seen.append((time.perf_counter(), ranks.link.waited if ranks.link else 0.0))

        train_trunks({spec: [BATCH * STEPS]}, StudyFolder(home), ranks=ranks, report=report)
        when, waited = np.array(seen[WARM - 1 :]).T
        width, vocab = _sizes(home, spec)
        pipe.send(
            {
                "tokens_per_second": BATCH * (len(when) - 1) / (when[-1] - when[0]),
                "waiting_share": (waited[-1] - waited[0]) / (when[-1] - when[0]),
                "bytes_per_token": 4 * width + 8 if ranks.link else 0,
                "bytes_of_logits": 4 * vocab,
            }
        )


def _sizes(home: Path, spec: TrunkSpec) -> tuple[int, int]:
    from distillaw.models.source import locate

    config = locate(StudyFolder(home).run(str(spec.teacher_run)).path).config()
    return config.hidden_size, config.vocab_size


if __name__ == "__main__":
    main()
