"""The name of a set of weights: a hash of its files. Torch-free, so that a dry run can check a teacher."""

import hashlib
from pathlib import Path

from distillaw.errors import CacheError
from distillaw.models.source import ModelSource, locate
from distillaw.runs.files import content_hash, file_sha256, read_json

VOLATILE_KEYS = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
)
"""Entries of a config.json that do not change a single logit of the float32 model."""


def fingerprint(name: str | Path | ModelSource) -> str:
    """SHA-256 over the checksums of a model's weights and its configuration, 16 hex digits.

    Args:
        name: a Hugging Face folder, a GGUF file or a name on the hub.

    Raises:
        CacheError: no weights there.
    """
    source = locate(name)
    if source.gguf_file is not None:
        return file_sha256(source.folder / source.gguf_file)[:16]
    files = sorted(source.folder.glob("*.safetensors")) or sorted(source.folder.glob("pytorch_model*.bin"))
    if not files:
        raise CacheError(f"{source.name}: no *.safetensors in {source.folder}, so no teacher")
    config = read_json(source.folder / "config.json")
    kept = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
    parts = [*(file_sha256(file) for file in files), content_hash(kept, digits=64)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
