"""A teacher's top-k as other tools dumped it: rows of tokens with ids and log-probabilities after each of them.

    .jsonl of vLLM       responses with `prompt_token_ids` and `prompt_logprobs`, or the objects `LLM.generate` returns
    .jsonl of NeMo       examples/nlp/synthetic_data_gen/compute_topk_logits.py of NeMo-Aligner
    folder of DistillKit data_*.parquet and compression_config.yaml, as `distillkit.sample_logits_vllm` writes them

A dump's rows and a store's windows are matched by their tokens: a window takes the row that begins with what it reads,
so no target is of another context. What no dump has is the tail: the store is marked as biased, with the reason.
Entropies, and losses of tokens that a dump left out, are those of a tail that is flat.
Shape suffixes: P position, K kept id, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distillaw.data.shards import Split
from distillaw.errors import CacheError, ConfigError
from distillaw.runs.files import content_hash, file_sha256, parse_json
from distillaw.targets import codec
from distillaw.targets.manifest import Scheme
from distillaw.targets.store import Sums

CONFIG = "compression_config.yaml"
_TAIL = "top-k log-probabilities of a dump: what lies beyond them is known by its sum alone, which is a bias"
BIASES = {
    "vLLM": f"{_TAIL}; the service's own precision and kernels",
    "NeMo": f"{_TAIL}; tokens after padding are those of NeMo-Aligner's batches",
    "DistillKit": f"{_TAIL}; values after the first {{exact_k}} are DistillKit's fitted curve and quantised residuals",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a dump says of one sequence."""

    ids: NDArray[np.int64]
    """Shape (P, K), the likeliest first; row p is what follows token p."""
    log_probs: NDArray[np.float64]
    labels: NDArray[np.float64]
    """Log-probability of the token that follows, where the dump has it whether likely or not; else NaN. Shape (P,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """An opened dump; stands for a teacher where a store is planned."""

    name: str
    kind: str
    bias: str
    fingerprint: str
    vocab_size: int
    context: int
    rows: Mapping[bytes, tuple[Path, int]]
    """First tokens, hashed -> file, and the line's first byte or the row."""
    config: Mapping[str, Any]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: str = "dumped"

    def row(self, tokens: NDArray[np.integer]) -> Row | None:
        """What the dump says of the row that begins with some tokens."""
        place = self.rows.get(_named(tokens))
        if place is None:
            return None
        path, at = place
        return _distillkit(path, at, self.config) if self.kind == "DistillKit" else _json_row(_line(path, at))


def open_capture(teacher: str, context: int, vocab_size: int) -> "Capture":
    """A dump, its rows listed by their first `context` tokens.

    Raises:
        CacheError: no layout that is known, a damaged row, or ids beyond the vocabulary.
    """
    path = Path(teacher).expanduser().resolve()
    if path.is_dir():
        import yaml

        config = yaml.safe_load((path / CONFIG).read_text())
        files = sorted(path.glob("*.parquet"))
        if not isinstance(config, dict) or "exact_k" not in config or "residual_bins" not in config or not files:
            raise CacheError(
                f"{path}: no dump of DistillKit's present layout ({CONFIG} with exact_k and residual_bins, and "
                "data_*.parquet); its legacy one (packed_indices, coeffs) is not read"
            )
        kind, listed = "DistillKit", _parquet_rows(files)
        if config["d"] < vocab_size:
            raise CacheError(f"{path}: dumped of {config['d']:,} ids, the text's vocabulary has {vocab_size:,}")
    else:
        config, files, first = {}, [path], _line(path, 0)
        if not {"topk_logits", "prompt_logprobs", "choices"} & first.keys():
            raise CacheError(f"{path}: neither vLLM's prompt_logprobs nor NeMo's topk_logits; found {sorted(first)}")
        kind, listed = "NeMo" if "topk_logits" in first else "vLLM", _json_rows(path)
    rows = {}
    for place, tokens in listed:
        if len(tokens) and not 0 <= min(tokens) <= max(tokens) < vocab_size:
            raise CacheError(f"{place[0]}: token {max(tokens):,} is beyond the text's vocabulary of {vocab_size:,}")
        if len(tokens) >= context:
            rows.setdefault(_named(np.array(tokens[:context])), place)
    if not rows:
        raise CacheError(f"{path}: no row of {context} tokens or more; lower --context")
    return Capture(
        name=str(path),
        kind=kind,
        bias=BIASES[kind].format(**config),
        fingerprint=content_hash([kind, config, *map(file_sha256, files)]),
        vocab_size=vocab_size,
        context=context,
        rows=rows,
        config=config,
    )


@dataclass(slots=True, kw_only=True)
class CaptureMaker:
    """Makes targets of a dump, as `make.TargetMaker` makes them of a model."""

    teacher: Capture
    split: Split
    scheme: Scheme
    seed: int
    forward_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what a dump cannot give; ConfigError: another estimator or temperature."""
        if self.scheme.estimator != "top-k" or self.scheme.temperature != 1:
            raise ConfigError(
                f"{self.teacher.name}: a dump has top-k log-probabilities at temperature 1, from which neither samples "
                "nor other temperatures can be made; give --estimator top-k --k K"
            )

    @property
    def bias(self) -> str:
        """Why the store is biased."""
        return self.teacher.bias

    def make(self, windows: Sequence[int] | NDArray[np.integer]) -> tuple[list[bytes], Sums]:
        """The block of each window, and the sums over their positions.

        Raises:
            CacheError: no row of the dump begins with a window's tokens, or it has fewer ids than are to be kept.
        """
        blocks, total = [], Sums(loss=0.0, entropy=0.0, mass=0.0)
        for window, tokens in zip(windows, self.split.windows(windows), strict=True):
            found = self.teacher.row(tokens[:-1])
            if found is None:
                raise CacheError(
                    f"{self.teacher.name}: none of its {len(self.teacher.rows):,} rows begins with the tokens of "
                    f"window {window} of the {self.split.name} split (context {self.split.context}); ask the teacher "
                    "about this text's own windows (docs/targets.md), or cover fewer with --tokens"
                )
            block, sums = self._block(found, tokens)
            blocks.append(block)
            total = total + sums
        return blocks, total

    def _block(self, row: Row, tokens: NDArray[np.int64]) -> tuple[bytes, Sums]:
        count, k = self.split.context, self.scheme.k
        where = f"{self.teacher.name}: the row of {tokens[:8].tolist()} ..."
        best = np.argsort(-row.log_probs[:count], axis=1, kind="stable")[:, :k]
        ids = np.take_along_axis(row.ids[:count], best, 1)
        nats = -np.take_along_axis(row.log_probs[:count], best, 1)
        if ids.shape != (count, k) or not np.isfinite(nats).all():
            raise CacheError(
                f"{where} has {len(row.ids)} positions of {row.ids.shape[1]} ids or fewer, {count} of {k} are needed; "
                "ask for one token more than the context, or lower --k"
            )
        if ids.min() < 0 or ids.max() >= self.teacher.vocab_size:
            raise CacheError(f"{where} keeps id {ids.max():,}, the vocabulary has {self.teacher.vocab_size:,}")
        order = np.argsort(ids, axis=1)
        ids, nats = np.take_along_axis(ids, order, 1), np.maximum(np.take_along_axis(nats, order, 1), 0)
        if (ids[:, 1:] == ids[:, :-1]).any():
            raise CacheError(f"{where} keeps one id twice at a position: damaged")
        probs, labels = np.exp(-nats), tokens[1:]
        mass = probs.sum(axis=1)
        rest = np.maximum(1 - mass, 1e-12)  # below what 16-bit steps of log-probabilities resolve
        flat = -np.log(rest / max(1, self.teacher.vocab_size - k))
        entropy = (probs * nats).sum(axis=1) + rest * flat
        kept = ids == labels[:, None]
        loss = np.where(kept.any(axis=1), (nats * kept).sum(axis=1), flat)
        loss = np.where(np.isnan(row.labels[:count]), loss, -row.labels[:count])
        counts = np.full(count, k)
        block = codec.encode_top(ids.ravel(), nats.ravel(), counts, fixed=True, entropy_P=entropy, loss_P=loss)
        return block, Sums(loss=float(loss.sum()), entropy=float(entropy.sum()), mass=float(np.minimum(mass, 1).sum()))


def _named(tokens: NDArray[np.integer]) -> bytes:
    return blake2b(np.ascontiguousarray(tokens, dtype="<i8").data, digest_size=16).digest()


def _line(path: Path, at: int) -> dict[str, Any]:
    with path.open("rb") as stream:
        stream.seek(at)
        return _parsed(path, at, stream.readline())


def _parsed(path: Path, at: int, raw: bytes) -> dict[str, Any]:
    try:
        row = parse_json(raw)
    except ValueError as error:
        raise CacheError(f"{path}, byte {at}: not JSON ({error}): truncated or damaged") from None
    if not isinstance(row, dict):
        raise CacheError(f"{path}, byte {at}: {type(row).__name__}, not an object")
    return row


def _json_rows(path: Path) -> Iterator[tuple[tuple[Path, int], list[int]]]:
    at = 0
    with path.open("rb") as stream:
        for raw in stream:
            if raw.strip():
                row = _answer(_parsed(path, at, raw))
                tokens = row.get("tokens", row.get("prompt_token_ids"))
                if not isinstance(tokens, list):
                    raise CacheError(
                        f"{path}, byte {at}: no prompt_token_ids (vLLM: ask with return_token_ids) and no tokens (NeMo)"
                    )
                yield (path, at), tokens
            at += len(raw)


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    """The object itself, or the one choice of a response."""
    return row["choices"][0] if "choices" in row else row


def _json_row(row: dict[str, Any]) -> Row:
    row = _answer(row)
    if "topk_logits" in row:
        logits, ids = np.array(row["topk_logits"], dtype=np.float64), np.array(row["topk_token_ids"])
        found = logits - np.array(row["log_sum_exp_logits"], dtype=np.float64)[:, None]
        return Row(ids=ids, log_probs=found, labels=np.full(len(ids), np.nan))
    tokens, answers = row["prompt_token_ids"], row["prompt_logprobs"][1:]  # nothing precedes the first token
    ranked = [sorted(answer.items(), key=lambda each: each[1]["rank"]) for answer in answers]
    # the prompt's own token is told whatever its rank: kept if it is among the likeliest, else it would be favoured
    kept = [[each for place, each in enumerate(row) if each[1]["rank"] == place + 1] for row in ranked]
    k = min(map(len, kept), default=0)
    return Row(
        ids=np.array([[int(token) for token, _ in row[:k]] for row in kept], dtype=np.int64).reshape(-1, k),
        log_probs=np.array([[said["logprob"] for _, said in row[:k]] for row in kept]).reshape(-1, k),
        labels=np.array([answer[str(token)]["logprob"] for answer, token in zip(answers, tokens[1:], strict=True)]),
    )


def _parquet_rows(files: list[Path]) -> Iterator[tuple[tuple[Path, int], list[int]]]:
    from pyarrow import ArrowException
    from pyarrow import parquet as pq

    for path in files:
        try:
            column = pq.read_table(path, columns=["input_ids"]).column(0)
        except (ArrowException, OSError, KeyError) as error:
            raise CacheError(f"{path}: not a readable file of DistillKit ({error})") from None
        yield from (((path, number), row.as_py()) for number, row in enumerate(column))


@lru_cache(maxsize=4)
def _table(path: Path) -> Any:
    from pyarrow import parquet as pq

    return pq.read_table(path, columns=["compressed_logprobs", "bytepacked_indices"])


_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def _distillkit(path: Path, number: int, config: Mapping[str, Any]) -> Row:
    """A row decoded as DistillKit's `decompress_monotonic_logprobs` does, in its types, since curves round in them."""
    row = _table(path).slice(number, 1)
    packed, indices = (np.array(column[0].as_py(), dtype=np.uint8) for column in row.columns)
    k, exact_k = config["k"], config["exact_k"]
    out, at = _TYPES[config.get("exact_dtype", "float32")], 0

    def floats(kind: torch.dtype, count: int) -> torch.Tensor:
        nonlocal at
        first, at = at, at + count * kind.itemsize
        return torch.from_numpy(packed[:, first:at].copy()).view(kind)

    def whole(raw: NDArray[np.uint8], bits: int, count: int) -> torch.Tensor:
        each = np.unpackbits(raw, axis=1)[:, : bits * count].reshape(len(raw), count, bits)
        return torch.from_numpy(each.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1)))

    exact, terms = floats(out, exact_k), config.get("polynomial_terms") or []
    curve = torch.zeros(len(packed), k - exact_k, dtype=out)
    coefficients = floats(_TYPES[config.get("term_dtype", "float32")], len(terms)) if terms else None
    done = 0
    for each in config["residual_bins"]:
        bits, count = each["element_bits"], each["num_elements"]
        scale = floats(_TYPES[each["scale_dtype"]], 1)
        first, at = at, at + -(-bits * count // 8)
        steps = whole(packed[:, first:at], bits, count).float()
        steps = 2 * steps - 1 if bits == 1 else steps - 2 ** (bits - 1)
        curve[:, done : done + count] = (steps * scale).to(out)
        done += count
    if coefficients is not None:
        kind, size = coefficients.dtype, k - exact_k
        points = torch.linspace(0, 1, size, dtype=kind) if config.get("normalize_t") else torch.arange(size).to(kind)
        powers = [points**term if isinstance(term, int) else getattr(torch, term)(points) for term in terms]
        curve = (torch.stack(powers, dim=-1) * coefficients[:, None]).sum(dim=-1) + curve
    values = torch.cat([exact, curve], dim=-1)  # in the wider of both types, as there
    if config.get("delta_encoding", True):
        values = values.float().cumsum(dim=-1).to(out)
    bits = int(torch.log2(torch.tensor(config["d"], dtype=torch.float32)).ceil())
    ids = whole(indices, bits, k).numpy()
    return Row(ids=ids, log_probs=values.double().numpy(), labels=np.full(len(ids), np.nan))
