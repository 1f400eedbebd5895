"""An `Architecture` straight from a Hugging Face config.json, without torch or transformers.

    python -c "from distillaw.accounting.config import read_architecture as r; print(r('config.json'))"

Defaults and layer rules of each model type are those of transformers 5.23 (`configuration_*.py`, `modeling_*.py`); the
tests compare every reader with the real module, parameter by parameter and FLOP by FLOP. What cannot be counted
exactly, a model type that is not in `READERS` among it, is refused rather than guessed.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from distillaw.accounting.architecture import Architecture, Attention, Block, FeedForward
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
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a config.json or its folder") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not a JSON file ({error}); give the model's config.json") from error
    return architecture_from_config(config, source=str(file))


def architecture_from_config(config: Mapping[str, object], *, source: str = "config") -> Architecture:
    """The architecture that the content of a config.json describes.

    Args:
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


_MOST, _MOST_LAYERS = 10**12, 10**5
"""No model has a dimension beyond the one or more layers than the other: typing errors, and sums that stay exact."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaLike:
    """How a model type differs from Llama: defaults of its keys, norms, biases, windows, experts."""

    context: int = 2048
    tied: bool = False
    heads: int | None = None
    kv_heads: int | None = None
    """Default number of key-value heads; None is one per query head."""
    head_dim: int | None = None
    """Default head dimension; None is width / heads."""
    vocab: int | None = None
    norms: int = 2
    """Norms of one layer, besides query and key norms."""
    query_key_norm: str = ""
    """`head`: gains of one head, shared; `projection`: gains of all heads; empty: no such norm."""
    qkv_bias: Callable[[ConfigFields], bool] | None = None
    """Biases of query, key and value alone; None: `attention_bias` decides for all four projections."""
    windows: Callable[[ConfigFields, int], list[int | None]] | None = None
    """The sliding window of each layer; None: no model of this type has one."""
    feed_forward: Callable[[ConfigFields, int], FeedForward] | None = None
    """The FFN of layer i; None: gated and dense."""


def read_llama_like(config: ConfigFields, *, name: str, family: LlamaLike) -> Architecture:
    """Llama and its relatives: RMSNorm, rotary positions, gated FFN or mixture of gated experts."""
    width, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    windows = family.windows(config, layers) if family.windows else [None] * layers
    feed_forward = family.feed_forward or _gated_ffn
    norms = family.norms * width
    blocks = [
        Block(count=1, attention=_attention(config, family, window), ffn=feed_forward(config, i), norm_params=norms)
        for i, window in enumerate(windows)
    ]
    return Architecture(
        name=name,
        width=width,
        vocab=config.count("vocab_size", family.vocab),
        context=config.count("max_position_embeddings", family.context),
        blocks=tuple(replace(block, count=n) for block, n in Counter(blocks).items()),
        tied=config.flag("tie_word_embeddings", family.tied),
        final_norm_params=width,
    )


def _attention(config: ConfigFields, family: LlamaLike, window: int | None) -> Attention:
    width = config.count("hidden_size")
    heads = config.count("num_attention_heads", family.heads)
    kv_heads = config.count("num_key_value_heads", family.kv_heads or heads)
    head_dim = config.count("head_dim", family.head_dim or _even_share(config, width, heads))
    of_qkv = (heads + 2 * kv_heads) * head_dim
    if family.qkv_bias is not None:
        biases = of_qkv if family.qkv_bias(config) else 0
    else:
        biases = of_qkv + width if config.flag("attention_bias", False) else 0
    gains = {"": 0, "head": 2 * head_dim, "projection": (heads + kv_heads) * head_dim}[family.query_key_norm]
    return Attention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window, bias_params=biases, norm_params=gains
    )


def _even_share(config: ConfigFields, width: int, heads: int) -> int:
    """The head dimension where the config does not state one.

    Raises:
        ConfigError: the width does not divide, which transformers refuses too.
    """
    if width % heads and "head_dim" not in config.values:
        raise ConfigError(
            f"{config.source}: width {width} is not a multiple of {heads} heads, and no head_dim is given"
        )
    return max(1, width // heads)


def _gated_ffn(config: ConfigFields, layer: int) -> FeedForward:
    width, ffn = config.count("hidden_size"), config.count("intermediate_size")
    return FeedForward(width=ffn, bias_params=2 * ffn + width if config.flag("mlp_bias", False) else 0)


def _mixtral_ffn(config: ConfigFields, layer: int) -> FeedForward:
    return FeedForward(
        width=config.count("intermediate_size"),
        experts=config.count("num_local_experts", 8),
        active_experts=config.count("num_experts_per_tok", 2),
    )


def _pyramid_ffn(config: ConfigFields, layer: int) -> FeedForward:
    """Numbers of experts by layer (models/pyramid.py, `distillaw upcycle`); without them Mixtral's."""
    by_layer = config.items("experts_per_layer")
    if by_layer is None:
        return _mixtral_ffn(config, layer)
    layers = config.count("num_hidden_layers")
    if len(by_layer) != layers or not all(isinstance(n, int) and n >= 1 for n in by_layer):
        raise ConfigError(
            f"{config.source}: experts_per_layer = {by_layer}; it must hold a whole number for each of {layers} layers"
        )
    experts = int(str(by_layer[layer]))
    return FeedForward(
        width=config.count("intermediate_size"),
        experts=experts,
        active_experts=min(experts, config.count("num_experts_per_tok", 2)),
    )


def _qwen_mixture(shared: bool, experts: int, active: int) -> Callable[[ConfigFields, int], FeedForward]:
    """Qwen mixtures: some layers dense, and in Qwen2 a gated expert that every token visits."""

    def read(config: ConfigFields, layer: int) -> FeedForward:
        # transformers 5 writes Qwen3-MoE's num_experts under the name of its attribute map.
        total = config.count("num_experts", config.count("num_local_experts", experts))
        dense = layer in (config.items("mlp_only_layers") or [])
        if dense or (layer + 1) % config.count("decoder_sparse_step", 1):
            return FeedForward(width=config.count("intermediate_size"))
        return FeedForward(
            width=config.count("moe_intermediate_size"),
            experts=total,
            active_experts=config.count("num_experts_per_tok", active),
            shared_width=config.count("shared_expert_intermediate_size") if shared else 0,
            shared_gate=shared,
        )

    return read


def _every_layer(default: int | None) -> Callable[[ConfigFields, int], list[int | None]]:
    """One window for all layers; null turns it off."""
    return lambda config, layers: [config.optional_count("sliding_window", default)] * layers


def _if_used(config: ConfigFields, layers: int) -> list[int | None]:
    """Qwen3-MoE: every layer, when `use_sliding_window` says so."""
    used = config.flag("use_sliding_window", False)
    return [config.optional_count("sliding_window", 4096) if used else None] * layers


def _by_layer(
    default: int | None, is_sliding: Callable[[ConfigFields, int], bool], *, switch: bool
) -> Callable[[ConfigFields, int], list[int | None]]:
    """Windows in the layers that `layer_types` names, or that the model type's rule chooses."""

    def windows(config: ConfigFields, layers: int) -> list[int | None]:
        window = config.optional_count("sliding_window", default)
        if window is None or (switch and not config.flag("use_sliding_window", False)):
            return [None] * layers
        words = config.layer_types(layers)
        if words is not None:
            return [window if word == "sliding_attention" else None for word in words]
        return [window if is_sliding(config, i) else None for i in range(layers)]

    return windows


def _late(config: ConfigFields, layer: int) -> bool:
    return layer >= config.count("max_window_layers", 28)


def _even_early(config: ConfigFields, layer: int) -> bool:
    return layer % 2 == 0 and layer < config.count("max_window_layers", 28)


def _without_rope(config: ConfigFields, layer: int) -> bool:
    rotated = config.items("no_rope_layers")
    return not rotated[layer] if rotated else (layer + 1) % config.count("no_rope_layer_interval", 4) == 0


_MIXTRAL = LlamaLike(
    context=131072, kv_heads=8, windows=_every_layer(None), qkv_bias=lambda config: False, feed_forward=_mixtral_ffn
)
_LLAMA_LIKE = {
    "llama": LlamaLike(),
    "mistral": LlamaLike(context=131072, kv_heads=8, windows=_every_layer(4096), qkv_bias=lambda config: False),
    "mixtral": _MIXTRAL,
    "pyramid_mixtral": replace(_MIXTRAL, feed_forward=_pyramid_ffn),
    "qwen2": LlamaLike(context=32768, qkv_bias=lambda config: True, windows=_by_layer(4096, _late, switch=True)),
    "qwen2_moe": LlamaLike(
        context=32768,
        qkv_bias=lambda config: config.flag("qkv_bias", True),
        windows=_by_layer(4096, _even_early, switch=True),
        feed_forward=_qwen_mixture(shared=True, experts=60, active=4),
    ),
    "qwen3": LlamaLike(context=32768, head_dim=128, query_key_norm="head", windows=_by_layer(4096, _late, switch=True)),
    "qwen3_moe": LlamaLike(
        context=32768,
        kv_heads=4,
        query_key_norm="head",
        windows=_if_used,
        feed_forward=_qwen_mixture(shared=False, experts=128, active=8),
    ),
    "gemma": LlamaLike(context=8192, tied=True, head_dim=256),
    "gemma2": LlamaLike(
        context=8192,
        tied=True,
        kv_heads=4,
        head_dim=256,
        norms=4,
        windows=_by_layer(4096, lambda config, layer: layer % 2 == 0, switch=False),
    ),
    "gemma3_text": LlamaLike(
        context=131072,
        tied=True,
        heads=8,
        kv_heads=4,
        head_dim=256,
        vocab=262208,
        norms=4,
        query_key_norm="head",
        windows=_by_layer(
            4096, lambda config, layer: (layer + 1) % config.count("sliding_window_pattern", 6) != 0, switch=False
        ),
    ),
    "granite": LlamaLike(),
    "olmo2": LlamaLike(query_key_norm="projection"),
    "phi3": LlamaLike(context=4096, windows=_every_layer(None), qkv_bias=lambda config: False),
    "smollm3": LlamaLike(context=32768, tied=True, kv_heads=4, windows=_by_layer(None, _without_rope, switch=True)),
}


def _plain_model(
    name: str, width: int, layers: int, attention: Attention, ffn: int, *, biased: bool = True, **more: Any
) -> Architecture:
    """Equal layers of LayerNorm with bias and a plain FFN; `more` are fields of the architecture."""
    feed_forward = FeedForward(width=ffn, matrices=2, bias_params=ffn + width if biased else 0)
    block = Block(count=layers, attention=attention, norm_params=4 * width, ffn=feed_forward)
    return Architecture(name=name, width=width, blocks=(block,), final_norm_params=2 * width, **more)


def _read_gpt2(config: ConfigFields) -> Architecture:
    """GPT-2: learned positions, LayerNorm with bias, plain FFN, biases everywhere but in the head."""
    config.refuse("add_cross_attention", False, "cross-attention belongs to encoder-decoders")
    width, heads = config.count("n_embd", 768), config.count("n_head", 12)
    context, ffn = config.count("n_positions", 1024), config.count("n_inner", 4 * width)
    attention = Attention(
        heads=heads, kv_heads=heads, head_dim=_even_share(config, width, heads), bias_params=4 * width
    )
    size = {"vocab": config.count("vocab_size", 50257), "context": context, "positions": context}
    tied = config.flag("tie_word_embeddings", True)
    return _plain_model("gpt2", width, config.count("n_layer", 12), attention, ffn, tied=tied, **size)


def _read_gpt_neox(config: ConfigFields) -> Architecture:
    """GPT-NeoX and Pythia: rotary positions, LayerNorm with bias, plain FFN, untied."""
    width, heads = config.count("hidden_size"), config.count("num_attention_heads")
    biases = 4 * width if config.flag("attention_bias", True) else 0
    attention = Attention(heads=heads, kv_heads=heads, head_dim=_even_share(config, width, heads), bias_params=biases)
    return _plain_model(
        "gpt_neox",
        width,
        config.count("num_hidden_layers"),
        attention,
        config.count("intermediate_size"),
        vocab=config.count("vocab_size"),
        context=config.count("max_position_embeddings", 2048),
        tied=config.flag("tie_word_embeddings", False),
    )


def _read_starcoder2(config: ConfigFields) -> Architecture:
    """StarCoder2: grouped-query attention and rotary positions, LayerNorm with bias, plain FFN."""
    width, heads = config.count("hidden_size"), config.count("num_attention_heads")
    kv_heads, biased = config.count("num_key_value_heads", 2), config.flag("use_bias", True)
    head_dim = config.count("head_dim", _even_share(config, width, heads))
    attention = Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=config.optional_count("sliding_window"),
        bias_params=(heads + 2 * kv_heads) * head_dim + width if biased else 0,
    )
    return _plain_model(
        "starcoder2",
        width,
        config.count("num_hidden_layers"),
        attention,
        config.count("intermediate_size"),
        biased=biased,
        vocab=config.count("vocab_size"),
        context=config.count("max_position_embeddings", 4096),
        tied=config.flag("tie_word_embeddings", True),
    )


READERS: dict[str, Callable[[ConfigFields], Architecture]] = {
    **{name: partial(read_llama_like, name=name, family=family) for name, family in _LLAMA_LIKE.items()},
    "gpt2": _read_gpt2,
    "gpt_neox": _read_gpt_neox,
    "starcoder2": _read_starcoder2,
}
"""Model type -> reader."""
