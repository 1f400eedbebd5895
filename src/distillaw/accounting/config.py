"""An `Architecture` straight from a Hugging Face config.json, without torch or transformers.

    python -c "from distillaw.accounting.config import read_architecture as r; print(r('config.json'))"

What each model type means is in config_models.py; what cannot be counted exactly is refused.
"""

from collections.abc import Mapping
from pathlib import Path

from distillaw.accounting.architecture import Architecture
from distillaw.accounting.config_fields import ConfigFields
from distillaw.accounting.config_models import READERS
from distillaw.errors import ConfigError
from distillaw.quantities import did_you_mean
from distillaw.runs.files import parse_json, read_text


def read_architecture(path: Path | str) -> Architecture:
    """The architecture that a config.json, or a model folder that holds one, describes.

    Raises:
        ConfigError: no such file, not JSON, an unknown model type, a missing or impossible key.
    """
    file = Path(path)
    file = file / "config.json" if file.is_dir() else file
    try:
        config = parse_json(read_text(file))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); give a config.json or its folder"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file}: not a JSON file ({error}); give the model's config.json") from error
    return architecture_from_config(config, source=str(file))


def architecture_from_config(config: Mapping[str, object], *, source: str = "config") -> Architecture:
    """The architecture that the content of a config.json describes.

    Args:
        config: the parsed JSON object, with its `model_type`.
        source: where it came from, for error messages.

    Raises:
        ConfigError: an unknown model type, a missing or impossible key.

    Example:
        >>> arch = architecture_from_config({"model_type": "gpt2"})
        >>> arch.layers, arch.width, arch.tied
        (12, 768, True)
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{source}: holds a {type(config).__name__}, not a JSON object; give a config.json")
    if "text_config" in config:
        raise ConfigError(
            f"{source}: a multimodal config ({config.get('model_type')}); only language models are counted. "
            "Save its text_config as a file of its own to count the language part"
        )
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in READERS:
        known = ", ".join(sorted(READERS))
        raise ConfigError(
            f"{source}: model_type {kind!r} is not known{did_you_mean(str(kind), READERS)}. "
            f"Known: {known}. For another decoder give --layers --width --ffn --heads --vocab --context"
        )
    return READERS[str(kind)](ConfigFields(config, source))
