"""Teachers made of a world's exact distribution, of any loss between the best possible and knowing nothing.

    oracle                                  the exact distribution given everything that is seen
    oracle:window=3                         given the last three tokens alone
    oracle:window=3,blend=0.4               0.6 of window 3 and 0.4 of window 4
    oracle:temperature=2  noise=0.5  uniform=0.1         flatter; wrong in a fixed way; hedged
    oracle:loss=3.6,by=window               whichever of these has that loss (by window, temperature, noise, uniform)

A teacher is a function of the tokens it sees: `noise` adds to the log-probabilities a fixed Gaussian table that the
last two tokens index, so it is as learnable as a trained teacher's mistakes. Several changes may be combined; they are
made in the order window, temperature, noise, uniform. Each makes the loss grow steadily, so any loss has one setting.
Shape suffixes: B sequence, T position, V token, R table row.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.files import content_hash, write_json, write_text, write_with
from distillaw.runs.places import claim_folder
from distillaw.worlds.language import Floats, Ints, bisect
from distillaw.worlds.spec import WorldSpec
from distillaw.worlds.world import MeanLoss, World, mean_loss

PREFIX = "oracle"
NOISE_ROWS = 4096
"""Rows of the table of noise; pairs of tokens share them."""
WAYS: dict[str, float | None] = {"window": None, "temperature": 64.0, "noise": 32.0, "uniform": 1.0}
"""What can make a teacher worse, and how far (the window: to none at all)."""
SOLVE_DOCUMENTS = 32
"""Documents on which a wanted loss is met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleSpec:
    """Which teacher."""

    window: int | None = None
    """Tokens it sees; None: all that there are."""
    blend: float = 0.0
    """Share of the teacher that sees one token more."""
    temperature: float = 1.0
    noise: float = 0.0
    """Standard deviation of what is added to each log-probability."""
    uniform: float = 0.0
    """Share of equal probabilities for all tokens."""
    loss: float | None = None
    """Wanted loss on held-out text, nats per token; the setting that `by` names then follows."""
    by: str = "window"

    @property
    def name(self) -> str:
        """The text that gives this teacher."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        if self.loss is not None and self.by == "window":
            given.append(("by", self.by))
        return PREFIX + (":" + ",".join(f"{key}={value}" for key, value in given) if given else "")


def is_oracle(name: str) -> bool:
    """Whether a teacher's name asks for an oracle."""
    return name == PREFIX or name.startswith(PREFIX + ":")


def parse_oracle(name: str) -> OracleSpec:
    """Read a teacher's name.

    Raises:
        ConfigError: an unknown setting, a value that is no number or out of range, or a wanted loss with settings.
    """
    given: dict[str, object] = {}
    for part in filter(None, name.removeprefix(PREFIX).removeprefix(":").split(",")):
        key, text = (each.strip() for each in part.partition("=")[::2])
        if key not in _READERS:
            raise ConfigError(
                f"teacher {name!r}: no setting {key!r}{did_you_mean(key, _READERS)}; known are {', '.join(_READERS)}"
            )
        try:
            given[key] = _READERS[key](text)
        except ValueError:
            raise ConfigError(f"teacher {name!r}: {key} = {text!r} is no {_READERS[key].__name__}") from None
    spec = OracleSpec(**given)  # pyrefly: ignore - the names were checked
    _check(name, spec)
    return spec


_READERS: dict[str, type] = {"window": int} | dict.fromkeys(("blend", "temperature", "noise", "uniform", "loss"), float)
_READERS |= {"by": str}


def _check(name: str, spec: OracleSpec) -> None:
    rules = (
        ("window", spec.window is None or spec.window >= 0, "be 0 or more"),
        ("blend", 0 <= spec.blend <= 1, "lie in [0, 1]"),
        ("temperature", 0.01 <= spec.temperature <= 100, "lie in [0.01, 100]"),
        ("noise", 0 <= spec.noise <= 100, "lie in [0, 100]"),
        ("uniform", 0 <= spec.uniform <= 1, "lie in [0, 1]"),
        ("by", spec.by in WAYS, f"be one of {', '.join(WAYS)}"),
    )
    for key, holds, rule in rules:
        if not holds:
            raise ConfigError(f"teacher {name!r}: {key} = {getattr(spec, key)} must {rule}")
    if spec.loss is not None:
        check_loss(f"teacher {name!r}: loss =", spec.loss)
    if spec.blend and spec.window is None:
        raise ConfigError(f"teacher {name!r}: blend is for a window, and none is given; add window=N")
    if spec.loss is not None and spec != OracleSpec(loss=spec.loss, by=spec.by):
        raise ConfigError(f"teacher {name!r}: a wanted loss sets the rest itself; give loss and by alone")
    if spec.loss is None and spec.by != "window":
        raise ConfigError(f"teacher {name!r}: by = {spec.by} is for a wanted loss; add loss=NATS")


def check_loss(name: str, loss: float) -> None:
    """Refuse a wanted loss that no predictor of any world has: not above 0, or not finite."""
    if not 0 < loss < math.inf:
        raise ConfigError(f"{name} {loss:g}: must be above 0 and finite, nats per token")


class Oracle:
    """A teacher of one world."""

    def __init__(self, world: World, spec: OracleSpec) -> None:
        assert spec.loss is None, "find_oracle settles a wanted loss first"
        self.world, self.spec = world, spec

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of its own filter, per token; a window is read anew at every position."""
        window, blend = self.spec.window, self.spec.blend
        passes = 1 if window is None else max(window, 1) * (2 if blend else 1)
        return passes * self.world.language.flops_per_observation

    def probs(self, tokens_BT: Ints) -> Floats:
        """Its probabilities of the token after each position, (B, T, V)."""
        spec = self.spec
        probs_BTV = self.world.next_probs(tokens_BT, spec.window)
        if spec.blend and spec.window is not None:
            wider_BTV = self.world.next_probs(tokens_BT, spec.window + 1)
            probs_BTV = _mix(probs_BTV, wider_BTV, spec.blend)
        return self._worsen(probs_BTV, tokens_BT)

    def _worsen(self, probs_BTV: Floats, tokens_BT: Ints) -> Floats:
        """Temperature, noise and hedging."""
        spec = self.spec
        if spec.temperature != 1 or spec.noise:
            with np.errstate(divide="ignore"):
                scores_BTV = np.log(probs_BTV) / spec.temperature
            if spec.noise:
                table_RV = _noise_table(self.world.spec.seed, self.world.vocab)
                scores_BTV += spec.noise * table_RV[self._noise_row(tokens_BT)]
            scores_BTV -= scores_BTV.max(axis=-1, keepdims=True)
            probs_BTV = np.exp(scores_BTV)
            probs_BTV /= probs_BTV.sum(axis=-1, keepdims=True)
        return _mix(probs_BTV, 1 / self.world.vocab, spec.uniform) if spec.uniform else probs_BTV

    def _noise_row(self, tokens_BT: Ints) -> Ints:
        begin_B1 = np.full((len(tokens_BT), 1), self.world.end_of_text)
        before_BT = np.concatenate([begin_B1, tokens_BT[:, :-1]], axis=1)
        pair_BT = (before_BT * self.world.vocab + tokens_BT).astype(np.uint64)
        # multiplicative hashing (Knuth, volume 3, section 6.4): the high bits of a product with an odd constant
        hashed_BT = (pair_BT + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (hashed_BT >> np.uint64(52)).astype(np.int64)

    def loss(self, *, documents: int = 64, context: int | None = None, first: int = 0) -> MeanLoss:
        """Its loss on held-out text, expected under the exact distribution of every next word.

        Args:
            context: tokens of a window, as held-out text is scored; None: the whole document.
        """
        sequences = self.world.heldout_sequences(documents=documents, context=context, first=first)
        return mean_loss(self.world.next_probs(sequences), self.probs(sequences), documents)


@lru_cache(maxsize=2)
def _noise_table(seed: int, vocab: int) -> Floats:
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    return generator.standard_normal((NOISE_ROWS, vocab))


def _mix(probs: Floats, other: "Floats | float", share: float) -> Floats:
    return (1 - share) * probs + share * other


def oracle_hash(world: World, spec: OracleSpec, context: int) -> str:
    """Names a teacher: world and settings; with a wanted loss also the context in which it is met."""
    return content_hash([world.spec.spec_hash, spec.name, None if spec.loss is None else context])


@lru_cache(maxsize=16)
def find_oracle(world: World, spec: OracleSpec, context: int | None = None) -> Oracle:
    """The teacher of a spec; a wanted loss is met first, on held-out text.

    The setting is found by bisection on the expected loss over SOLVE_DOCUMENTS documents, and rounded to six digits,
    so that all machines agree on it. Windows are whole numbers: between two of them their distributions are blended.

    Raises:
        ConfigError: no teacher of that kind has that loss (the possible range is named).
    """
    if spec.loss is None:
        return Oracle(world, spec)
    search, target, by = _LossSearch(world, context), spec.loss, spec.by
    best = search.loss(OracleSpec())
    worst = search.loss(_set(by, 0 if by == "window" else WAYS[by]))
    if not best <= target <= worst:
        raise ConfigError(
            f"no {PREFIX} has a loss of {target:g} nats by {by}: on this world it lies between {best:.4f} (exact) and "
            f"{worst:.4f}; choose a loss in between"
        )
    return Oracle(world, search.window(target) if by == "window" else search.setting(target, by))


def _set(by: str, value: float | None) -> OracleSpec:
    return OracleSpec(**{by: value})  # pyrefly: ignore - `by` names a field


class _LossSearch:
    """Losses of teachers on one text, with what is dear computed once."""

    def __init__(self, world: World, context: int | None) -> None:
        self._world = world
        self._sequences = world.heldout_sequences(documents=SOLVE_DOCUMENTS, context=context)

    @cached_property
    def _exact(self) -> Floats:
        return self._world.next_probs(self._sequences)

    def loss(self, spec: OracleSpec) -> float:
        """Of a teacher without a blend."""
        if spec.window is None:
            return self._of(Oracle(self._world, spec)._worsen(self._exact, self._sequences))
        return self._of(self._world.next_probs(self._sequences, spec.window))

    def _of(self, probs_BTV: Floats) -> float:
        return mean_loss(self._exact, probs_BTV, SOLVE_DOCUMENTS).value

    def setting(self, target: float, by: str) -> OracleSpec:
        """Temperature, noise or hedging that meets a loss."""
        low, high = (1.0 if by == "temperature" else 0.0), WAYS[by]
        assert high is not None
        found = bisect(lambda value: target - self.loss(_set(by, value)), low, high, steps=24)
        return _set(by, float(f"{found:.6g}"))

    def window(self, target: float) -> OracleSpec:
        """Window and blend that meet a loss: the widest window that is too bad, and a share of the next."""
        length = self._sequences.shape[1]
        low, high = 0, 1
        while high < length and self.loss(OracleSpec(window=high)) > target:
            low, high = high, min(2 * high, length)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.loss(OracleSpec(window=middle)) > target else (low, middle)
        narrow_BTV = self._world.next_probs(self._sequences, low)
        wide_BTV = self._world.next_probs(self._sequences, low + 1)
        blend = bisect(lambda share: self._of(_mix(narrow_BTV, wide_BTV, share)) - target, 0.0, 1.0, steps=24)
        return OracleSpec(window=low, blend=float(f"{blend:.6g}"))


SHOWN_WINDOWS = (0, 1, 2, 3, 4, 6, 8, 16)
"""Tokens seen by the teachers whose loss is shown: from none to more than the default worlds remember."""
SHOWN_TEMPERATURES = (1.25, 1.5, 2.0, 3.0)
"""Of the teachers whose loss is shown: from mild to flat."""
MOST_PROBABILITIES = 1 << 27
"""Of documents x words x vocabulary: a GiB of them, of which a few are held."""


def check_counts(spec: WorldSpec, *, context: int, documents: int) -> None:
    """Refuse what `describe_world` cannot read: too few documents or tokens, or more than fit in memory."""
    if documents < 2 or not 1 <= context:
        raise ConfigError(f"--documents {documents} --context {context}: at least 2 documents and 1 token are needed")
    most = max(MOST_PROBABILITIES // (spec.document_tokens * spec.vocab), 2)
    if documents > most:
        raise ConfigError(
            f"--documents {documents}: at most {most} of this world, whose probabilities are held in memory all at once"
        )


def describe_world(world: World, *, context: int, documents: int) -> dict[str, object]:
    """The entropy of a world, and the loss of its oracle by window and temperature: which teachers there can be.

    Args:
        context: tokens of a window, as held-out text is scored.
    """
    spec = world.spec

    def loss(**settings) -> dict[str, float]:
        return asdict(Oracle(world, OracleSpec(**settings)).loss(documents=documents, context=context))

    language = {"world": spec.table, "hash": spec.spec_hash, "kind": spec.kind, "vocab": world.vocab}
    read = {"context": context, "documents": documents, "entropy": loss()}
    windows = [{"window": w, **loss(window=w)} for w in SHOWN_WINDOWS if w < context]
    temperatures = [{"temperature": t, **loss(temperature=t)} for t in SHOWN_TEMPERATURES]
    return {**language, **read, "loss_by_window": windows, "loss_by_temperature": temperatures}


def teachers_of_loss(world: World, loss: float, context: int) -> list[dict[str, str | None]]:
    """For each way a teacher of that loss: its name, and the settings that it comes to, or why there is none.

    Raises:
        ConfigError: no way reaches that loss, or nothing can have it.
    """
    check_loss("--loss", loss)
    rows: list[dict[str, str | None]] = []
    for by in WAYS:
        spec = OracleSpec(loss=loss, by=by)
        row: dict[str, str | None] = {"name": spec.name, "settings": None, "refusal": None}
        try:
            row["settings"] = find_oracle(world, spec, context).spec.name
        except ConfigError as error:
            row["refusal"] = str(error)
        rows.append(row)
    if all(row["settings"] is None for row in rows):
        raise ConfigError(str(next(row["refusal"] for row in rows if "by=noise" in str(row["name"]))))
    return rows


MOST_TOKENS = 1_000_000_000
"""Text that is written at most: more is better drawn where it is used."""

_TRAIN = """\
# One student taught by an oracle of the world:  distillaw train train.toml --out run
name = "{name}"
params = "0.1M"
tokens = "600k"
peak_lr = 0.016
teacher = "oracle:loss={loss:.3f},by=window"    # or oracle, oracle:window=3, ...,by=temperature

[data]
world_tokens = "1.3M"
validation_documents = 128
validation_tokens_per_document = {document}

{world}"""

_STUDY = """\
# Students taught by oracles of several losses, and by none:  distillaw study run study.toml
name = "{name}-study"
peak_lr = 0.016

[students]
params = ["0.1M"]
tokens = ["150k", "600k"]

[[teachers]]
path = "oracle"
[[teachers]]
path = "oracle:window=3"
[[teachers]]
path = "oracle:window=1"

[tuning]
teacher = "oracle:window=3"

[target]
params = "0.1M"
tokens = "600k"

[data]
world_tokens = "1.3M"
validation_documents = 128
validation_tokens_per_document = {document}

{world}"""


def export_world(
    world: World, folder: Path, tokens: int, *, seen: Callable[[int], None] = lambda tokens: None
) -> dict[str, object]:
    """A world on disk: its description, some of its text, and files that train from its oracle; returns world.json.

    Raises:
        ConfigError: more text than is sensible on disk, or a folder that holds something else.
        RunError: the disk is full.
    """
    if tokens > MOST_TOKENS:
        raise ConfigError(
            f"--tokens {tokens}: at most {MOST_TOKENS} are written; runs draw theirs with data.world_tokens instead"
        )
    claim_folder(folder)
    spec, name = world.spec, f"{world.spec.kind}-{world.spec.spec_hash[:8]}"
    count = -(-tokens // (spec.document_tokens + 1))
    facts: dict[str, object] = {
        "world": spec.table,
        "hash": spec.spec_hash,
        "section": "student",
        "first_document": 0,
        "documents": count,
        "tokens": count * (spec.document_tokens + 1),
        "end_of_text": world.end_of_text,
    }
    entropy = world.entropy()
    facts |= {"entropy": entropy.value, "entropy_error": entropy.error}

    def save_tokens(path: Path) -> None:
        """Ids of whole documents, (documents, document_tokens), as uint16."""
        parts = []
        for words_NL in world.blocks("student", count):
            parts.append(words_NL.astype(np.uint16))
            seen(words_NL.size)
        with path.open("wb") as stream:
            np.save(stream, np.concatenate(parts))

    def save_text(path: Path) -> None:
        """A JSON object per document, words w0, w1 ... between spaces."""
        with path.open("w", encoding="utf-8") as stream:
            for words_L in np.load(folder / "tokens.npy", mmap_mode="r"):
                text = " ".join(world.spelling[word] for word in words_L.tolist())
                stream.write(json.dumps({"text": text}) + "\n")

    write_with(folder / "tokens.npy", save_tokens)
    write_with(folder / "text.jsonl", save_text)
    loss = round(Oracle(world, OracleSpec(window=2)).loss(documents=32).value, 3)
    given = {"name": name, "document": spec.document_tokens, "world": spec.to_toml("data.world"), "loss": loss}
    write_text(folder / "train.toml", _TRAIN.format(**given))
    write_text(folder / "study.toml", _STUDY.format(**given))
    write_text(folder / "world.toml", spec.to_toml())
    write_json(folder / "world.json", facts)
    return facts
