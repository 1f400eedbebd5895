"""What of this machine a command uses: how many workers it starts, and where models run."""

import math
from collections.abc import Sequence
from pathlib import Path

from distillaw.errors import ConfigError


def count_workers(asked: int, option: str = "--workers") -> int:
    """Workers to start: if 0, one per CUDA device, or per core where there is none.

    Raises:
        ConfigError: negative, or more than four per core.
    """
    from distillaw.runs.process import available_cores
    from distillaw.sweep.executor import cuda_devices

    cores = available_cores()
    if not 0 <= asked <= 4 * cores:
        raise ConfigError(f"{option} {asked}: give 0 (all {cores} cores) or a number up to {4 * cores}")
    return asked or len(cuda_devices()) or cores


SMALL_BYTES = 20_000_000
"""Weights on disk below which a pass is faster on one thread than on two (5M float32 parameters)."""


def torch_device(name: str, *models: str) -> str:
    """The name torch knows: `auto` is cuda where there is one. On CPUs torch gets all cores if the models gain by it.

    Args:
        name: the option.
        models: what will run: folders, GGUF files, or names on the hub, which are taken for large.

    Raises:
        ConfigError: not cpu, cuda, cuda:N or auto, or cuda where torch sees none.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if models:
        _use_cores(models)
    if name == "auto":
        return "cuda" if count else "cpu"
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name not in known:
        raise ConfigError(f"--device {name}: torch here has {', '.join(known)}; give one of these, or auto")
    return name


def _use_cores(models: Sequence[str]) -> None:
    """All cores for a model that is large enough; the command line starts with one."""
    import torch

    from distillaw.runs.process import available_cores

    if any(_bytes(Path(model).expanduser()) >= SMALL_BYTES for model in models):
        torch.set_num_threads(available_cores())


def _bytes(path: Path) -> float:
    """Bytes of a model's weights; infinity where they are not here."""
    files = (
        [path]
        if path.is_file()
        else [file for file in path.glob("*") if file.suffix in (".safetensors", ".bin")]
    )
    return sum(file.stat().st_size for file in files) if files else math.inf
