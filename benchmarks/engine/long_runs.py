"""What long runs pay for: the stop of a step at a checkpoint, plain and in a thread; a step with documents apart.

    python -m benchmarks.engine.long_runs --out benchmarks/results/async_checkpoints.json
    python -m benchmarks.engine.long_runs --masks --out benchmarks/results/document_mask.json

The engine's own runs on the package's text, one thread of torch. A stop is the time in which the training thread does
nothing but save, the median of a run that saves as often as it can: wall seconds, and seconds of its CPU, which a
loaded machine changes less. Both ways train the same run, and its losses must be equal. Steps with and without the mask
alternate; seconds of CPU.
"""

import argparse
import math
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.result_file import save, typed
from benchmarks.trunks import planned_trunk
from distillaw.data.prepare import DataSpec, prepare_data
from distillaw.runs.places import claim_folder
from distillaw.runs.spec import Recipe, TrunkSpec
from distillaw.runs.store import StudyFolder
from distillaw.train import loop
from distillaw.train.checkpoint import Background
from distillaw.train.group import TrunkGroup
from distillaw.train.optim import RateSchedule

SIZES = {"10M": 16, "50M": 9}
"""Parameters -> steps."""
BATCH, CONTEXT = 128, 128
MASKED = {"context": 512, "batch_tokens": 4096, "params": "1M", "rounds": 5}
DOCUMENT = 1200
"""Characters of a document where documents are kept apart: one or two end in a window."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", action="store_true", help="steps with documents apart, instead of checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[loop.CHECKPOINT_SECONDS] = "0"
    with tempfile.TemporaryDirectory() as folder:
        data = DataSpec(vocab_size=4096, validation_documents=20, validation_tokens_per_document=96)
        data = replace(data, max_document_chars=DOCUMENT if options.masks else 0)
        home = Path(folder) / "text"
        claim_folder(home)
        text = {"vocab_size": 4096, "data": data, "data_hash": prepare_data(data, home / "data").data_hash}

        def study(name: str) -> StudyFolder:
            made = StudyFolder(Path(folder) / name)
            claim_folder(made.path)
            made.data.symlink_to(home / "data")
            return made

        if options.masks:
            recipe = Recipe(context=MASKED["context"], warmup_tokens=MASKED["batch_tokens"])
            how = {"batch_tokens": MASKED["batch_tokens"], "tokens": 20 * MASKED["batch_tokens"], "training": recipe}
            spec = planned_trunk(MASKED["params"], rate=1e-3, **how, **text)
            save(options.out, typed(), **_masked(study("mask"), spec))
            return
        saving = []
        for size, steps in SIZES.items():
            how = {"batch_tokens": BATCH, "tokens": BATCH * steps}
            recipe = Recipe(context=CONTEXT, warmup_tokens=BATCH)
            spec = planned_trunk(size, rate=1e-3, training=recipe, **how, **text)
            plain, thread = (_saved(study(f"{size}-{way}"), spec, steps, in_thread=way) for way in (False, True))
            assert plain.pop("losses") == thread.pop("losses"), "another run"
            saving.append({"params": spec.total_params, "steps": steps, "plain": plain, "thread": thread})
            print(saving[-1], flush=True)
    save(options.out, typed(), batch_tokens=BATCH, checkpoints=saving)


def _saved(study: StudyFolder, spec: TrunkSpec, steps: int, *, in_thread: bool) -> dict[str, object]:
    """A run with a checkpoint after every step (in a thread: whenever none is being written): how long each held it."""
    spec = replace(spec, recipe=replace(spec.recipe, async_checkpoints=in_thread))
    group, home = TrunkGroup([spec], study), study.trunk(spec.trunk_id)
    schedule = RateSchedule(warmup_steps=1, branch_step=steps, total_steps=steps + 1)
    run = group.student_run(group.trainer(spec), schedule, until=steps, home=home, identity=spec.trunk_id)
    losses: list[float] = []
    stops: list[tuple[float, float]] = []
    write = loop.StudentRun.save

    def timed(run: loop.StudentRun, background: Background | None = None) -> None:
        began, spent = time.perf_counter(), time.thread_time()
        write(run, background)
        stops.append((time.perf_counter() - began, time.thread_time() - spent))

    wall, cpu = time.perf_counter(), time.process_time()
    with mock.patch.object(loop, "SAVING_SHARE", math.inf), mock.patch.object(loop.StudentRun, "save", timed):
        loop.advance([run], group.feed, report=lambda tokens, loss: losses.append(loss))
    stopped, busy = np.median(np.array(stops), axis=0)
    whole = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return {"stop_seconds": stopped, "stop_cpu": busy, "checkpoints": len(stops), **whole, "losses": losses}


def _masked(study: StudyFolder, spec: TrunkSpec) -> dict[str, object]:
    """Seconds of CPU of forward and backward passes, windows seen whole and documents apart."""
    found: dict[bool, list[float]] = {False: [], True: []}
    made = {}
    for mask in found:
        own = replace(spec, recipe=replace(spec.recipe, document_mask=mask))
        group = TrunkGroup([own], study)
        made[mask] = group, group.trainer(own), group.teaching(own).source
    for step in range(1 + MASKED["rounds"]):
        for mask, (group, trainer, source) in made.items():
            began = time.process_time()
            for tokens, windows, last in group.feed.batches(step):
                trainer.accumulate(tokens, source.signal(tokens, windows), last=last)
            trainer.update(1e-3)
            found[mask].append(time.process_time() - began)
    whole, apart = (float(np.median(found[mask][1:])) for mask in (False, True))
    documents = float((group.feed.order.batch(0, 64)[:, :-1] == 0).sum() / 64)
    return {"params": spec.params, **MASKED, "ends_per_window": documents, "whole_cpu": whole, "apart_cpu": apart}


if __name__ == "__main__":
    main()
