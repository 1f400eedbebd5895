"""The name of a set of weights: a hash of its files. Torch-free, so that a dry run can check a teacher."""

import hashlib
from pathlib import Path

from distillaw.errors import CacheError
from distillaw.runs.files import file_sha256


def fingerprint(folder: Path) -> str:
    """SHA-256 over the checksums of a folder's safetensors files, 16 hex digits.

    Raises:
        CacheError: the folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CacheError(f"{folder}: no *.safetensors there, so no teacher")
    return hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()[:16]
