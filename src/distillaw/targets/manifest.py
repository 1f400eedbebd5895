"""What a target store is: the estimator, the request checked before anything heavy is loaded, the plan, the manifest.

    sampled   N equally spaced points with one random offset through the cumulative distribution; each id's weight is
              its share of the points. E[weight] = p exactly, weights sum to 1: the gradient is unbiased.
    top-k     the k most likely ids and their probabilities; the rest of the mass is one residual.
    top-p     the fewest ids that hold probability p (at most k of them), and the residual.
    full      the logits as they are, float32: for tiny vocabularies and tests of equivalence.

There is no renormalised top-k: its fixed point is the truncated distribution, over-confident by 1 / mass
(benchmarks/targets/estimators.py measures it). On disk a store is

    build.json       the plan, written before the first shard; a build that was killed goes on from it
    build.jsonl      how long each shard took
    targets-00000.bin ...
    manifest.json    the plan, the shards with their checksums, and what was found; written last: the store is complete

The identity is the hash of the plan (but for where teacher and tokens lie) and stands in every shard. Torch-free.
"""

import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from distillaw.data.shards import BatchOrder, Split, TokenStore
from distillaw.errors import CacheError, ConfigError, DataError
from distillaw.runs.config import from_table
from distillaw.runs.files import content_hash, read_json, read_json_lines, write_json

KINDS = ("sampled", "top-k", "top-p", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """An estimator of the teacher's distribution, and the temperature it is taken at."""

    estimator: str = "sampled"
    """`sampled` (unbiased), `top-k`, `top-p` (both with residual mass) or `full`."""
    samples: int = 32
    """N, points per position of `sampled`: 32 are more exact than 50 independent draws at every vocabulary measured."""
    k: int = 64
    """Ids of `top-k`, and the most ids of `top-p`."""
    p: float = 0.95
    """Probability that `top-p` keeps."""
    temperature: float = 1.0
    """The distribution stored is softmax(logits / temperature); `full` stores logits and ignores it."""

    def check(self, vocab_size: int) -> None:
        """Refuse what cannot be stored; ConfigError: an unknown estimator, or a number out of its range."""
        if self.estimator not in KINDS:
            raise ConfigError(f"--estimator {self.estimator!r} is not known; choose from {', '.join(KINDS)}")
        if not 1 <= self.samples <= 4096:
            raise ConfigError(f"--samples {self.samples}: give 1 to 4096 (32 is a good number)")
        if self.estimator in ("top-k", "top-p") and not 1 <= self.k <= min(vocab_size, 65535):
            raise ConfigError(f"--k {self.k}: give 1 to {vocab_size}, the vocabulary of the teacher")
        if not 0 < self.p <= 1:
            raise ConfigError(f"--p {self.p}: a probability above 0 and at most 1 is needed, e.g. 0.95")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"--temperature {self.temperature}: it must be positive and finite")
        if self.estimator == "full" and self.temperature != 1:
            raise ConfigError(
                "--estimator full stores logits, to which any temperature can be applied: leave --temperature at 1"
            )

    def record(self) -> dict[str, object]:
        """What the manifest says of it: only the numbers that this estimator uses."""
        used = {"sampled": ("samples",), "top-k": ("k",), "top-p": ("k", "p"), "full": ()}[self.estimator]
        return {key: value for key, value in asdict(self).items() if key in ("estimator", "temperature", *used)}

    def describe(self) -> str:
        """In words, for people."""
        words = {
            "sampled": f"{self.samples} systematic samples (unbiased)",
            "top-k": f"top-{self.k} with residual mass",
            "top-p": f"top-p {self.p:g} of at most {self.k} ids, with residual mass",
            "full": "full logits, float32",
        }[self.estimator]
        return words if self.temperature == 1 else f"{words} at temperature {self.temperature:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRequest:
    """A store that is wanted."""

    scheme: Scheme
    split: str = "student"
    context: int = 128
    tokens: int | None = None
    """Cover the first tokens of a data order only; None covers the split."""
    order_seed: int = 0
    seed: int = 0
    document_mask: bool = False
    """The teacher sees nothing of the documents before a token's own in a window."""
    shard_bytes: int = 64_000_000

    def open_split(self, data: TokenStore) -> Split:
        """The text it is about, as windows.

        Raises:
            ConfigError: no such split, or a number out of its range.
            DataError: the split has no window of that context, or fewer tokens than asked for.
        """
        self.scheme.check(int(str(data.manifest["vocab_size"])))
        splits = data.manifest["splits"]
        assert isinstance(splits, dict)
        if self.split not in splits:
            raise ConfigError(f"--split {self.split!r}: {data.folder} has {', '.join(sorted(splits))}")
        if self.context < 1 or self.shard_bytes < 1 or self.seed < 0 or self.order_seed < 0:
            raise ConfigError("--context and --shard-mb must be positive, --seed and --order-seed not negative")
        split = data.split(self.split, context=self.context)
        wanted, available = self.num_windows(split), split.num_windows
        if not 1 <= wanted <= available:
            raise DataError(
                f"{data.folder}: the {self.split} split has {available} windows of {self.context} tokens "
                f"({split.num_tokens} tokens), {wanted} are asked for. Lower --tokens or --context, or add text"
            )
        return split

    def num_windows(self, split: Split) -> int:
        """Windows it covers."""
        return split.num_windows if self.tokens is None else -(-self.tokens // self.context)


T = TypeVar("T")

FORMAT = 1  # of the files below; another is refused
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
    document_mask: bool = False
    """Whether the teacher saw each document of a window alone."""

    @property
    def identity(self) -> str:
        """16 hex digits: two stores with one identity hold the same targets."""
        facts = {"format": FORMAT, **self.record(), "teacher": "", "data": ""}
        if not self.document_mask:  # stores made before there was a choice keep their names
            del facts["document_mask"]
        return content_hash(facts, digits=16)

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

    def stated(self) -> dict[str, object]:
        """The same with what files begin with."""
        return {"format": FORMAT, "identity": self.identity, **self.record()}

    def windows(self, split: Split) -> NDArray[np.int64]:
        """The covered windows, ascending, shape (num_windows,)."""
        if self.order_seed is None:
            return np.arange(self.num_windows)
        return np.sort(BatchOrder(split=split, seed=self.order_seed).window_ids(0, self.num_windows))

    def shard_windows(self, shard: int) -> slice:
        """Which of the covered windows a shard holds."""
        return slice(shard * self.windows_per_shard, min((shard + 1) * self.windows_per_shard, self.num_windows))


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
    bias: str = ""
    """Of a store made from somebody's dump: why it is biased."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def bytes_per_position(self) -> float:
        """Bytes of the store per position covered."""
        return self.total_bytes / self.plan.num_positions

    @property
    def caution(self) -> str:
        """A warning where our study found that a student loses more than a twentieth of what distilling gains."""
        scheme, spread = self.plan.scheme, math.exp(self.mean_entropy)
        if scheme.estimator == "full":
            return ""
        if scheme.estimator != "sampled":
            return (f"biased: {self.bias}; " if self.bias else "") + (
                "what these targets leave out is a bias; fresh students in short runs lost a third of the gain of "
                "distilling and more with it (docs/targets.md). --estimator sampled has none"
                f"{' but needs the teacher itself' if self.bias else ''}"
            )
        if spread <= 2 * scheme.samples:
            return ""
        return (
            f"the teacher spreads over about {spread:.0f} tokens; {scheme.samples} samples are noisy for it, and "
            "short runs lose part of the gain of distilling (docs/targets.md). "
            f"--samples {round(spread, -1):.0f} loses less"
        )

    def facts(self, folder: Path) -> dict[str, object]:
        """What `distillaw cache` says of the store in a folder, for JSON."""
        return {
            **self.plan.record(),
            "identity": self.plan.identity,
            "positions": self.plan.num_positions,
            "bytes": self.total_bytes,
            "bytes_per_position": self.bytes_per_position,
            "shards": len(self.shards),
            "teacher_loss": self.teacher_loss,
            "mean_entropy": self.mean_entropy,
            "mean_mass": self.mean_mass,
            "build_seconds": build_seconds(folder),
            **({"bias": self.bias} if self.bias else {}),
        }

    def write(self, folder: Path) -> None:
        """Write manifest.json."""
        own = {name: value for name, value in asdict(self).items() if name != "plan"}
        write_json(folder / MANIFEST, self.plan.stated() | {"bytes": self.total_bytes, **own})


def build_seconds(folder: Path) -> float:
    """Time spent on the shards, over all attempts."""
    return sum(float(str(line["seconds"])) for line in read_json_lines(folder / LOG))


def write_plan(folder: Path, plan: StorePlan) -> None:
    """Write build.json."""
    write_json(folder / PLAN, plan.stated())


def read_plan(path: Path) -> StorePlan:
    """The plan in build.json or manifest.json; CacheError: missing, of another format, incomplete, or altered."""
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
    """The manifest of a finished store; CacheError: no store there, an unfinished or damaged one."""
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
        raise CacheError(f"{error}: damaged. Run the same `distillaw cache build` again to write it anew") from error


def require_same(folder: Path, plan: StorePlan, wanted: dict[str, object]) -> None:
    """Refuse a store that was made from something else.

    Args:
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
