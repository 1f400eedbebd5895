"""Runs a loop on two ranks: forks of this process that talk over gloo through a file."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from distillaw.audit.probes import Sample

T = TypeVar("T")
LIMIT = 60.0
"""Seconds until two ranks that wait for each other are given up."""


def on_two_ranks(run: Callable[..., T], shares: Sequence[Sequence[Sample]]) -> list[T]:
    """What `run(samples=..., rank=..., world_size=2)` gives on both ranks, each on its share of the samples.

    Raises:
        RuntimeError: a rank fails, or both wait for ever.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(rank, run, shares[rank], Path(folder)), daemon=True)
            for rank in range(2)
        ]
        for process in ranks:
            process.start()
        stuck = ranks
        try:
            for process in ranks:
                process.join(LIMIT)
            stuck = [p for p in ranks if p.is_alive()]
        finally:  # also where the audit's own time is up
            for process in stuck:
                process.kill()
                process.join()
        failed = [(Path(folder) / f"failed{rank}") for rank in range(2)]
        said = [path.read_text() for path in failed if path.exists()]
        if stuck or said:
            raise RuntimeError(
                said[0] if said else f"the ranks still wait for each other after {LIMIT:.0f} s"
            )
        return [torch.load(Path(folder) / f"rank{rank}", weights_only=False) for rank in range(2)]


def _rank(rank: int, run: Callable[..., Any], samples: Sequence[Sample], folder: Path) -> None:
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)  # what libraries say of ranks; errors go to a file
        torch.set_num_threads(1)
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
        )
        torch.save(run(samples=samples, rank=rank, world_size=2), folder / f"rank{rank}")
        torch.distributed.destroy_process_group()
    except BaseException as error:
        (folder / f"failed{rank}").write_text(
            f"{type(error).__name__}: {error} ({traceback.extract_tb(error.__traceback__)[-1].name})"
        )
        raise SystemExit(1) from None
