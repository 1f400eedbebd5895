"""Is a store what it says? Checksums of everything; and the teacher asked again about some windows.

`check_files` needs no torch. `ask_again` makes the same groups of windows anew: on the machine that built the store
the bytes are equal; elsewhere sums round differently, which may move a sample to the next id now and then, so the
losses decide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distillaw.errors import CacheError
from distillaw.runs.files import file_sha256
from distillaw.targets import blocks
from distillaw.targets.manifest import Manifest, ShardEntry, shard_name
from distillaw.targets.shard import Shard
from distillaw.targets.store import TargetStore

if TYPE_CHECKING:
    from distillaw.targets.make import TargetMaker

TOLERANCE = 0.02
"""Nats by which a teacher's losses may differ, on average, between machines and precisions (bfloat16 included)."""


def check_files(folder: Path, manifest: Manifest) -> Iterator[str | None]:
    """Read every shard completely; yields per file what is wrong with it, or None."""
    for number, entry in enumerate(manifest.shards):
        yield _check_shard(folder / shard_name(number), entry, manifest.plan.identity)
    listed = {shard_name(number) for number in range(len(manifest.shards))}
    for path in sorted(folder.glob("targets-*.bin")):
        if path.name not in listed:
            yield f"{path}: not in the manifest, a shard of something else. Move it away"


def _check_shard(path: Path, entry: ShardEntry, identity: str) -> str | None:
    try:
        shard = Shard.open(path, identity)
        shard.check()
    except CacheError as error:
        return str(error)
    held = (len(shard.windows), int(shard.windows[0]), int(shard.windows[-1]))
    wanted = (entry.windows, entry.first_window, entry.last_window)
    if held != wanted:
        return f"{path}: holds windows {held[1]} to {held[2]}, the manifest says {wanted[1]} to {wanted[2]}: swapped"
    if (found := file_sha256(path)) != entry.sha256:
        return f"{path}: SHA-256 is {found}, the manifest says {entry.sha256}: altered"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Stored targets against targets made anew."""

    windows: int
    identical_windows: int
    """Windows whose blocks are equal byte for byte."""
    loss_difference: float
    """Mean absolute difference of the teacher's losses, nats."""
    entropy_difference: float
    """The same of its entropies."""

    @property
    def agrees(self) -> bool:
        """Is it the same teacher on the same text?"""
        return max(self.loss_difference, self.entropy_difference) <= TOLERANCE


def ask_again(store: TargetStore, maker: "TargetMaker", windows: int) -> Comparison:
    """Compare about `windows` windows, in groups as they were built, spread evenly over the store."""
    plan = store.manifest.plan
    covered, group = plan.windows(maker.split), plan.windows_per_forward
    # Shards are whole groups, but the last one may end within a group: so does the store.
    starts = np.arange(0, len(covered), group)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, -(-windows // group)).round().astype(int))]
    identical, count, differences = 0, 0, np.zeros(2)
    for start in chosen:
        ids = covered[start : start + group]
        for stored, anew in zip(map(store.block, ids), maker.make(ids)[0], strict=True):
            fresh = np.frombuffer(anew, dtype=np.uint8)
            identical += bool(np.array_equal(stored, fresh))
            a, b = blocks.decode_scores(stored, plan.context), blocks.decode_scores(fresh, plan.context)
            differences += np.abs(a.loss - b.loss).mean(), np.abs(a.entropy - b.entropy).mean()
            count += 1
    loss, entropy = (differences / count).tolist()
    return Comparison(
        windows=count, identical_windows=identical, loss_difference=loss, entropy_difference=entropy
    )
