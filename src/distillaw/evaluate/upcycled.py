"""A dense model as a mixture of experts on disk, with what it counts and how it routes.

    upcycle_to(locate("models/A"), Path("out"), Layout(experts=(2, 4)), text="books.parquet")

upcycle.json in the folder is the record; the same wishes again compute nothing.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from distillaw.accounting.config import architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.accounting.params import count_params
from distillaw.data.corpus import WHOLE, Reading
from distillaw.data.tokenizer import encode_documents, start_token
from distillaw.errors import ConfigError
from distillaw.evaluate.excerpt import read_excerpt
from distillaw.evaluate.routed import measure_routing
from distillaw.evaluate.windows import score_documents
from distillaw.models.export import made_before, staged
from distillaw.models.fingerprint import fingerprint
from distillaw.models.parts import probe_tokens
from distillaw.models.source import ModelSource, context_of
from distillaw.models.teacher import load_weights
from distillaw.models.upcycle import BALANCE, layout, mixture_config, upcycle
from distillaw.runs.files import content_hash, write_json
from distillaw.runs.paired import DocumentScores, paired_difference

RECORD = "upcycle.json"
SCORED_DOCUMENTS, SCORED_TOKENS, CONTEXT = 40, 8192, 512
"""What is scored of a text unless said otherwise: as much of the beginning of each document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the mixture should be."""

    experts: tuple[int, ...]
    bottom: float = 0.25
    """Share of the layers that has the first of two numbers."""
    noise: float = 0.0
    balance: float = BALANCE
    z_weight: float = 0.0
    seed: int = 0


def upcycle_to(
    source: ModelSource,
    out: Path,
    wishes: Layout,
    *,
    text: str | None = None,
    reading: Reading = WHOLE,
    tokens: int = SCORED_TOKENS,
    device: str = "cpu",
    dry_run: bool = False,
    command: str = "",
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, object]:
    """Make a mixture of experts out of a dense model and write it as a Hugging Face folder.

    Args:
        source: the dense model, of the Llama family.
        out: folder of the mixture.
        wishes: its experts.
        text: scored by both, and shared out among the experts; None: only the logits of a few tokens are compared.
        reading: the text's field, and how much of each document.
        tokens: of the text, scored.
        device: where losses are computed.
        dry_run: only counts; no weights are read.
        command: for the record.
        say: takes a line of progress now and then.

    Returns:
        What upcycle.json holds.

    Raises:
        CacheError: no model there.
        ConfigError: not of the Llama family, an impossible layout, or `out` holds something else.
        DataError: too little text.
        RunError: the disk is full.
    """
    if min(wishes.noise, wishes.balance, wishes.z_weight) < 0:
        raise ConfigError("--noise, --balance and --z-loss are not negative")
    config = source.config()
    identity = content_hash({"model": fingerprint(source), **asdict(wishes), "text": text, "tokens": tokens,
                             **asdict(reading)}, digits=16)  # fmt: skip
    if not dry_run and (done := made_before(out, RECORD, identity)) is not None:
        say(f"{out}: made before, nothing to do")
        return done
    experts = layout(config.num_hidden_layers, wishes.experts, bottom=wishes.bottom)
    mixed = mixture_config(config, experts, balance=wishes.balance, z_weight=wishes.z_weight)
    record: dict[str, object] = {
        "identity": identity, "command": command, "model": source.name, "kind": mixed.model_type,
        "experts": list(experts), "noise": wishes.noise, "balance_weight": wishes.balance,
        "z_weight": wishes.z_weight, "seed": wishes.seed, "dense": _counts(config), "mixture": _counts(mixed),
    }  # fmt: skip
    if dry_run:
        return record
    tokenizer = source.tokenizer()
    documents = []
    if text is not None:
        chosen = read_excerpt(text, reading, max_bytes=8.0 * tokens + 200_000).documents[:SCORED_DOCUMENTS]
        start, per = start_token(source.name, tokenizer), math.ceil(tokens / len(chosen))
        documents = [
            np.array([start, *ids[:per]], dtype=np.int64) for ids in encode_documents(tokenizer, chosen)
        ]
    dense = load_weights(source, torch.device("cpu"), torch.float32)
    say(f"{source.name}: copying {sum(experts)} experts")
    generator = torch.Generator().manual_seed(wishes.seed)
    mixture = upcycle(dense, experts, generator=generator, noise=wishes.noise, balance=wishes.balance,
                      z_weight=wishes.z_weight)  # fmt: skip
    for model in (dense, mixture):
        model.to(torch.device(device))  # type: ignore[arg-type]
    record |= _compared(dense, mixture)
    if documents:
        say(f"scoring both on {sum(len(ids) - 1 for ids in documents):,} tokens")
        record |= _scored(dense, mixture, documents, min(CONTEXT, context_of(config) or CONTEXT))
    with staged(out) as stage:
        mixture.cpu().save_pretrained(stage)
        tokenizer.save_pretrained(str(stage))
        write_json(stage / RECORD, record)
    return record


def _counts(config) -> dict[str, float]:
    """Parameters in all and per token, forward FLOP per token at the model's own context."""
    architecture = architecture_from_config(config.to_dict(), source=config.model_type)
    count = count_params(architecture)
    context = min(architecture.context, 4096)
    return {
        "params": count.non_embedding, "active_params": count.active_non_embedding, "total_params": count.total,
        "active_total_params": count.active_total, "context": context,
        "forward_flops": forward_flops(architecture, context=context).total,
    }  # fmt: skip


@torch.no_grad()
def _compared(dense, mixture) -> dict[str, object]:
    """The largest difference of logits at step 0, and the size of what is compared."""
    probe = probe_tokens(dense)
    wanted = dense(input_ids=probe, use_cache=False).logits
    got = mixture(input_ids=probe, use_cache=False).logits
    return {"logit_difference": float((got - wanted).abs().max()), "largest_logit": float(wanted.abs().max())}


def _scored(dense, mixture, documents: list[np.ndarray], context: int) -> dict[str, object]:
    scored = [
        score_documents(model, documents, context=context, stride=context) for model in (dense, mixture)
    ]
    first, second = (
        DocumentScores(document=np.arange(len(documents)), tokens=each.tokens, loss_sum=each.loss_sum)
        for each in scored
    )
    gap = paired_difference(second, first)
    return {
        "documents": len(documents), "tokens": int(scored[0].tokens.sum()), "dense_loss": scored[0].loss,
        "loss": scored[1].loss, "loss_se": scored[1].loss_se, "change": gap.mean, "change_se": gap.se,
        "routing": [asdict(layer) for layer in measure_routing(mixture, documents, context=context)],
    }  # fmt: skip
