"""CPU time of a training step of ghost batch norm, ours and the peers' in the same run, and nn.BatchNorm as the floor.

    pip download --no-deps mosaicml==0.32.1 pytorch-tabnet==4.1.0 && unzip '*.whl' -d PEERS
    python -m benchmarks.large_batch.ghost_batchnorm [--peers PEERS] [--out benchmarks/results/ghost_batchnorm.json]

Forward and backward of one layer, one thread, parameters in float32; batches are multiples of the ghost, so that all
cut them alike. Rounds alternate between the variants and each takes its best of a few steps; `time_over_ours` is the
median over rounds of that round's ratio, with the 5th and 95th percentile of its bootstrap. The peers are the classes
of the released wheels, unpacked and never installed: `pytorch_tabnet.tab_network.GBN`, and composer's file, loaded
with the imports of its trainer left out, which the layer does not use. `chunk loop` is what both do without their
bookkeeping: `torch.cat([bn(part) for part in x.chunk(n)])`. `ours, looped` never folds ghosts into channels; `ours,
compiled` is `torch.compile` of it by inductor, in the cases of COMPILED alone.
"""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

import distillaw as dl
from benchmarks.result_file import save
from distillaw.large_batch import ghost as ghost_module

CASES = {
    "TabNet, default width": ((1024, 16), 128, False),
    "TabNet, large batch": ((16384, 16), 128, False),
    "64 features": ((4096, 64), 128, False),
    "64 features, ghost 32": ((4096, 64), 32, False),
    "512 features (F1 of the paper)": ((4096, 512), 128, False),
    "maps 16 x 4 x 4": ((512, 16, 4, 4), 32, False),
    "maps 64 x 8 x 8": ((256, 64, 8, 8), 32, False),
    "maps 64 x 8 x 8, channels last": ((256, 64, 8, 8), 32, True),
    "maps 16 x 32 x 32 (Resnet44)": ((256, 16, 32, 32), 64, False),
    "maps 64 x 8 x 8, bfloat16": ((256, 64, 8, 8), 32, False),
    "maps 64 x 8 x 8, channels last, bfloat16": ((256, 64, 8, 8), 32, True),
}
"""Name -> shape, ghost size, channels last; bfloat16 where the name says so."""
COMPILED = ("512 features (F1 of the paper)", "maps 64 x 8 x 8", "maps 64 x 8 x 8, channels last, bfloat16")
ROUNDS, STEPS = 15, 4
Step = Callable[[torch.Tensor], torch.Tensor]


class ChunkLoop(nn.Module):
    """The loop that the peers have in common."""

    def __init__(self, norm: nn.Module, ghost: int) -> None:
        super().__init__()
        self.norm, self.ghost = norm, ghost

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Each chunk through the same batch norm."""
        return torch.cat([self.norm(part) for part in x.chunk(-(-len(x) // self.ghost))])


class Looped(nn.Module):
    """Our layer with folding switched off."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One kernel per ghost."""
        kept, ghost_module.FOLDED_GHOST = ghost_module.FOLDED_GHOST, 0
        try:
            return self.layer(x)
        finally:
            ghost_module.FOLDED_GHOST = kept


def load_composer(peers: Path) -> ModuleType:
    """The released file, its trainer-side imports replaced by empty names."""
    for name, members in {
        "composer": (),
        "composer.core": ("Algorithm", "Event", "State"),
        "composer.loggers": ("Logger",),
        "composer.utils": ("module_surgery",),
    }.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (), {}))
        sys.modules[name] = module
    path = peers / "composer/algorithms/ghost_batchnorm/ghost_batchnorm.py"
    spec = importlib.util.spec_from_file_location("composer_ghost_batchnorm", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants(name: str, peers: Path | None) -> dict[str, nn.Module]:
    """Fresh layers of a case by name."""
    shape, ghost, _ = CASES[name]
    flat, features = len(shape) == 2, shape[1]
    plain, ours = (nn.BatchNorm1d, dl.GhostBatchNorm1d) if flat else (nn.BatchNorm2d, dl.GhostBatchNorm2d)
    layers = {
        "ours": ours(features, ghost),
        "ours, looped": Looped(ours(features, ghost)),
        "chunk loop": ChunkLoop(plain(features), ghost),
        "nn.BatchNorm, no ghosts": plain(features),
    }
    if name in COMPILED:
        layers["ours, compiled"] = torch.compile(ours(features, ghost))
    if peers:
        composer = load_composer(peers)
        kind = composer.GhostBatchNorm1d if flat else composer.GhostBatchNorm2d
        layers["composer 0.32.1"] = kind(plain(features), ghost_batch_size=ghost)
        if flat:
            sys.path.insert(0, str(peers))
            from pytorch_tabnet.tab_network import GBN

            layers["pytorch-tabnet 4.1.0"] = GBN(features, virtual_batch_size=ghost)
    return layers


def seconds(layer: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> float:
    """Best CPU seconds of a forward and backward pass."""
    best = float("inf")
    for _ in range(STEPS):
        x.grad = None
        began = time.process_time()
        layer(x).backward(gradient)
        best = min(best, time.process_time() - began)
    return best


def compare(name: str, peers: Path | None) -> list[dict[str, object]]:
    """One row per variant of a case."""
    shape, ghost, channels_last = CASES[name]
    random = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
    x, gradient = (torch.randn(shape, generator=random).to(dtype) for _ in range(2))
    if channels_last:
        x, gradient = (t.to(memory_format=torch.channels_last) for t in (x, gradient))
    x.requires_grad_()
    layers = variants(name, peers)
    output = layers["ours"](x)
    for other, layer in layers.items():
        if other != "nn.BatchNorm, no ghosts":
            torch.testing.assert_close(layer(x), output)  # they compute the same
    times = {other: np.zeros(ROUNDS) for other in layers}
    for index in range(ROUNDS):
        for other, layer in layers.items():
            times[other][index] = seconds(layer, x, gradient)
    return [
        {"case": name, "shape": list(shape), "ghost": ghost, "variant": other, **_row(own, times["ours"])}
        for other, own in times.items()
    ]


def _row(own: np.ndarray, ours: np.ndarray) -> dict[str, object]:
    ratios = own / ours
    draws = np.median(np.random.default_rng(0).choice(ratios, (1000, len(ratios))), axis=1)
    return {
        "milliseconds": round(1e3 * float(np.median(own)), 3),
        "time_over_ours": round(float(np.median(ratios)), 2),
        "interval": [round(float(value), 2) for value in np.quantile(draws, [0.05, 0.95])],
    }


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder with the unpacked wheels")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in CASES:
        for row in compare(name, arguments.peers):
            rows.append(row)
            print(
                f"{name:42} {row['variant']:24} {row['milliseconds']:8} ms  x{row['time_over_ours']} {row['interval']}",
                flush=True,
            )
    if arguments.out:
        save(
            arguments.out,
            "python -m benchmarks.large_batch.ghost_batchnorm --peers PEERS",
            rounds=ROUNDS,
            peers=bool(arguments.peers),
            rows=rows,
        )


if __name__ == "__main__":
    main()
