"""Another number of rows in a model's embedding and head: rows that go, stay, move, or start as means of others.

    give_rows(model, [(0,), (1,), (5, 7)])      # rows 0 and 1, then the mean of rows 5 and 7

Tied heads stay tied, biases of heads follow their rows, and padding rows that no token owned are gone.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Rows = Sequence[tuple[int, ...]]
"""For each new row the old ones that it is the mean of."""


def give_rows(model: "PreTrainedModel", rows: Rows, *, generator: torch.Generator | None = None) -> None:
    """Change embedding and head in place.

    Args:
        model: any causal language model whose only tables over the vocabulary are these two.
        rows: of the new vocabulary; single ones are copied bit for bit.
        generator: draw rows of several parts from the model's initial distribution instead, the plain resize.

    Raises:
        ConfigError: an old row that is not there, or the model has further tables over the vocabulary.
    """
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    count = inside.weight.shape[0]
    if max(max(parts) for parts in rows) >= count:
        raise ConfigError(f"the model has {count} rows, but its tokenizer has ids beyond them")
    std = vars(model.config.get_text_config()).get("initializer_range", 0.02)
    tied = outside.weight is inside.weight
    inside.weight = _renewed(inside.weight, rows, generator, std)
    inside.num_embeddings, inside.padding_idx = len(rows), None
    outside.weight = inside.weight if tied else _renewed(outside.weight, rows, generator, std)
    outside.out_features = len(rows)
    if outside.bias is not None:
        outside.bias = _renewed(outside.bias, rows, None, std)
    model.config.get_text_config().vocab_size = len(rows)
    _check_sizes(model)


@torch.no_grad()
def _renewed(
    old: torch.nn.Parameter, rows: Rows, generator: torch.Generator | None, std: float
) -> torch.nn.Parameter:
    new = old[torch.tensor([parts[0] for parts in rows], device=old.device)].clone()
    for i, parts in enumerate(rows):
        if len(parts) == 1:
            continue
        if generator is not None:
            new[i] = torch.empty(new[i].shape).normal_(0.0, std, generator=generator)
        else:
            new[i] = old[list(parts)].float().mean(0)
    return torch.nn.Parameter(new, requires_grad=old.requires_grad)


def _check_sizes(model: "PreTrainedModel") -> None:
    """The model that the changed configuration describes has weights of just these shapes."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(model.config).state_dict()
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    for name, weight in described.items():
        if shapes.get(name) != weight.shape:
            raise ConfigError(
                f"models of the kind {model.config.model_type} have {name} over the vocabulary besides embedding and "
                "head; their vocabulary is not changed here"
            )


def renumber_tokens(model: "PreTrainedModel", new_ids: Mapping[int, int]) -> None:
    """Give every `..._token_id` of the configurations the id that its token has now; of one that is gone, None."""
    holders = (model.config, model.config.get_text_config(), model.generation_config)
    for holder in {id(each): each for each in holders if each is not None}.values():
        for key, old in list(vars(holder).items()):
            if key.endswith("_token_id") and old is not None:
                ids = [new_ids[i] for i in (old if isinstance(old, list) else [old]) if i in new_ids]
                setattr(holder, key, ids if isinstance(old, list) else next(iter(ids), None))
