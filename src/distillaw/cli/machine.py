"""What of this machine a command uses: how many workers it starts, and where models run."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillaw.cli.options import given, options_of
from distillaw.cli.output import Output
from distillaw.errors import ConfigError
from distillaw.runs.execution import Execution, launched
from distillaw.runs.process import available_cores

if TYPE_CHECKING:
    from distillaw.models.parallel import Ranks


def count_workers(asked: int, option: str = "--workers") -> int:
    """Workers to start: if 0, one per CUDA device, or per core where there is none.

    Raises:
        ConfigError: negative, or more than four per core.
    """
    from distillaw.sweep.executor import cuda_devices

    cores = available_cores()
    if not 0 <= asked <= 4 * cores:
        raise ConfigError(f"{option} {asked}: give 0 (all {cores} cores) or a number up to {4 * cores}")
    return asked or len(cuda_devices()) or cores


def torch_dtype(options: Any) -> Any:
    """The torch type of weights that are only read, if one was asked for."""
    import torch

    return {None: None, "fp32": torch.float32, "bf16": torch.bfloat16}[execution_of(options).precision]


_SAVING = ("async_checkpoints", "keep_checkpoints")
_HOW = ("teacher_processes", "sharding", "precision", "micro_batch", "checkpoint_activations", *_SAVING)
SMALL_BYTES = 20_000_000
"""Weights on disk below which a pass is faster on one thread than on two (5M float32 parameters)."""


ExecutionOptions = options_of(Execution, group="Execution")
"""Of commands that train, from a teacher too."""
TuningOptions = options_of(Execution, without=("teacher_processes", *_SAVING), group="Execution")
"""Of commands that tune a chat model."""
_OF_TRAINING = ("teacher_processes", "micro_batch", "checkpoint_activations", *_SAVING)
ReadingOptions = options_of(Execution, without=_OF_TRAINING, group="Execution")
"""Of commands whose models are only read, as many windows at once as they choose."""
PlaceOptions = options_of(Execution, without=_HOW, group="Execution")
"""Of commands that write one model: processes and device."""


@contextlib.contextmanager
def joined(options: Any, output: Output, *models: str) -> "Iterator[tuple[Ranks, Output]]":
    """The processes that a command runs on, and how this one answers: all but the first are quiet.

    With `--processes` this process becomes torchrun, which starts the same command on each.

    Args:
        options: one of the groups above.
        output: what was asked of the answer.
        models: what will run: folders, GGUF files, or names on the hub, which are taken for large. On CPUs torch gets
            all cores if they gain by it.

    Raises:
        ConfigError: settings that cannot be, or devices that are not there.
    """
    execution = execution_of(options)
    execution.check()
    if execution.processes > 1 and not launched():
        sys.stdout.flush()
        launcher = [sys.executable, "-m", "distillaw.cli.processes", str(execution.processes)]
        os.execv(sys.executable, [*launcher, *sys.argv[1:]])
    from distillaw.models.parallel import join_ranks

    with join_ranks(execution) as ranks:
        if ranks.link and ranks.link.is_teacher:
            from distillaw.models.teacher import serve_teachers

            _share_cores()
            serve_teachers(ranks)
            sys.exit(0)
        if models and ranks.device.type == "cpu":
            _use_cores(models)
        yield ranks, output if ranks.is_first else replace(output, quiet=True)


def execution_of(options: Any) -> Execution:
    """The settings of one of the groups above; None: what they are unless given."""
    return Execution(**given(options))


def torch_device(name: str, *models: str) -> str:
    """The name torch knows: `auto` is cuda where there is one; of one process (`joined` is for several).

    Args:
        name: the option.
        models: as of `joined`.

    Raises:
        ConfigError: not cpu, cuda, cuda:N or auto, or cuda where torch sees none.
    """
    from distillaw.models.parallel import device_of

    if models:
        _use_cores(models)
    return str(device_of(name))


def _use_cores(models: Sequence[str]) -> None:
    """All cores, shared by the processes here, for a model that is large enough; the command line starts with one."""
    if any(_bytes(Path(model).expanduser()) >= SMALL_BYTES for model in models):
        _share_cores()


def _share_cores() -> None:
    import torch

    torch.set_num_threads(max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def _bytes(path: Path) -> float:
    """Bytes of a model's weights; infinity where they are not here."""
    files = [path] if path.is_file() else [file for file in path.glob("*") if file.suffix in (".safetensors", ".bin")]
    return sum(file.stat().st_size for file in files) if files else math.inf
