"""`kill -9` of one rank, or of all at once, at random moments: nothing is lost and nothing changes.

A killed job is started again with the same command until it is done; weights, loss and log are then those of the
uninterrupted run, bit for bit. Until then checkpoints come every 50 ms, so that many kills meet one half written.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import ranked
import torch
from safetensors.torch import load_file

from distillaw.errors import RunError
from tiny import RUN

SPEC = 'name = "killed"' + RUN + "cooldown = 0.4\n"


def _file(folder: Path, tokens: int) -> Path:
    path = folder / "killed.toml"
    path.write_text(SPEC.format(tokens=tokens))
    return path


def _start(file, folder, world, sharding, *, often=True):
    environment = {"DISTILLAW_CHECKPOINT_SECONDS": "0.05"} if often else None
    return ranked.start(world, ranked.run_file, file, folder, sharding, sharding=None, environment=environment)


def _finish(file, folder, world, sharding) -> float:
    """Run a job to its end, with checkpoints as users have them; seconds it took."""
    began = time.monotonic()
    processes, pipes = _start(file, folder, world, sharding, often=False)
    answers = [pipe.recv() for pipe in pipes]
    ranked.end(processes)
    assert answers == [None] * world, answers
    return time.monotonic() - began


def _outcome(folder):
    """What must not change: (weights, loss, trajectory)."""
    (run,) = (folder / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = json.loads((run / "result.json").read_text())["loss"]
    return load_file(run / "model.safetensors"), loss, [(r["step"], r["loss"], r["grad_norm"]) for r in rows]


def _kill(processes, moments: random.Random) -> str | None:
    """Kill one rank or the whole job; says which, or None if the job had ended before."""
    one = len(processes) > 1 and moments.random() < 0.5
    victims = [moments.choice(processes)] if one else processes
    alive = all(process.is_alive() for process in processes)
    for process in victims:
        process.kill()
    ranked.end(processes)
    if not alive or any(process.exitcode != -9 for process in victims):
        return None
    return "one rank" if one else "the whole job"


def _killed_until_done(file, folder, world, sharding, kills, moments, longest) -> dict[str, int]:
    """Kill a job `kills` times, starting it over each time, then let it finish; how often which was killed."""
    counts: dict[str, int] = {}
    for _ in range(kills):
        processes, pipes = _start(file, folder, world, sharding)
        pipes[0].poll(moments.uniform(0, longest))
        killed = _kill(processes, moments)
        if killed is None:
            break
        counts[killed] = counts.get(killed, 0) + 1
        print(f"{world} x {sharding}: killed {killed}, {sum(counts.values())} of {kills}", flush=True)
    _finish(file, folder, world, sharding)
    return counts


def _same(a, b) -> bool:
    (weights_a, *rest_a), (weights_b, *rest_b) = a, b
    return rest_a == rest_b and all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_kills_change_nothing(tmp_path, kills):
    """Each as soon as a further checkpoint is there, so that every start gets somewhere and none is too late."""
    file, folder, moments = _file(tmp_path, 64 * 60), tmp_path / "killed", random.Random(0)
    _finish(file, tmp_path / "whole", 2, "ddp")
    killed = []
    for _ in range(kills):
        before = set(folder.glob("*/*/state/step-*"))
        processes, _ = _start(file, folder, 2, "ddp")
        ranked.wait_for(
            lambda before=before, rank=processes[0]: (
                not set(folder.glob("*/*/state/step-*")) <= before or not rank.is_alive()
            )
        )
        killed.append(_kill(processes, moments))
    assert killed[0] is not None
    _finish(file, folder, 2, "ddp")
    assert _same(_outcome(tmp_path / "whole"), _outcome(folder))


TERM, INTERRUPT = signal.SIGTERM, signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize(
    "calls",
    [[((TERM,), (1,))], pytest.param([((TERM,), (0, 1)), ((INTERRUPT, INTERRUPT), (0, 1))], marks=pytest.mark.slow)],
    ids=["one rank", "both"],
)
def test_ranks_that_are_asked_to_stop_save_at_one_step_and_go_on_bit_for_bit(tmp_path, calls):
    """SIGTERM to one of them; to both, then Ctrl-C twice to both, as under torchrun."""
    file, folder = _file(tmp_path, 64 * 60), tmp_path / "stopped"
    _finish(file, tmp_path / "whole", 2, "fsdp")
    for numbers, asked in calls:
        before = set(folder.glob("*/*/state/step-*"))
        processes, pipes = _start(file, folder, 2, "fsdp")
        ranked.wait_for(lambda before=before: not set(folder.glob("*/*/state/step-*")) <= before)
        for number in numbers:
            for rank in asked:
                os.kill(processes[rank].pid, number)
        answers = [pipe.recv() for pipe in pipes]
        ranked.end(processes)
        expected = KeyboardInterrupt if numbers[0] == INTERRUPT else RunError
        assert [type(answer) for answer in answers] == [expected, expected], answers
        assert numbers[0] == INTERRUPT or all("the checkpoint is saved" in str(answer) for answer in answers)
    assert not any(folder.glob("runs/*/result.json"))
    _finish(file, folder, 2, "fsdp")
    assert _same(_outcome(tmp_path / "whole"), _outcome(folder))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sixty_kills_change_nothing(tmp_path):
    """Alone, under DDP and under FSDP, 20 or more each; a job that outran its kills is done again in a new folder."""
    file, moments = _file(tmp_path, 64 * 300), random.Random(2026)
    total: dict[str, int] = {}
    for world, sharding in ((1, "ddp"), (2, "ddp"), (2, "fsdp")):
        whole = tmp_path / f"whole-{world}-{sharding}"
        seconds = _finish(file, whole, world, sharding)
        wanted, attempt = 20, 0
        while wanted > 0:
            folder = tmp_path / f"killed-{world}-{sharding}-{attempt}"
            counts = _killed_until_done(file, folder, world, sharding, wanted, moments, 0.2 * seconds)
            assert _same(_outcome(whole), _outcome(folder)), folder
            for what, count in counts.items():
                total[what] = total.get(what, 0) + count
                wanted -= count
            attempt += 1
        print(f"{world} x {sharding}: {attempt} jobs of {seconds:.0f} s, kills so far {total}", flush=True)
    assert sum(total.values()) >= 60 and len(total) == 2
