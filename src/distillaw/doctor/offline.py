"""What works without a network, and what would ask for one."""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from distillaw.errors import DistillawError

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """Whether quickstart and one's own studies need a network, and what else does."""

    switches: dict[str, str]
    """Variables that forbid the hub, where they are set."""
    corpus_bytes: int | None
    """Of the text inside the package; None where it is missing."""
    tokenizer: str
    """`trained`, `not tried` or what went wrong."""
    hub_cache: str
    cached_models: tuple[str, ...]
    """Models on the hub whose files are here already, owner/name."""

    @property
    def forbids_hub(self) -> bool:
        """Whether the hub is never asked."""
        return self.switches.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def read_offline(*, train_tokenizer: bool) -> Offline:
    """Look; with `train_tokenizer` also learn a small one from the packaged text."""
    corpus = files("distillaw.data").joinpath("corpora/sotu.parquet")
    cache = Path(
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    )
    cache = cache.expanduser()
    return Offline(
        switches={name: os.environ[name] for name in SWITCHES if name in os.environ},
        corpus_bytes=len(corpus.read_bytes()) if corpus.is_file() else None,
        tokenizer=_try_tokenizer() if train_tokenizer else "not tried",
        hub_cache=str(cache),
        cached_models=tuple(
            sorted(
                path.name.removeprefix("models--").replace("--", "/", 1) for path in cache.glob("models--*")
            )
        ),
    )


def _try_tokenizer() -> str:
    """Learn 300 pieces from a few documents."""
    from itertools import islice

    try:
        from distillaw.data.corpus import read_documents
        from distillaw.data.tokenizer import train_tokenizer

        train_tokenizer(islice(read_documents("sotu"), 4), vocab_size=300)
    except (ImportError, OSError, DistillawError) as error:
        return f"failed: {error}"
    return "trained"
