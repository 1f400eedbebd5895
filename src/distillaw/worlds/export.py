"""A world on disk: its description, some of its text, and files that train from its oracle."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distillaw.errors import ConfigError
from distillaw.runs.files import write_json, write_text, write_with
from distillaw.runs.places import claim_folder
from distillaw.worlds.oracle import Oracle, OracleSpec
from distillaw.worlds.world import World

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
    """Write everything; returns what world.json says.

    Args:
        world: the language.
        folder: missing, empty, or ours: then files of these names are replaced.
        tokens: text to write, rounded up to whole documents.
        seen: told of tokens drawn.

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
    write_with(folder / "tokens.npy", lambda path: _save_tokens(path, world, count, seen))
    write_with(folder / "text.jsonl", lambda path: _save_text(path, world, folder / "tokens.npy"))
    loss = round(Oracle(world, OracleSpec(window=2)).loss(documents=32).value, 3)
    given = {
        "name": name,
        "document": spec.document_tokens,
        "world": spec.to_toml("data.world"),
        "loss": loss,
    }
    write_text(folder / "train.toml", _TRAIN.format(**given))
    write_text(folder / "study.toml", _STUDY.format(**given))
    write_text(folder / "world.toml", spec.to_toml())
    write_json(folder / "world.json", facts)
    return facts


def _save_tokens(path: Path, world: World, count: int, seen: Callable[[int], None]) -> None:
    """Ids of whole documents, (documents, document_tokens), as uint16."""
    parts = []
    for words_NL in world.blocks("student", count):
        parts.append(words_NL.astype(np.uint16))
        seen(words_NL.size)
    with path.open("wb") as stream:
        np.save(stream, np.concatenate(parts))


def _save_text(path: Path, world: World, tokens: Path) -> None:
    """A JSON object per document of the ids in a file, words w0, w1 ... between spaces."""
    with path.open("w", encoding="utf-8") as stream:
        for words_L in np.load(tokens, mmap_mode="r"):
            text = " ".join(world.spelling[word] for word in words_L.tolist())
            stream.write(json.dumps({"text": text}) + "\n")
