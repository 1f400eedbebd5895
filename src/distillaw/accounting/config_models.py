"""How each Hugging Face model type turns its config into an `Architecture`.

Defaults and layer rules are those of transformers 5.23 (`configuration_*.py`, `modeling_*.py`); the tests
compare every reader with the real module, parameter by parameter and FLOP by FLOP. A model type that is not
in `READERS` is refused rather than guessed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from distillaw.accounting.architecture import Architecture, Attention, Block, FeedForward
from distillaw.accounting.config_fields import ConfigFields
from distillaw.errors import ConfigError


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


def read_llama_like(config: ConfigFields, name: str, family: LlamaLike) -> Architecture:
    """Llama and its relatives: RMSNorm, rotary positions, gated FFN or mixture of gated experts."""
    width, layers = config.count("hidden_size"), config.count("num_hidden_layers")
    windows = family.windows(config, layers) if family.windows else [None] * layers
    feed_forward = family.feed_forward or _gated_ffn
    norms = family.norms * width
    blocks = [
        Block(
            count=1,
            attention=_attention(config, family, window),
            ffn=feed_forward(config, i),
            norm_params=norms,
        )
        for i, window in enumerate(windows)
    ]
    return Architecture(
        name=name, width=width, vocab=config.count("vocab_size", family.vocab),
        context=config.count("max_position_embeddings", family.context), blocks=merge_blocks(blocks),
        tied=config.flag("tie_word_embeddings", family.tied), final_norm_params=width,
    )  # fmt: skip


def merge_blocks(blocks: list[Block]) -> tuple[Block, ...]:
    """Equal layers counted together, in order of first appearance."""
    counted = Counter(blocks)
    return tuple(
        Block(count=n, attention=b.attention, ffn=b.ffn, norm_params=b.norm_params)
        for b, n in counted.items()
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
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=window,
        bias_params=biases,
        norm_params=gains,
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
        width=config.count("intermediate_size"), experts=config.count("num_local_experts", 8),
        active_experts=config.count("num_experts_per_tok", 2),
    )  # fmt: skip


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
        width=config.count("intermediate_size"), experts=experts,
        active_experts=min(experts, config.count("num_experts_per_tok", 2)),
    )  # fmt: skip


def _qwen_mixture(shared: bool, experts: int, active: int) -> Callable[[ConfigFields, int], FeedForward]:
    """Qwen mixtures: some layers dense, and in Qwen2 a gated expert that every token visits."""

    def read(config: ConfigFields, layer: int) -> FeedForward:
        # transformers 5 writes Qwen3-MoE's num_experts under the name of its attribute map.
        total = config.count("num_experts", config.count("num_local_experts", experts))
        dense = layer in (config.items("mlp_only_layers") or [])
        if dense or (layer + 1) % config.count("decoder_sparse_step", 1):
            return FeedForward(width=config.count("intermediate_size"))
        return FeedForward(
            width=config.count("moe_intermediate_size"), experts=total,
            active_experts=config.count("num_experts_per_tok", active),
            shared_width=config.count("shared_expert_intermediate_size") if shared else 0, shared_gate=shared,
        )  # fmt: skip

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


_LLAMA_LIKE = {
    "llama": LlamaLike(),
    "mistral": LlamaLike(
        context=131072, kv_heads=8, windows=_every_layer(4096), qkv_bias=lambda config: False
    ),
    "mixtral": LlamaLike(
        context=131072, kv_heads=8, windows=_every_layer(None), qkv_bias=lambda config: False,
        feed_forward=_mixtral_ffn,
    ),
    "pyramid_mixtral": LlamaLike(
        context=131072, kv_heads=8, windows=_every_layer(None), qkv_bias=lambda config: False,
        feed_forward=_pyramid_ffn,
    ),
    "qwen2": LlamaLike(
        context=32768, qkv_bias=lambda config: True, windows=_by_layer(4096, _late, switch=True)
    ),
    "qwen2_moe": LlamaLike(
        context=32768, qkv_bias=lambda config: config.flag("qkv_bias", True),
        windows=_by_layer(4096, _even_early, switch=True),
        feed_forward=_qwen_mixture(shared=True, experts=60, active=4),
    ),
    "qwen3": LlamaLike(
        context=32768, head_dim=128, query_key_norm="head", windows=_by_layer(4096, _late, switch=True)
    ),
    "qwen3_moe": LlamaLike(
        context=32768, kv_heads=4, query_key_norm="head", windows=_if_used,
        feed_forward=_qwen_mixture(shared=False, experts=128, active=8),
    ),
    "gemma": LlamaLike(context=8192, tied=True, head_dim=256),
    "gemma2": LlamaLike(
        context=8192, tied=True, kv_heads=4, head_dim=256, norms=4,
        windows=_by_layer(4096, lambda config, layer: layer % 2 == 0, switch=False),
    ),
    "gemma3_text": LlamaLike(
        context=131072, tied=True, heads=8, kv_heads=4, head_dim=256, vocab=262208, norms=4,
        query_key_norm="head",
        windows=_by_layer(
            4096, lambda config, layer: (layer + 1) % config.count("sliding_window_pattern", 6) != 0,
            switch=False,
        ),
    ),
    "granite": LlamaLike(),
    "olmo2": LlamaLike(query_key_norm="projection"),
    "phi3": LlamaLike(context=4096, windows=_every_layer(None), qkv_bias=lambda config: False),
    "smollm3": LlamaLike(
        context=32768, tied=True, kv_heads=4, windows=_by_layer(None, _without_rope, switch=True)
    ),
}  # fmt: skip


def _read_gpt2(config: ConfigFields) -> Architecture:
    """GPT-2: learned positions, LayerNorm with bias, plain FFN, biases everywhere but in the head."""
    config.refuse("add_cross_attention", False, "cross-attention belongs to encoder-decoders")
    width, heads = config.count("n_embd", 768), config.count("n_head", 12)
    context, ffn = config.count("n_positions", 1024), config.count("n_inner", 4 * width)
    attention = Attention(
        heads=heads, kv_heads=heads, head_dim=_even_share(config, width, heads), bias_params=4 * width
    )
    block = Block(
        count=config.count("n_layer", 12), attention=attention, norm_params=4 * width,
        ffn=FeedForward(width=ffn, matrices=2, bias_params=ffn + width),
    )  # fmt: skip
    return Architecture(
        name="gpt2", width=width, vocab=config.count("vocab_size", 50257), context=context, blocks=(block,),
        tied=config.flag("tie_word_embeddings", True), positions=context, final_norm_params=2 * width,
    )  # fmt: skip


def _read_gpt_neox(config: ConfigFields) -> Architecture:
    """GPT-NeoX and Pythia: rotary positions, LayerNorm with bias, plain FFN, untied."""
    width, heads = config.count("hidden_size"), config.count("num_attention_heads")
    ffn = config.count("intermediate_size")
    biases = 4 * width if config.flag("attention_bias", True) else 0
    head_dim = _even_share(config, width, heads)
    block = Block(
        count=config.count("num_hidden_layers"), norm_params=4 * width,
        attention=Attention(heads=heads, kv_heads=heads, head_dim=head_dim, bias_params=biases),
        ffn=FeedForward(width=ffn, matrices=2, bias_params=ffn + width),
    )  # fmt: skip
    return Architecture(
        name="gpt_neox", width=width, vocab=config.count("vocab_size"), blocks=(block,),
        context=config.count("max_position_embeddings", 2048), final_norm_params=2 * width,
        tied=config.flag("tie_word_embeddings", False),
    )  # fmt: skip


def _read_starcoder2(config: ConfigFields) -> Architecture:
    """StarCoder2: grouped-query attention and rotary positions, LayerNorm with bias, plain FFN."""
    width, heads = config.count("hidden_size"), config.count("num_attention_heads")
    kv_heads, ffn = config.count("num_key_value_heads", 2), config.count("intermediate_size")
    head_dim = config.count("head_dim", _even_share(config, width, heads))
    biased = config.flag("use_bias", True)
    attention = Attention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=config.optional_count("sliding_window"),
        bias_params=(heads + 2 * kv_heads) * head_dim + width if biased else 0,
    )  # fmt: skip
    block = Block(
        count=config.count("num_hidden_layers"), attention=attention, norm_params=4 * width,
        ffn=FeedForward(width=ffn, matrices=2, bias_params=ffn + width if biased else 0),
    )  # fmt: skip
    return Architecture(
        name="starcoder2", width=width, vocab=config.count("vocab_size"), blocks=(block,),
        context=config.count("max_position_embeddings", 4096), final_norm_params=2 * width,
        tied=config.flag("tie_word_embeddings", True),
    )  # fmt: skip


def _reader(name: str, family: LlamaLike) -> Callable[[ConfigFields], Architecture]:
    return lambda config: read_llama_like(config, name, family)


READERS: dict[str, Callable[[ConfigFields], Architecture]] = {
    **{name: _reader(name, family) for name, family in _LLAMA_LIKE.items()},
    "gpt2": _read_gpt2,
    "gpt_neox": _read_gpt_neox,
    "starcoder2": _read_starcoder2,
}
"""Model type -> reader."""
