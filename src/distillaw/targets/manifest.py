"""What a target store is: the teacher, tokens, estimator and layout that determine every byte of it.

    build.json       the plan, written before the first shard; a build that was killed goes on from it
    build.jsonl      how long each shard took
    targets-00000.bin ...
    manifest.json    the plan, the shards with their checksums, and what was found; written last: the store is complete

The identity is the hash of the plan (but for where teacher and tokens lie) and stands in every shard.
"""

from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distillaw.data.batches import BatchOrder
from distillaw.data.shards import Split
from distillaw.errors import CacheError, ConfigError
from distillaw.runs.config import from_table
from distillaw.runs.files import content_hash, read_json, write_json
from distillaw.targets.scheme import Scheme

T = TypeVar("T")

FORMAT = 1
PLAN, LOG, MANIFEST = "build.json", "build.jsonl", "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """Everything that determines the bytes of a store, and how they are cut into shards."""

    teacher: str
    """Where the teacher was; not part of the identity."""
    data: str
    """Where the token store was; not part of the identity."""
    teacher_fingerprint: str
    teacher_dtype: str
    """Precision of the teacher's forward pass."""
    tokenizer_hash: str
    data_hash: str
    split: str
    context: int
    vocab_size: int
    scheme: Scheme
    seed: int
    """Of the random offsets; the offsets of a window depend on nothing but this and the window."""
    split_windows: int
    num_windows: int
    """Windows covered: all of the split, or the first of a data order."""
    order_seed: int | None
    """The data order whose first windows are covered; None: the whole split."""
    windows_per_shard: int
    windows_per_forward: int
    """Windows the teacher reads at once. Fixed, since a product of matrices rounds by its shape."""

    @property
    def identity(self) -> str:
        """16 hex digits: two stores with one identity hold the same targets."""
        return content_hash({"format": FORMAT, **self.record(), "teacher": "", "data": ""}, digits=16)

    @property
    def num_shards(self) -> int:
        """Files of the store."""
        return -(-self.num_windows // self.windows_per_shard)

    @property
    def num_positions(self) -> int:
        """Positions that have targets."""
        return self.num_windows * self.context

    def record(self) -> dict[str, object]:
        """As written to disk."""
        return {**asdict(self), "scheme": self.scheme.record()}

    def windows(self, split: Split) -> NDArray[np.int64]:
        """The covered windows, ascending, shape (num_windows,)."""
        if self.order_seed is None:
            return np.arange(self.num_windows)
        return np.sort(BatchOrder(split=split, seed=self.order_seed).window_ids(0, self.num_windows))

    def shard_windows(self, shard: int) -> slice:
        """Which of the covered windows a shard holds."""
        return slice(
            shard * self.windows_per_shard, min((shard + 1) * self.windows_per_shard, self.num_windows)
        )


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"targets-{shard:05d}.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One file of the store."""

    file: str
    windows: int
    first_window: int
    last_window: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A finished store."""

    plan: StorePlan
    shards: tuple[ShardEntry, ...]
    teacher_loss: float
    """Cross-entropy of the teacher against the data, mean over the positions covered, nats/token."""
    mean_entropy: float
    """Mean entropy of the teacher's distributions (at the store's temperature), nats."""
    mean_mass: float
    """Mean probability that the teacher gives to the ids kept."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def bytes_per_position(self) -> float:
        """Bytes of the store per position covered."""
        return self.total_bytes / self.plan.num_positions

    def write(self, folder: Path) -> None:
        """Write manifest.json."""
        table = asdict(self)
        del table["plan"]
        write_json(folder / MANIFEST, {
            "format": FORMAT, "identity": self.plan.identity, **self.plan.record(), "bytes": self.total_bytes, **table
        })  # fmt: skip


def write_plan(folder: Path, plan: StorePlan) -> None:
    """Write build.json."""
    write_json(folder / PLAN, {"format": FORMAT, "identity": plan.identity, **plan.record()})


def read_plan(path: Path) -> StorePlan:
    """The plan in build.json or manifest.json.

    Raises:
        CacheError: missing, of another format, incomplete, or altered.
    """
    table = read_json(path)
    if table.get("format") != FORMAT:
        raise CacheError(f"{path}: target store format {table.get('format')!r}, this version reads {FORMAT}")
    plan = _read(StorePlan, table, path)
    if plan.identity != table.get("identity"):
        raise CacheError(
            f"{path}: altered since it was written (its contents give the identity {plan.identity}, it states "
            f"{table.get('identity')!r}). Restore it or build the store again"
        )
    return plan


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        CacheError: no store there, an unfinished or damaged one.
    """
    path = folder / MANIFEST
    if not path.exists():
        if (folder / PLAN).exists():
            done, plan = len(list(folder.glob("targets-*.bin"))), read_plan(folder / PLAN)
            raise CacheError(
                f"{folder}: the store is unfinished ({done} of {plan.num_shards} shards). Run the same "
                "`distillaw cache build` again to go on"
            )
        raise CacheError(f"{folder}: no target store there. Make one with `distillaw cache build`")
    plan = read_plan(path)
    manifest = _read(Manifest, {**read_json(path), "plan": {**plan.record()}}, path)
    if len(manifest.shards) != plan.num_shards:
        raise CacheError(f"{path}: lists {len(manifest.shards)} shards where {plan.num_shards} belong")
    return manifest


def _read(kind: type[T], table: dict[str, object], path: Path) -> T:
    """The fields of a dataclass out of a JSON object that may hold more."""
    assert is_dataclass(kind)
    names = {f.name for f in fields(kind)}
    try:
        return from_table(kind, {key: value for key, value in table.items() if key in names}, str(path))
    except ConfigError as error:
        raise CacheError(
            f"{error}: damaged. Run the same `distillaw cache build` again to write it anew"
        ) from error


def require_same(folder: Path, plan: StorePlan, wanted: dict[str, object]) -> None:
    """Refuse a store that was made from something else.

    Args:
        folder: where it lies.
        plan: what it is.
        wanted: fields of the plan and the values they must have; None does not care.

    Raises:
        CacheError: a field differs (every one is named with both values).
    """
    have = plan.record()
    different = [
        f"{name} is {have[name]!r} there, {value!r} here"
        for name, value in wanted.items()
        if value is not None and have[name] != value
    ]
    if different:
        raise CacheError(
            f"{folder}: the target store was made from something else: {'; '.join(different)}. Targets of another "
            "teacher, tokenizer, text or context would train the student on nonsense: use the store that was built "
            "for these, or build one with --out to a new folder"
        )
