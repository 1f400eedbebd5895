"""A teacher: any causal language model that transformers loads, frozen, in eval mode, checked before it is used.

What is checked: that it reads from left to right, shares the study's vocabulary token by token (docs/teachers.md says
why nothing else is offered), sees the study's context, has all its weights, and comes apart into two parts: the hidden
states, and the head that turns them into logits. Losses and scores go through the two parts, so that no tensor of the
vocabulary's width has to exist for a whole batch. The heads in `transformers` are one matrix, an optional bias, a
constant factor (Granite, Cohere, Falcon-H1) and an optional soft cap (Gemma 2, RecurrentGemma). What a config says is
not trusted: `reproduces_logits` compares the parts with the model itself on a few tokens.
Shape suffixes: B sequence, T position, D hidden width, V vocabulary.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from distillaw.accounting.architecture import Architecture, count_params
from distillaw.accounting.config import architecture_from_config
from distillaw.accounting.flops import forward_flops
from distillaw.data.prepare import world_of
from distillaw.data.shards import TokenStore
from distillaw.data.tokenizer import tokenizer_hash
from distillaw.distill.heads import LOWEST_LOGIT, Head
from distillaw.errors import CacheError, ConfigError, DistillawWarning, DivergedError, VocabularyError
from distillaw.models.fresh import count_parameters
from distillaw.models.link import Link
from distillaw.models.parallel import ALONE, CPU, Ranks
from distillaw.models.source import ModelSource, check_config, fingerprint, glance, loading, locate, tensors_in
from distillaw.runs.files import check_model, content_hash
from distillaw.worlds.oracle import Oracle, find_oracle, is_oracle, oracle_hash, parse_oracle

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


PROBE_TOKENS = 16
"""Length of the random sequences on which a head is compared with its model."""


def hidden_states(
    model: "PreTrainedModel", input_ids_BT: torch.Tensor, *, end_of_text: int | None = None
) -> torch.Tensor:
    """Last hidden states as the head gets them, shape (B, T, D); differentiable.

    `end_of_text` opens a document, before which nothing is seen; None: all that came before is.
    """
    places = document_positions(input_ids_BT, end_of_text)
    return model.base_model(input_ids=input_ids_BT, use_cache=False, **places).last_hidden_state


def document_positions(input_ids_BT: torch.Tensor, end_of_text: int | None) -> dict[str, torch.Tensor]:
    """What a model is told so that documents stay apart: positions that begin anew at each end of text, (B, T).

    transformers (5.23) takes positions that restart for packed sequences and masks them from each other; a batch in
    which no document opens goes without a mask of its own, as ever. The end of text belongs to the document that it
    opens, as it does where held-out documents are scored.
    """
    if end_of_text is None:
        return {}
    at_BT = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device).expand_as(input_ids_BT)
    return {"position_ids": at_BT - torch.where(input_ids_BT == end_of_text, at_BT, 0).cummax(dim=1).values}


def head_of(model: "PreTrainedModel") -> Head:
    """The head of a model: its parameters themselves, so that gradients reach them, and its constants.

    A quantised weight is given as a floating-point copy.
    """
    module = model.get_output_embeddings()
    is_plain = "quantization_config" not in vars(model.config) or type(module.weight) is torch.nn.Parameter
    weight = module.weight if is_plain else module.weight.dequantize()
    # scale and soft cap under the names that the configs of transformers 5.23 use for them
    config, scale = vars(model.config.get_text_config()), 1.0
    for key, power in (("logits_scaling", -1), ("logit_scale", 1), ("lm_head_multiplier", 1)):
        if isinstance(value := config.get(key), int | float):
            scale *= float(value) ** power
    softcap = config.get("final_logit_softcapping", config.get("logits_soft_cap"))
    capped = isinstance(softcap, int | float) and softcap
    return Head(weight, module.bias, scale, float(softcap) if capped else None)


@torch.no_grad()
def apply_head(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """Logits, shape (..., V), of hidden states of shape (..., D); without gradients."""
    hidden_ND = hidden.flatten(0, -2)
    logits_NV = hidden_ND.new_empty(len(hidden_ND), len(head.weight))
    return head.logits_into(hidden_ND, logits_NV).view(*hidden.shape[:-1], -1)


@torch.no_grad()
def reproduces_logits(model: "PreTrainedModel", head: Head) -> bool:
    """Do the parts equal the model's own logits, to rounding, on a few random tokens?"""
    probe = probe_tokens(model)
    wanted = model(input_ids=probe, use_cache=False).logits
    got = apply_head(head, hidden_states(model, probe))
    return got.shape == wanted.shape and equal_to_rounding(got, wanted)


def equal_to_rounding(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Do two results of one calculation, done in another order, agree as well as their dtype lets them?"""
    tolerance = max(1e-5, 4 * torch.finfo(first.dtype).eps)
    return bool((first - second).abs().max() <= tolerance * second.abs().max())


def probe_tokens(model: "PreTrainedModel") -> torch.Tensor:
    """Two random sequences, int64, shape (2, PROBE_TOKENS), that differ in their last token only."""
    vocab_size = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(vocab_size, (1, PROBE_TOKENS), generator=generator)
    second = first.clone()
    second[0, -1] = (second[0, -1] + 1) % vocab_size
    return torch.cat([first, second]).to(model.device)


@torch.no_grad()
def keeps_documents_apart(model: "PreTrainedModel", opens: int = 0) -> bool:
    """Whether a model in eval mode sees nothing before a token at which positions begin anew.

    A recurrent state is not told of positions, nor are masks that count for themselves (OPT).
    """
    packed = probe_tokens(model)[:1]
    packed[:, PROBE_TOKENS // 2] = opens
    second = packed[:, PROBE_TOKENS // 2 :]
    together, alone = (hidden_states(model, ids, end_of_text=opens) for ids in (packed, second))
    return equal_to_rounding(together[:, PROBE_TOKENS // 2 :], alone)


def check_documents_apart(name: str, model: "PreTrainedModel", end_of_text: int) -> None:
    """Refuse a model in eval mode that sees the document before; ConfigError: it does."""
    if not keeps_documents_apart(model, end_of_text):
        raise ConfigError(
            f"{name}: training.document_mask = true, but a model of this kind ({model.config.model_type}) sees the "
            "document before all the same, whatever positions say; leave the setting out, or take another family"
        )


@torch.no_grad()
def check_speaks(model: Any, ids: Sequence[int], name: str) -> None:
    """Refuse a model that says nothing of what follows some tokens.

    Raises:
        DivergedError: its probabilities are not finite.
    """
    if not model(input_ids=torch.tensor([list(ids)], device=model.device)).logits.isfinite().all():
        raise DivergedError(
            f"{name}: its probabilities are not finite, so it can neither answer nor judge; its training diverged or "
            "its weights are damaged"
        )


@torch.no_grad()
def continued(
    model: Any, ids: Sequence[Sequence[int]], ends: Sequence[int], **settings: Any
) -> list[tuple[list[int], bool]]:
    """(new tokens without the end token, whether the limit cut them off) after each prompt; as torch is seeded.

    Args:
        model: whose.
        ids: the prompts, written on side by side, padded on the left.
        ends: tokens that end an answer.
        settings: of `generate`, where they are not the model's own.
    """
    width, pad = max(map(len, ids)), next(iter(ends), 0)  # which nobody sees
    inputs = torch.tensor([[pad] * (width - len(each)) + list(each) for each in ids], device=model.device)
    lengths = torch.tensor([len(each) for each in ids], device=model.device)
    seen = (torch.arange(width, 0, -1, device=model.device) <= lengths[:, None]).long()
    made = model.generate(input_ids=inputs, attention_mask=seen, **settings)[:, width:].tolist()
    found = [next((i for i, token in enumerate(each) if token in ends), None) for each in made]
    return [(tokens[:end], end is None) for tokens, end in zip(made, found, strict=True)]


def decoder_blocks(model: "PreTrainedModel") -> list[torch.nn.Module]:
    """The repeated layers of a model: the longest list of modules in its body."""
    lists = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList)]
    return list(max(lists, key=len))


def check_vocabulary(
    teacher: str | Path | ModelSource,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    teacher_tokenizer: str | Path | None = None,
) -> None:
    """Refuse a teacher whose token-to-id map, added and special tokens included, differs from the study's.

    Raises:
        CacheError: the teacher has no tokenizer.
        VocabularyError: naming up to three differing tokens and what to do.
    """
    source = locate(teacher)
    theirs = (locate(teacher_tokenizer) if teacher_tokenizer else source).tokenizer().get_vocab()
    ours = tokenizer.get_vocab()
    if theirs != ours:
        different = [token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)]
        different.sort(key=lambda token: (theirs.get(token, ours.get(token)), token))
        shown = (f"{t!r} is {theirs.get(t, 'absent')} there, {ours.get(t, 'absent')} here" for t in different[:3])
        raise VocabularyError(
            f"{source.name}: the teacher has another vocabulary ({len(theirs)} entries against {len(ours)}; "
            f"{len(different)} tokens differ, e.g. {', '.join(shown)}). Set data.tokenizer to the teacher's folder so "
            "that both share one tokenizer, or choose another teacher; distilling across tokenizers is not done "
            "(docs/teachers.md)"
        )
    if max(ours.values()) >= len(tokenizer):
        raise VocabularyError(
            f"{source.name}: the shared tokenizer has ids up to {max(ours.values())} for {len(tokenizer)} entries; "
            "students have one row per entry, so ids must run without gaps from 0. Choose another teacher"
        )


def check_rows(name: str, rows: int, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Rows of the teacher's head that no token of the (shared, gapless) vocabulary owns, to be trimmed."""
    if rows < len(tokenizer):
        last = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[rows : rows + 3]
        shown = ", ".join(f"{token!r} ({index})" for token, index in last)
        raise VocabularyError(
            f"{name}: the teacher's head has {rows} rows for {len(tokenizer)} tokens; {len(tokenizer) - rows} have "
            f"no row, e.g. {shown}. It was trained with another tokenizer: give that one, or choose another teacher"
        )
    return rows - len(tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTeacher:
    """A frozen model over the study's vocabulary."""

    name: str
    """As the user gave it."""
    model: "PreTrainedModel"
    head: Head | None
    """Its head over the study's tokens; None where only the model itself gives right logits."""
    vocab_size: int
    """V: tokens of the study."""
    trimmed_rows: int
    """Rows of the model's own head that no token owns and that `head` and `logits` leave out."""
    fingerprint: str
    """Hash of weights and configuration."""
    settings: None = None
    """Nothing but its weights says what it answers."""
    end_of_text: int | None = None
    """Opens a document, before which it sees nothing; None: it sees all of a sequence."""

    @torch.no_grad()
    def hidden(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """Last hidden states, shape (B, T, D); `head` turns them into logits."""
        return hidden_states(self.model, input_ids_BT, end_of_text=self.end_of_text)

    @torch.no_grad()
    def logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """Logits over the study's tokens, shape (B, T, V)."""
        if self.head is not None:
            return apply_head(self.head, self.hidden(input_ids_BT))
        places = document_positions(input_ids_BT, self.end_of_text)
        return self.model(input_ids=input_ids_BT, use_cache=False, **places).logits[..., : self.vocab_size]

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of its weights."""
        return self.model.dtype

    @property
    def params(self) -> int:
        """Non-embedding parameters (docs/accounting.md)."""
        architecture = architecture_of(self.model.config)
        return count_params(architecture).non_embedding if architecture else count_parameters(self.model)[0]

    @property
    def total_params(self) -> int:
        """All parameters, each tensor once."""
        return count_parameters(self.model)[1]

    def flops_per_token(self, context: int) -> float:
        """Forward FLOP per token at a context (`model_flops`)."""
        return model_flops(self.model, context)


def load_teacher(
    name: str | Path | ModelSource,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    teacher_tokenizer: str | Path | None = None,
    document_mask: bool = False,
    ranks: Ranks = ALONE,
) -> ModelTeacher:
    """Find, check, load and freeze a teacher.

    Args:
        name: a Hugging Face folder (quantised ones too), FOLDER/FILE.gguf, or a name on the hub.
        context: longest sequence it will be shown, tokens; None skips the check.
        device: None: that of `ranks`.
        dtype: None: float32 on CPUs, bfloat16 elsewhere.
        teacher_tokenizer: where its own tokenizer lies, if not beside its weights.
        document_mask: no document of a sequence sees the one before it.
        ranks: processes that all call this; sharded ones keep a slice each, and never read more than that.

    Raises:
        CacheError: nothing loadable of that name, or weights are missing in it.
        ConfigError: not a left-to-right language model, a context too short, documents that it cannot keep apart, or a
            package is not installed.
        VocabularyError: its vocabulary is not the study's (the first differing tokens are shown).
    """
    source, device = ranks.told(lambda: locate(name)), torch.device(device or ranks.device)

    def check() -> str:
        check_config(source, context=context)
        check_vocabulary(source, tokenizer, teacher_tokenizer=teacher_tokenizer)
        return glance(source)

    files = ranks.together(check)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    ranks.check_same(f"the teacher {source.name}", {"type": dtype, "its files (hash)": files})
    if ranks.shards:  # what one reads of them others wait for
        model = load_shards(source, ranks, dtype)
    else:
        model = ranks.together(lambda: load_weights(source, device, dtype))
    trimmed = check_rows(source.name, model.get_output_embeddings().weight.shape[0], tokenizer)
    with torch.no_grad():
        first, second = hidden_states(model, probe_tokens(model))
    if not equal_to_rounding(first[:-1], second[:-1]):
        raise ConfigError(
            f"{source.name}: the model ({model.config.model_type}) sees later tokens when it predicts one, so it is no "
            "causal language model. Choose a decoder-only teacher"
        )
    end_of_text = tokenizer.eos_token_id if document_mask else None
    if document_mask and end_of_text is None:
        raise ConfigError(
            f"{source.name}: document_mask, but the tokenizer has no end of text, so nothing says where a document "
            "begins; leave the setting out"
        )
    if end_of_text is not None:
        check_documents_apart(source.name, model, end_of_text)
    head = _verified_head(source.name, model, len(tokenizer))
    if head is None and ranks.shards:
        raise ConfigError(f"{source.name}: this head is used whole, so the model cannot be sharded; --sharding ddp")
    return ModelTeacher(
        name=source.name,
        model=model,
        head=head,
        vocab_size=len(tokenizer),
        trimmed_rows=trimmed,
        fingerprint=ranks.told(lambda: fingerprint(source)),
        end_of_text=end_of_text,
    )


@torch.no_grad()
def model_flops(model: "PreTrainedModel", context: int) -> float:
    """Forward FLOP per token at a context.

    Where accounting does not know the architecture: matrix products of one sequence as torch counts them (the whole
    square of attention).
    """
    if (architecture := architecture_of(model.config)) is not None:
        return forward_flops(architecture, context=context).total
    from torch.utils.flop_counter import FlopCounterMode

    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # torch does not count the fused kernels of CPUs
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, context, dtype=torch.long, device=model.device), use_cache=False)
    model.set_attn_implementation(attention)
    return counter.get_total_flops() / context


def architecture_of(config: "PreTrainedConfig") -> Architecture | None:
    """What accounting makes of a configuration; None for a model type that it does not know."""
    try:
        return architecture_from_config(config.get_text_config().to_dict(), source=config.model_type)
    except ConfigError:
        return None


def load_weights(source: ModelSource, device: torch.device, dtype: torch.dtype | None) -> "PreTrainedModel":
    """A frozen model in eval mode; None takes the type that its file has.

    Raises:
        CacheError: nothing loadable there, weights are missing in it, or they are not what their run wrote.
        ConfigError: a package that loading needs is not installed.
    """
    from transformers import AutoModelForCausalLM

    import distillaw.models.pyramid  # noqa: F401 - makes its model type known

    check_model(source.folder)
    read: dict[str, Any] = {} if source.gguf_file is None else {"config": source.config()}
    with loading(source.name), _names_of_gguf_once() if read else contextlib.nullcontext():
        model, report = AutoModelForCausalLM.from_pretrained(
            **source.where,
            **read,
            trust_remote_code=False,
            dtype=dtype or "auto",
            local_files_only=True,
            output_loading_info=True,
        )
    if absent := sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]):
        raise CacheError(
            f"{source.name}: {len(absent)} weights of the model are missing or of another shape in its files, e.g. "
            f"{absent[0]}; they would be random. Fetch the folder again"
        )
    if source.gguf_file is not None:  # dequantised on loading: an ordinary model from here on, which can be saved
        del model.config.quantization_config
        model.hf_quantizer = None
    if model.device != device:
        model.to(device)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _names_of_gguf_once() -> Iterator[None]:
    """Make gguf's table of tensor names once per model.

    Transformers asks for it in every module, 397 times of 30 layers, and has no hook for that, so the function that it
    imports is replaced for the while.
    """
    import gguf

    theirs = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = lru_cache(maxsize=1)(theirs)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = theirs


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside have parameters without storage; their buffers are real, since no file holds them all."""
    register = torch.nn.Module.register_parameter

    def bare(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    torch.nn.Module.register_parameter = bare  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


def shard_frozen(model: "PreTrainedModel", ranks: Ranks) -> "PreTrainedModel":
    """A model that is only read, in slices on the ranks' devices; parameters without storage get some, unfilled."""
    whole = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    model.eval().requires_grad_(False)
    ranks.shard(model.base_model, decoder_blocks(model), whole)
    if not any(parameter.is_meta for parameter in model.parameters()):
        return model.to(ranks.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device=ranks.device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return model


@torch.no_grad()
def sharded_copy(model: "PreTrainedModel", ranks: Ranks) -> "PreTrainedModel":
    """What `shard_frozen` makes of the weights of a model in training, sharded or not, in their own type."""
    from transformers import AutoModelForCausalLM

    with without_weights():
        blank = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    copy = shard_frozen(blank, ranks)
    for target, source in zip(copy.parameters(), model.parameters(), strict=True):
        is_slice = isinstance(target, DTensor) or not isinstance(source, DTensor)
        target.copy_(source if is_slice else source.full_tensor())
    for target, source in zip(copy.buffers(), model.buffers(), strict=True):
        target.copy_(source)
    return copy


def load_shards(source: ModelSource, ranks: Ranks, dtype: torch.dtype) -> "PreTrainedModel":
    """A frozen model in eval mode, each rank with its slice of the blocks, read from the files in place.

    Files that hold other tensors than the model (quantised, GGUF, converted on loading) are loaded whole by every rank
    first.

    Raises:
        CacheError, ConfigError: as `load_weights`.
    """
    from torch.distributed import checkpoint as dcp
    from transformers import AutoModelForCausalLM

    config = source.config()
    check_model(source.folder)
    with without_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = dict(model.named_parameters())
    held = set() if source.gguf_file else tensors_in(source.folder)
    if not weights.keys() <= held or getattr(config, "quantization_config", None):
        return shard_frozen(load_weights(source, torch.device("cpu"), dtype), ranks)
    model = shard_frozen(model, ranks)
    with loading(source.name):
        tensors = {name: model.get_parameter(name).detach() for name in weights}
        tensors |= {name: buffer for name, buffer in model.named_buffers() if name in held}
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(source.folder)))
    return model


def _verified_head(name: str, model: "PreTrainedModel", vocab_size: int) -> Head | None:
    head = head_of(model)
    if reproduces_logits(model, head):
        return head.trimmed(vocab_size, head.weight.dtype)
    warnings.warn(
        f"{name}: the head of this model ({model.config.model_type}) is more than matrix, bias, factor and soft "
        "cap; its full logits are used, at the cost of memory for all of them",
        DistillawWarning,
        stacklevel=3,
    )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleTeacher:
    """An oracle with what training, stores and scores ask of a teacher."""

    name: str
    """As the user gave it, e.g. `oracle:window=3`."""
    oracle: Oracle
    fingerprint: str
    """Hash of world and settings."""
    device: torch.device
    dtype: torch.dtype = torch.float32
    head: None = None
    params: None = None
    """It has none."""
    total_params: None = None

    @property
    def settings(self) -> str:
        """Its settings, those that meet a wanted loss included."""
        return self.oracle.spec.name

    @property
    def vocab_size(self) -> int:
        """V: words and the end of text."""
        return self.oracle.world.vocab

    def logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the next token, float32, shape (B, T, V)."""
        probs_BTV = self.oracle.probs(input_ids_BT.cpu().numpy())
        with np.errstate(divide="ignore"):
            logits_BTV = np.log(probs_BTV, out=probs_BTV)
        np.maximum(logits_BTV, LOWEST_LOGIT, out=logits_BTV)
        return torch.from_numpy(logits_BTV.astype(np.float32)).to(self.device)

    def flops_per_token(self, context: int) -> float:
        """Operations of its filter, per token."""
        return self.oracle.flops_per_token


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTeacher:
    """A `ModelTeacher` on processes of its own (models/link.py), as students' processes see it."""

    name: str
    link: Link
    number: int
    """There."""
    head: Head
    vocab_size: int
    trimmed_rows: int
    fingerprint: str
    params: int
    total_params: int
    flops: float
    """Per token, forward, at the context that it was opened for."""
    device: torch.device
    """Where what it sends is used."""
    settings: None = None

    def hidden(self, input_ids_BT: torch.Tensor, following: torch.Tensor | None = None) -> torch.Tensor:
        """Last hidden states, shape (B, T, D).

        Args:
            input_ids_BT: tokens.
            following: what will be asked next; it begins with that meanwhile.
        """
        how = {"width": self.head.weight.shape[1], "dtype": self.dtype}
        asked = self.link.ask(self.number, input_ids_BT, **how)
        if following is not None:
            self.link.ask(self.number, following, **how)
        return self.link.take(asked).to(self.device)

    def logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """Logits over the study's tokens, shape (B, T, V)."""
        return apply_head(self.head, self.hidden(input_ids_BT))

    @property
    def dtype(self) -> torch.dtype:
        """Type of its weights."""
        return self.head.weight.dtype

    def flops_per_token(self, context: int) -> float:
        """Forward FLOP per token."""
        return self.flops


def serve_teachers(ranks: Ranks) -> None:
    """Hold teachers for the students' processes until they end; for processes of the link's other end."""
    assert ranks.link is not None

    def load(
        name: str | Path | ModelSource,
        tokenizer: "PreTrainedTokenizerBase",
        context: int,
        dtype: torch.dtype | None,
        document_mask: bool,
    ) -> tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, object]]:
        how = {"context": context, "dtype": dtype, "document_mask": document_mask}
        teacher = load_teacher(name, tokenizer, ranks=ranks, **how)
        if teacher.head is None:
            raise ConfigError(f"{teacher.name}: its head cannot be sent to students; leave out --teacher-processes")
        facts = {key: getattr(teacher, key) for key in ("name", "vocab_size", "trimmed_rows", "fingerprint")}
        facts |= {"params": teacher.params, "total_params": teacher.total_params}
        facts |= {"flops": teacher.flops_per_token(context), "head": teacher.head.to(CPU)}
        dtype = teacher.head.weight.dtype  # what students make room for
        return lambda tokens: teacher.hidden(tokens.to(ranks.device)).to(CPU, dtype).contiguous(), facts

    ranks.link.serve(load)


AnyTeacher = ModelTeacher | OracleTeacher | ServedTeacher


def load_any_teacher(
    name: str | Path | ModelSource,
    store: TokenStore,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    document_mask: bool = False,
    ranks: Ranks = ALONE,
) -> AnyTeacher:
    """The teacher of a name: an oracle of the text's world, or a model (`load_teacher`).

    Args:
        context: longest sequence it will be shown, tokens; a wanted loss is that of windows of this length.
        document_mask: as of `load_teacher`; an oracle knows where documents begin anyway.
        device, dtype, ranks: as of `load_teacher`.

    Raises:
        ConfigError: an oracle for a text that is no world's, or one that cannot be; otherwise as `load_teacher`.
    """
    if not (isinstance(name, str) and is_oracle(name)):
        if ranks.link is None:
            how = {"context": context, "device": device, "dtype": dtype, "document_mask": document_mask}
            return load_teacher(name, tokenizer, ranks=ranks, **how)
        key = content_hash([str(name), tokenizer_hash(tokenizer), context, str(dtype), document_mask])
        facts = ranks.link.open(key, name, tokenizer, context, dtype, document_mask)
        head = facts["head"].to(ranks.device)
        return ServedTeacher(link=ranks.link, device=ranks.device, **facts | {"head": head})
    world, spec = world_of(store), parse_oracle(name)
    return OracleTeacher(
        name=name,
        oracle=find_oracle(world, spec, context),
        fingerprint=oracle_hash(world, spec, context),
        device=torch.device(device or ranks.device),
    )
