"""Real models that can be named as teachers: size, training tokens and tokenizer, each with its source.

The table is data/families.toml. Parameters are counted from the shape (architecture.py), so that they follow the
conventions of this package; the tests compare them with what others state. A model that is not in the table is no worse
a teacher: give its config.json (config.py), or measure it (docs/teachers.md).
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast

from distillaw.accounting.architecture import Architecture, count_params
from distillaw.accounting.config import architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.errors import ConfigError

Certainty = Literal["seen", "recalled"]
Bound = Literal["exact", "about", "at least", "at most"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a figure comes from."""

    text: str
    certainty: Certainty
    """`seen`: read there when the table was made; `recalled`: not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A published model, as far as a plan needs it."""

    name: str
    family: str
    repo: str
    """Its name on the Hugging Face hub."""
    architecture: Architecture
    params: int
    """N, non-embedding."""
    total_params: int
    """All weights."""
    vocab: int
    """Rows of its embedding, padding included."""
    tokenizer: str
    """Models with the same word share a token-to-id map."""
    tokenizer_size: int
    """Entries of the tokenizer, added tokens included; rows beyond them belong to no token."""
    tokens: float | None = None
    """Pretraining tokens; None where not published."""
    tokens_bound: Bound | None = None
    """How `tokens` is to be read."""
    distilled: bool = False
    """Pretrained from a larger model's logits: its loss does not follow a supervised law of its size and tokens."""
    post_trained: bool = False
    """Only an instruction-tuned model was released, whose loss on plain text is above its base model's."""
    shape_source: Source
    tokens_source: Source
    tokenizer_source: Source
    stated_source: Source
    """Of `stated_non_embedding` and `stated_total`."""
    stated_non_embedding: int | None = None
    stated_total: int | None = None
    note: str = ""

    def flops_per_token(self, context: int | None = None) -> float:
        """F, forward FLOP per token, at a context of `context` tokens; at the model's own by default."""
        return forward_flops(self.architecture, context=context).total


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFamily:
    """Models that were made together."""

    name: str
    title: str
    models: tuple[NamedModel, ...]
    """By size."""


@cache
def families() -> dict[str, ModelFamily]:
    """The families of the table by name, each with its models by size."""
    text = files("distillaw.accounting").joinpath("data/families.toml").read_text(encoding="utf-8")
    return {name: _family(name, table) for name, table in tomllib.loads(text).items()}


def named_models() -> tuple[NamedModel, ...]:
    """All models of the table, family by family."""
    return tuple(each for family in families().values() for each in family.models)


def model(name: str) -> NamedModel:
    """The model with this name.

    Args:
        name: as in the table or on the hub (`owner/name`); case, spaces, `-` and `_` do not matter.

    Raises:
        ConfigError: the name of a family (its members are listed) or of nothing (the nearest names are).

    Example:
        >>> model("Pythia 1.4B").params
        1208602624
    """
    known = _by_key()
    key = _key(name)
    if key in known:
        return known[key]
    for family in families().values():
        if key == _key(family.name):
            members = ", ".join(each.name for each in family.models)
            raise ConfigError(f"{name!r} is a family; name one of its models: {members}")
    raise ConfigError(
        f"no model named {name!r} is known; {_nearest(key, known)}. `distillaw teachers` lists all. For another one "
        "give its parameters and tokens, or its config.json"
    )


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


@cache
def _by_key() -> dict[str, NamedModel]:
    """Every way to write a name that means one model: ours, the hub's, and the hub's without its owner."""
    keys: dict[str, NamedModel] = {}
    for each in named_models():
        for spelling in (each.name, each.repo, each.repo.partition("/")[2]):
            assert keys.setdefault(_key(spelling), each) is each, f"families.toml: {spelling} names two models"
    return keys


def _nearest(key: str, known: Mapping[str, NamedModel]) -> str:
    begun = [each for each in known if each.startswith(key)]
    close = begun + difflib.get_close_matches(key, known, n=6, cutoff=0.5)
    names = list(dict.fromkeys(known[each].name for each in close))[:3]
    return f"near it: {', '.join(names)}" if names else f"families: {', '.join(families())}"


def _family(name: str, table: dict[str, object]) -> ModelFamily:
    members = cast("dict[str, dict[str, object]]", table.pop("models"))
    title = str(table.pop("title"))
    models = (_model(name, own_name, table, own) for own_name, own in members.items())
    return ModelFamily(name=name, title=title, models=tuple(sorted(models, key=lambda each: each.params)))


def _model(family: str, name: str, shared: dict[str, object], own: dict[str, object]) -> NamedModel:
    """A model from its own keys and its family's; a key missing or unknown is our own mistake."""
    record: dict[str, Any] = shared | own
    config = cast("dict[str, object]", shared["config"]) | cast("dict[str, object]", own["config"])
    if record.get("tokens") is None:
        record["tokens_bound"] = None
    record |= {key: Source(**record[key]) for key in _SOURCES}
    del record["config"]
    architecture = architecture_from_config(config, source=f"families.toml, {name}")
    count = count_params(architecture)
    return NamedModel(
        name=name,
        family=family,
        architecture=architecture,
        params=count.non_embedding,
        total_params=count.total,
        vocab=architecture.vocab,
        **record,
    )


_SOURCES = ("shape_source", "tokens_source", "tokenizer_source", "stated_source")
