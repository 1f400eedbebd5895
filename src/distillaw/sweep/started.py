"""A trunk whose student is a model on disk: what its folder says goes into the trunk's description.

The folder says itself where its weights are from: a cut (`distillaw prune` leaves prune.json there) or training.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distillaw.models.fresh import count_config
from distillaw.models.prune import RECORD as PRUNED
from distillaw.models.source import check_config, fingerprint, locate
from distillaw.models.teacher import check_vocabulary
from distillaw.quantities import format_count
from distillaw.runs.spec import Start, TrunkSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def started(
    trunk: TrunkSpec, folder: str, tokenizer: "PreTrainedTokenizerBase", *, draws_weights: bool = False
) -> TrunkSpec:
    """The trunk with a model on disk as its student.

    Args:
        trunk: its sizes, init and label are replaced.
        folder: the model.
        tokenizer: the text's.
        draws_weights: take only the architecture; the trunk's seed draws the weights.

    Raises:
        CacheError: no model there.
        ConfigError: no causal language model, or a context shorter than the trunk's.
        VocabularyError: it speaks of other tokens.
    """
    source = locate(folder)
    check_config(source, context=trunk.recipe.context)
    check_vocabulary(source, tokenizer)
    config = source.config()
    params, total = count_config(config)
    text = config.get_text_config().to_dict()
    init = "fresh" if draws_weights else "pruned" if (source.folder / PRUNED).exists() else "pretrained"
    return replace(
        trunk, label=f"{format_count(params)}-{init}", init=init, params=params, total_params=total,
        layers=text["num_hidden_layers"], width=text["hidden_size"],
        ffn=text.get("intermediate_size") or 4 * text["hidden_size"], heads=text["num_attention_heads"],
        start=Start(folder=str(Path(folder).resolve()) if Path(folder).exists() else folder,
                    fingerprint=fingerprint(source)),
    )  # fmt: skip
