"""Typed access to the fields of a config.json: what is missing or of the wrong type is named, with a remedy."""

from collections.abc import Mapping
from dataclasses import dataclass

from distillaw.errors import ConfigError

_MOST, _MOST_LAYERS = 10**12, 10**5


@dataclass(frozen=True, slots=True)
class ConfigFields:
    """The fields of one Hugging Face config, read one at a time.

    A key that is absent or null takes the default of its model type, as `transformers` does.
    """

    values: Mapping[str, object]
    source: str
    """Where the config came from, for error messages."""

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise ConfigError(
                f"{self.source}: key {key!r} is missing; a config of this model type needs it. "
                "Give the config.json that the model was saved with"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{self.source}: {key} = {value!r}; it must be a whole number of at least 1")
        most = _MOST_LAYERS if "layer" in key else _MOST
        if value > most:
            raise ConfigError(f"{self.source}: {key} = {value!r}; no model has more than {most:,}")
        return value

    def optional_count(self, key: str, default: int | None = None) -> int | None:
        """A whole number, or None where the key is null or 0 (saved so when off); the default where absent."""
        if key not in self.values:
            return default
        return None if self.values[key] in (None, 0) else self.count(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ConfigError(f"{self.source}: {key} = {value!r}; it must be true or false")
        return value

    def items(self, key: str) -> list[object] | None:
        """A list, or None where the key is absent or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise ConfigError(f"{self.source}: {key} = {value!r}; it must be a list")
        return value

    def layer_types(self, layers: int) -> list[str] | None:
        """The list `layer_types`, one known word per layer, or None where it is absent."""
        words = self.items("layer_types")
        if words is None:
            return None
        unknown = [w for w in words if w not in ("sliding_attention", "full_attention")]
        if unknown or len(words) != layers:
            raise ConfigError(
                f"{self.source}: layer_types has {len(words)} entries"
                + (f", among them {unknown[0]!r}" if unknown else "")
                + f"; it must name 'full_attention' or 'sliding_attention' for each of {layers} layers"
            )
        return [str(w) for w in words]

    def refuse(self, key: str, allowed: object, why: str) -> None:
        """Refuse a setting that changes the counts in a way that is not modelled."""
        value = self.values.get(key)
        if value is not None and value != allowed:
            raise ConfigError(f"{self.source}: {key} = {value!r} is not counted here: {why}")
