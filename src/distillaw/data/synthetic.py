"""A world as a corpus: its documents as token shards, split by position, with words for a tokenizer.

Nothing is read, trained or encoded: tokens are the world's own, and each split has its own range of positions, so none
shares a document with another and more text never changes what was there before.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distillaw.data.shards import HELDOUT_BOUNDS, ShardWriter, TokenStore
from distillaw.errors import ConfigError
from distillaw.runs.config import from_table
from distillaw.worlds.spec import WorldSpec
from distillaw.worlds.world import World, open_world

SPARE_TOKENS = 4096
"""Beyond what is asked for, since the ragged end of a split makes no window."""


def write_world(
    world: World, folder: Path, dtype: np.dtype, *, counts: Mapping[str, int], scored_tokens: int
) -> dict[str, dict]:
    """Write the shards of every split and the held-out bounds; returns the manifest's `splits`.

    Args:
        world: the language.
        folder: where the shards go.
        dtype: of a token.
        counts: documents of each split.
        scored_tokens: of each held-out document, its first ones.
    """
    end, kept = world.end_of_text, min(scored_tokens, world.spec.document_tokens)
    writers = {split: ShardWriter(folder, split, dtype) for split in counts}
    for split, writer in writers.items():
        for words_NL in world.blocks(split, counts[split]):
            column = np.full((len(words_NL), 1), end)
            is_heldout = split == "validation"
            parts = [column, words_NL[:, :kept]] if is_heldout else [words_NL, column]
            writer.append(np.concatenate(parts, axis=1).ravel())
        writer.flush()
    np.save(folder / HELDOUT_BOUNDS, np.arange(counts["validation"] + 1, dtype=np.int64) * (kept + 1))
    return {
        split: {"documents": counts[split], "tokens": writer.tokens, "shards": writer.files}
        for split, writer in writers.items()
    }


def documents_for(tokens: int, world: WorldSpec) -> int:
    """Documents of a split that is to give so many tokens."""
    return -(-(tokens + SPARE_TOKENS) // (world.document_tokens + 1))


def world_of(store: TokenStore) -> World:
    """The world that a token store was made from.

    Raises:
        ConfigError: its text is no world's.
    """
    spec = store.manifest["spec"]
    table = spec.get("world") if isinstance(spec, dict) else None
    if table is None:
        raise ConfigError(
            f"{store.folder}: the text is no world's, so nobody knows its exact distribution and no oracle can teach "
            "it. Make the text from a world with a [data.world] table, or name a model as teacher"
        )
    return open_world(from_table(WorldSpec, without_none(table), f"{store.folder}/manifest.json: world"))


def without_none(table: dict) -> dict:
    """A table as TOML would have it: JSON writes what is not set as null."""
    return {
        name: without_none(value) if isinstance(value, dict) else value
        for name, value in table.items()
        if value is not None
    }
