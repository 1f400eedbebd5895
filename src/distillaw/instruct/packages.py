"""The packages that fine-tuning needs besides those of training; asked for before any work begins."""

from importlib.util import find_spec

from distillaw.errors import ConfigError

NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def require_instruct() -> None:
    """Check that everything is there, without importing it.

    Raises:
        ConfigError: naming what is missing and how to get it.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(f'chat models need {", ".join(missing)}: pip install "distillaw[train,instruct]"')
