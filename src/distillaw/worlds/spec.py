"""What a world is: the [data.world] table of a run or study file, or a file of its own.

    [data.world]
    seed = 0
    [data.world.hmm]
    states = 256

One of [hmm], [grammar] and [ngram] says which kind of language; every setting has a default. The hash of the table
names the language: whoever has the same table has the same text at every position. Entropies are in nats.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.config import check_bounds, from_table, read_toml
from distillaw.runs.files import content_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class HmmSpec:
    """A hidden Markov model."""

    states: int = 256
    branching: int = 8
    """States that can follow a state."""
    transition_nats: float = 1.5
    """Mean entropy of the next state given the state."""
    emission_nats: float = 2.5
    """Mean entropy of the word given the state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec:
    """Nested clauses of several kinds, whose words, opening and closing agree."""

    kinds: int = 4
    """Kinds of clause."""
    depth: int = 3
    """Clauses that can be open at once."""
    phases: int = 3
    """Classes of words inside a clause of one kind, which follow each other as a Markov chain."""
    nest: float = 0.15
    """Probability that a clause opens where one can."""
    close: float = 0.2
    """Probability that the innermost clause ends."""
    bracket_words: int = 4
    """Words that open, and as many others that close, a clause of one kind."""
    word_nats: float = 3.0
    """Mean entropy of a word given its class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramSpec:
    """Topics with a bigram table each, and facts that every document fixes and repeats (language.py)."""

    topics: int = 4
    switch: float = 0.02
    """Probability per word that the topic is drawn anew."""
    successors: int = 16
    """Words that can follow a word within a topic."""
    word_nats: float = 2.2
    """Mean entropy of the next word given word and topic."""
    keys: int = 16
    """Words that are followed by a value, one value per key and document."""
    values: int = 8
    """Values that a key can have."""
    noise: float = 0.05
    """Probability that a value is drawn anew instead of repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSpec:
    """One language, completely."""

    seed: int = 0
    """Draws the language; its text is a function of the seed and the position alone."""
    vocab: int = 256
    """Entries of the vocabulary, end of text included."""
    document_tokens: int = 512
    """Words of a document; the end of text follows."""
    hmm: HmmSpec | None = None
    grammar: GrammarSpec | None = None
    ngram: NgramSpec | None = None

    @property
    def kind(self) -> str:
        """`hmm`, `grammar` or `ngram`."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def table(self) -> dict[str, object]:
        """The table that gives this world, every setting written out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def spec_hash(self) -> str:
        """Names the language."""
        return content_hash(self.table)

    @property
    def label(self) -> str:
        """What records call it, e.g. `world hmm-0c95dd94`."""
        return f"world {self.kind}-{self.spec_hash[:8]}"

    def to_toml(self, table: str = "") -> str:
        """The world as TOML, at the top of a file or below `[table]`."""
        kind = self.table[self.kind]
        assert isinstance(kind, dict)
        lines = [f"[{table}]"] if table else []
        lines += [f"{name} = {value!r}" for name, value in self.table.items() if name != self.kind]
        lines += [f"[{table}.{self.kind}]" if table else f"[{self.kind}]"]
        lines += [f"{key} = {value!r}" for key, value in kind.items()]
        return "\n".join(lines) + "\n"


KINDS = ("hmm", "grammar", "ngram")

PRESETS = {
    "hmm": WorldSpec(hmm=HmmSpec()),
    "hmm-slow": WorldSpec(hmm=HmmSpec(branching=4, transition_nats=0.5, emission_nats=3.8)),
    "grammar": WorldSpec(grammar=GrammarSpec()),
    "ngram": WorldSpec(ngram=NgramSpec()),
    "tiny": WorldSpec(
        vocab=17, document_tokens=64, hmm=HmmSpec(states=8, branching=3, transition_nats=0.7, emission_nats=1.2)
    ),
}
"""Worlds by name, for a start; a file can say anything else."""


def load_world(name_or_path: str) -> WorldSpec:
    """A preset by name, or a TOML file that holds a world: alone, or as [data.world] of a run or study.

    Raises:
        ConfigError: neither, or anything in it that no world can be.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise ConfigError(
            f"no world is called {name_or_path!r}{did_you_mean(name_or_path, PRESETS)}: give one of "
            f"{', '.join(PRESETS)}, or a .toml file"
        )
    table = read_toml(path)
    if "data" in table:
        data = table["data"]
        table = data.get("world") if isinstance(data, Mapping) else None
        if table is None:
            raise ConfigError(f"{path}: [data] has no [data.world] table, so its text is no world")
    spec = from_table(WorldSpec, table, f"{path}:")
    check_world(spec)
    return spec


def check_world(spec: WorldSpec) -> None:
    """Refuse what no world can be.

    Raises:
        ConfigError: naming the setting, its value and the rule.
    """
    given = [name for name in KINDS if getattr(spec, name) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"a world is of one kind, got {' and '.join(given) or 'none'}: give one of the tables "
            f"{', '.join(f'[data.world.{name}]' for name in KINDS)} (it may be empty)"
        )
    check_bounds({"seed": (0, 2**63 - 1), "vocab": (3, 2**16), "document_tokens": (2, 2**20)}, spec, "world.")
    check = {"hmm": _check_hmm, "grammar": _check_grammar, "ngram": _check_ngram}[spec.kind]
    check(getattr(spec, spec.kind), spec.vocab - 1)


def _check_nats(name: str, value: float, count: int) -> None:
    """Refuse an entropy that no row over `count` outcomes has."""
    top = math.log(count)
    if not 0 < value <= top:
        raise ConfigError(
            f"{name} = {value:g}: over {count} outcomes it lies above 0 and at most ln {count} = {top:.4f} nats"
        )


def _check_hmm(spec: HmmSpec, words: int) -> None:
    check_bounds({"states": (1, 4096), "branching": (1, spec.states)}, spec, "hmm.")
    if spec.branching > 1:
        _check_nats("hmm.transition_nats", spec.transition_nats, spec.branching)
    _check_nats("hmm.emission_nats", spec.emission_nats, words)


def _check_grammar(spec: GrammarSpec, words: int) -> None:
    clauses = {"kinds": (1, 64), "depth": (1, 12), "phases": (1, 64), "nest": (0, 0.9), "close": (0.01, 0.9)}
    check_bounds(clauses | {"bracket_words": (1, 1024)}, spec, "grammar.")
    if spec.nest + spec.close >= 1:
        raise ConfigError(
            f"grammar.nest + grammar.close = {spec.nest + spec.close:g}: below 1, or no word is left inside a clause"
        )
    stacks = sum(spec.kinds**d for d in range(1, spec.depth + 1))
    if stacks * (spec.phases + 2) > 4096:
        raise ConfigError(
            f"grammar: {spec.kinds} kinds to depth {spec.depth} are {stacks} stacks of {spec.phases + 2} states, "
            "above 4096 in all; lower kinds or depth"
        )
    plain = words - 2 * spec.kinds * spec.bracket_words
    if plain < 2:
        raise ConfigError(
            f"grammar: {2 * spec.kinds * spec.bracket_words} opening and closing words leave {plain} of {words} for "
            "the rest; raise vocab or lower bracket_words"
        )
    _check_nats("grammar.word_nats", spec.word_nats, plain)


def _check_ngram(spec: NgramSpec, words: int) -> None:
    plain = words - spec.keys * (spec.values + 1)
    limits = {"topics": (1, 64), "switch": (1e-6, 1), "keys": (0, words), "values": (1, words), "noise": (0, 1)}
    check_bounds(limits, spec, "ngram.")
    if plain < 2:
        raise ConfigError(
            f"ngram: {spec.keys} keys of {spec.values} values leave {plain} of {words} for plain words; raise vocab "
            "or lower keys or values"
        )
    check_bounds({"successors": (2, plain + spec.keys)}, spec, "ngram.")
    if spec.topics * (plain + spec.keys) > 4096:
        raise ConfigError(
            f"ngram: {spec.topics} topics of {plain + spec.keys} plain words and keys are above 4096 states; lower "
            "topics or vocab"
        )
    _check_nats("ngram.word_nats", spec.word_nats, spec.successors)
