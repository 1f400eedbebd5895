"""How many workers a command starts on this machine."""

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
