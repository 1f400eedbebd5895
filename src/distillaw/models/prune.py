"""A student cut out of a teacher, in memory and as a model on disk, with what it lost by the cut.

Every weight of the student is a slice of one weight of the teacher, in float32, along the axes that models/cut.py gives
its name. Norms keep their gains, and everything but the sizes is the teacher's; nothing is rescaled (nor does the
reference recipe), and nothing is retrained in between. The text serves twice: some of its documents are scored by
teacher and student, the others say what matters, by one of two scores of heads, FFN neurons and hidden dimensions:

gradient    mean over windows of |d loss / d mask| at masks of 1 on every unit (of a hidden dimension one mask, shared
            by embedding and all layers). The masks are per window, so the score does not depend on how many windows
            a batch holds; in the reference recipe it does (MiniMA, arXiv 2311.07052).
activation  mean size of what a unit says: the norm of a head's output, |FFN neuron|, |normed hidden dimension|
            (Minitron, arXiv 2407.14679); forward passes only.

Layers are scored by 1 - mean cosine of their input and output either way (block influence, arXiv 2403.03853).
prune.json in the student's folder is the record; a second call with the same wishes reads it and computes nothing.
Shape suffixes: B window, T position, D hidden width, H head, F FFN neuron.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional

from distillaw.data.corpus import WHOLE, Reading, read_excerpt
from distillaw.data.tokenizer import encode_to_score
from distillaw.distill.losses import distillation_loss
from distillaw.errors import ConfigError, DataError
from distillaw.models.cut import (
    GATED,
    MULTIPLE,
    NEOX,
    Cut,
    Importance,
    advice,
    axes_of,
    check_cut,
    check_indices,
    family_shape,
    kv_heads,
    ranked_cut,
    shape_of,
    shrink,
    sized_config,
    uniform_cut,
)
from distillaw.models.export import Making, save_made
from distillaw.models.fresh import count_config, count_parameters
from distillaw.models.parallel import Ranks
from distillaw.models.scoring import BYTES_PER_TOKEN, SCORED_CONTEXT, SCORED_DOCUMENTS, score_documents
from distillaw.models.source import ModelSource, fingerprint, locate, settle_context
from distillaw.models.teacher import decoder_blocks, head_of, hidden_states, load_weights
from distillaw.runs.files import content_hash, read_json
from distillaw.runs.pace import Telling
from distillaw.runs.paired import paired_difference
from distillaw.shapes import Shape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


Read = Callable[[str], torch.Tensor]


def prune(teacher: "PreTrainedModel", student: Shape, cut: Cut | None = None) -> "PreTrainedModel":
    """The student that a cut leaves of a teacher, on the CPU in float32, of the teacher's own kind.

    Args:
        teacher: of a family of models/cut.py, any float type.
        student: its shape; an untied head becomes a copy of a tied teacher's embedding. Of a vocabulary padded in the
            teacher the first `student.vocab` rows are taken.
        cut: the units that stay; None takes the uniform cut.

    Raises:
        ConfigError: the student is no part of the teacher, or the cut does not fit the two.

    Validity:
        Exact: at the teacher's own shape the identity. A student with a key-value head per query head gets copies of
        those that the teacher's query heads shared, so it computes what they did.

    Source:
        MiniMA, arXiv 2311.07052.
    """
    name = getattr(teacher, "name_or_path", "") or "the teacher"
    shape = family_shape(teacher.config, name)
    cut = uniform_cut(shape, student) if cut is None else cut
    check_indices(cut, shape, student)
    model = type(teacher)(sized_config(teacher.config, student, cut.layers))
    weights = teacher.state_dict()
    head = None if student.tied else model.get_output_embeddings()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            source = key
            if shape.tied and head is not None and parameter is head.weight:
                tied = teacher.get_input_embeddings().weight
                source = next(name for name, each in teacher.named_parameters() if each is tied)
            parameter.copy_(_sliced(weights.__getitem__, source, cut, shape, student))
    return model


def open_for_pruning(name: str | Path | ModelSource) -> "PreTrainedModel":
    """The weights of a teacher as they are on disk, on the CPU: the same cut whatever device teaches.

    Raises:
        CacheError: nothing loadable of that name.
        ConfigError: no student of ours can be cut out of it.
    """
    source = locate(name)
    shape_of(source.config(), source.name)
    return load_weights(source, torch.device("cpu"), None)


def _sliced(read: Read, name: str, cut: Cut, teacher: Shape, student: Shape) -> torch.Tensor:
    """The student's weight of a name, a copy."""
    layer, axes = axes_of(name)
    weight = read(name if layer is None else name.replace(f".{layer}.", f".{cut.layers[layer]}.", 1))
    layer = layer or 0
    for dim, axis in enumerate(axes):
        size, units = 1, range(weight.shape[dim])
        match axis:
            case "vocab":
                units = range(student.vocab)
            case "width":
                units = cut.width
            case "ffn":
                units = cut.ffn[layer]
            case "kv_heads":
                size, units = teacher.head_dim, kv_heads(cut.heads[layer], teacher, student)
            case "heads" | "qkv":
                size, units = teacher.head_dim * (3 if axis == "qkv" else 1), cut.heads[layer]
        rows = (torch.tensor(units)[:, None] * size + torch.arange(size)).flatten()
        weight = weight.index_select(dim, rows.to(weight.device))
    return weight


RECORD = "prune.json"
SCORES = "importance.json"
"""Beside the record of a cut whose units were ranked: what each unit of the teacher scored, for cuts of other sizes."""
SCORED = ("layers", "width", "heads", "ffn")
"""What is ranked: the arrays of `Importance`."""
TOKENS, HELDOUT_TOKENS = 131_072, 16_384
"""Calibration text, 256 windows, and scored text unless said otherwise (Minitron: 512 to 1024 samples)."""
BATCH_WINDOWS = 4
"""Windows of a pass: a choice for memory, scores do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a student should be; exactly one of `params`, `keep` and `shape`."""

    params: float | None = None
    """Non-embedding parameters."""
    keep: float | None = None
    """Share of the teacher's non-embedding parameters that stays."""
    shape: dict[str, int] | None = None
    """Sizes by axis: layers, width, heads, ffn; what is missing stays whole."""
    by: str = "gradient"
    """uniform, gradient or activation."""
    ranked_as: Path | None = None
    """An earlier cut of the same teacher whose scores of units are taken, instead of `by` and `tokens`."""
    tokens: int = TOKENS
    heldout_tokens: int = HELDOUT_TOKENS
    context: int = SCORED_CONTEXT
    multiple: int = MULTIPLE

    @property
    def ranks(self) -> bool:
        """Whether units are to be scored on text."""
        return self.by != "uniform" and self.ranked_as is None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSize:
    """A student that can be cut out of its teacher, without any weight."""

    teacher_params: int
    """N, non-embedding."""
    params: int
    teacher_shape: Shape
    shape: Shape

    @property
    def keep(self) -> float:
        """Share of the teacher's non-embedding parameters that stays."""
        return self.params / self.teacher_params

    def record(self) -> dict[str, object]:
        """For JSON, with what is known of cuts of this size."""
        return asdict(self) | {"keep": self.keep, "advice": advice(self.keep)}


def size_student(source: ModelSource, wishes: Wishes) -> StudentSize:
    """The student's size, from the teacher's configuration alone.

    Raises:
        ConfigError: an unknown family, or a size that cannot be cut out of it.
    """
    config, name = source.config(), source.name
    whole = family_shape(config, name)
    teacher_params = _params(config, whole)
    if wishes.multiple < 1:
        raise ConfigError(f"--multiple {wishes.multiple}: at least 1; 8 suits tensor cores")
    if wishes.shape:
        student = _given_shape(whole, wishes.shape, name)
    else:
        params = wishes.params if wishes.params is not None else (wishes.keep or 0.0) * teacher_params
        is_square = config.model_type == "gpt_neox"
        count = functools.partial(_params, config)
        student = shrink(whole, params, count, multiple=wishes.multiple, square=is_square)
    params = _params(config, student)
    return StudentSize(teacher_params=teacher_params, params=params, teacher_shape=whole, shape=student)


def _given_shape(whole: Shape, sizes: Mapping[str, int], name: str) -> Shape:
    """The teacher's shape with the sizes given, whole groups of heads."""
    for axis, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{axis} = {size}: at least 1 stays, and {name} has {getattr(whole, axis)}")
    group, heads = whole.heads // whole.kv_heads, sizes.get("heads", whole.heads)
    if heads % group:
        raise ConfigError(
            f"heads = {heads}: {group} of {name}'s query heads share keys and values, and groups are "
            f"cut whole; choose a multiple of {group}"
        )
    student = replace(whole, **sizes, kv_heads=heads // group)  # type: ignore[arg-type]
    check_cut(whole, student, name=name)
    return student


def _params(config: "PreTrainedConfig", shape: Shape) -> int:
    """N of a model of the family, counted on the module itself without making weights.

    Layers are alike, so that one and two of them say it all.
    """
    counts = []
    for layers in (1, 2):
        sized = sized_config(config, replace(shape, layers=layers), tuple(range(layers)))
        counts.append(count_config(sized)[0])
    return counts[0] + (shape.layers - 1) * (counts[1] - counts[0])


def prune_to(
    source: ModelSource,
    out: Path,
    wishes: Wishes,
    *,
    text: str | None = None,
    reading: Reading = WHOLE,
    making: Making = Making(),
) -> dict[str, object]:
    """Cut a student out of a model and write it as a Hugging Face folder.

    Args:
        out: folder of the student; made.
        text: calibration and held-out text, as `read_documents` takes it; without it only a uniform cut, unscored.
        making: its ranks share the windows, of calibration and to score.

    Raises:
        CacheError: no model there.
        ConfigError: it cannot be cut so, or `out` holds something else.
        DataError: too little text.
        RunError: the disk is full.
    """
    size = size_student(source, wishes)
    if wishes.ranks and text is None:
        raise ConfigError(f"ranking units by {wishes.by} needs text: give --text, or --importance uniform")
    if text is not None:
        settle_context([source], wishes.context, SCORED_CONTEXT, least=2)
    # what makes two cuts the same: teacher, shape, ranking, text
    cut_of = {"teacher": fingerprint(source), "shape": asdict(size.shape)}
    ranking: dict[str, object] = {"by": wishes.by, "tokens": wishes.tokens, "context": wishes.context}
    scores = None
    if wishes.ranked_as is not None:
        scores = _ranked_before(wishes.ranked_as, source)
        ranking = {"context": wishes.context, "scores": content_hash(_written(scores), digits=16)}
    read = {"heldout": wishes.heldout_tokens, "text": text or "", "reading": asdict(reading)}
    identity = content_hash(cut_of | ranking | read, digits=16)
    if (done := making.found(out, RECORD, identity)) is not None:
        return done
    tokenizer = source.tokenizer()
    calibration, heldout = (None, None) if text is None else _read(text, reading, tokenizer, wishes)
    teacher = load_weights(source, torch.device(making.device), torch.float32)
    if bad := next((key for key, weight in teacher.named_parameters() if not weight.isfinite().all()), None):
        raise DataError(
            f"{source.name}: {bad} holds values that are not finite; the weights are damaged, fetch them again"
        )
    cut, windows, by = uniform_cut(size.teacher_shape, size.shape), 0, "uniform"
    if calibration is not None and wishes.ranks:
        making.say(f"{source.name}: {wishes.by} importance on {len(calibration)} windows of {wishes.context} tokens")
        scores = _importance(teacher, calibration, wishes, making)
    if scores is not None:
        cut, windows, by = ranked_cut(size.teacher_shape, size.shape, scores), scores.windows, scores.by
    student = prune(teacher, size.shape, cut).to(teacher.device).eval()  # type: ignore[arg-type]
    losses = {} if heldout is None else _losses(teacher, student, heldout, wishes.context, making.ranks)
    made: dict[str, object] = {"identity": identity, "command": making.command, "teacher": source.name}
    ranked = {"importance": by, "calibration_windows": windows, "context": wishes.context}
    fingerprinted: dict[str, object] = {"teacher_fingerprint": fingerprint(source)}
    counted = fingerprinted | {"total_params": count_parameters(student)[1]}
    record = made | counted | size.record() | ranked | losses | {"cut": asdict(cut)}
    records = {RECORD: record} | ({} if scores is None else {SCORES: fingerprinted | _written(scores)})
    making.ranks.first(functools.partial(save_made, student, tokenizer, out, records))
    return record


def _written(scores: Importance) -> dict[str, object]:
    """Scores for JSON."""
    arrays = {axis: getattr(scores, axis).tolist() for axis in SCORED}
    return {"by": scores.by, "windows": scores.windows, **arrays}


def _ranked_before(cut: Path, source: ModelSource) -> Importance:
    """What the units of the teacher scored when an earlier cut was made.

    Raises:
        ConfigError: no ranked cut lies there, or it is one of another teacher.
    """
    if not (cut / SCORES).exists():
        raise ConfigError(
            f"{cut} holds no {SCORES}: it is no cut whose units were ranked (or an earlier version made it); rank "
            "anew with --text"
        )
    found = read_json(cut / SCORES)
    if found["teacher_fingerprint"] != fingerprint(source):
        raise ConfigError(
            f"{cut} was cut out of another teacher than {source.name} (fingerprint {found['teacher_fingerprint']}, not "
            f"{fingerprint(source)}), whose units its scores do not rank; rank anew with --text"
        )
    arrays = {axis: np.array(found[axis]) for axis in SCORED}
    return Importance(by=found["by"], windows=found["windows"], **arrays)


def _read(
    text: str, reading: Reading, tokenizer: "PreTrainedTokenizerBase", wishes: Wishes
) -> tuple[torch.Tensor, list[np.ndarray]]:
    """Calibration windows, shape (windows, context), and the documents to score, each after an end of text."""
    wanted = wishes.tokens + wishes.heldout_tokens  # the same documents are scored however units are ranked
    documents = read_excerpt(text, reading, max_bytes=BYTES_PER_TOKEN * wanted + 200_000).documents
    encoded = encode_to_score(tokenizer.name_or_path, tokenizer, documents)
    scored = max(2, min(SCORED_DOCUMENTS, len(encoded) // 2))
    most = 1 + math.ceil(wishes.heldout_tokens / scored)
    heldout = [ids[:most] for ids in encoded[:scored]]
    size = wishes.context
    windows = [ids[i : i + size] for ids in encoded[scored:] for i in range(1, len(ids) - size + 1, size)]
    windows = windows[: max(1, wishes.tokens // size)]
    if wishes.ranks and not windows:
        raise DataError(
            f"{text}: no document beyond the {len(heldout)} that are scored has {wishes.context} tokens; give more or "
            "longer text, or a smaller --context"
        )
    return torch.from_numpy(np.array(windows, dtype=np.int64).reshape(len(windows), size)), heldout


def _importance(teacher, calibration: torch.Tensor, wishes: Wishes, making: Making) -> Importance:
    """Scores over all windows, each process having measured its part; every window counts alike."""
    ranks = making.ranks
    if len(calibration) < ranks.world:
        raise ConfigError(
            f"{len(calibration)} calibration windows cannot be shared by {ranks.world} processes; raise --tokens, "
            "lower --context or start fewer"
        )
    windows = calibration[ranks.rank :: ranks.world]
    progress = Telling("importance", len(windows), "windows", making.say)

    def batches() -> Iterator[torch.Tensor]:
        for batch in windows.split(BATCH_WINDOWS):
            yield batch
            progress.advance(len(batch))

    found = ranks.together(lambda: measure_importance(teacher, batches(), by=wishes.by))  # type: ignore
    if ranks.world == 1:
        return found
    count = len(calibration)
    means = {axis: ranks.summed(getattr(found, axis) * found.windows) / count for axis in SCORED}
    return Importance(by=found.by, windows=count, **means)


def _losses(teacher, student, heldout: list[np.ndarray], context: int, ranks: Ranks) -> dict[str, object]:
    """Of both on the same documents, with the paired difference."""
    how = {"context": context, "stride": context, "ranks": ranks}
    theirs, ours = (score_documents(model, heldout, **how) for model in (teacher, student))
    if not np.isfinite([theirs.loss_sum, ours.loss_sum]).all():
        raise DataError("a loss is not finite: the teacher's weights are damaged, or its type is too narrow")
    lost = paired_difference(ours, theirs)
    return {
        "heldout_documents": len(heldout),
        "heldout_tokens": int(theirs.tokens.sum()),
        "teacher_loss": theirs.loss,
        "teacher_loss_se": theirs.loss_se,
        "loss": ours.loss,
        "loss_se": ours.loss_se,
        "lost": lost.mean,
        "lost_se": lost.se,
        "uniform_guess": math.log(student.config.get_text_config().vocab_size),
    }


By = Literal["gradient", "activation"]


def measure_importance(model: "PreTrainedModel", batches: Iterable[torch.Tensor], *, by: By = "gradient") -> Importance:
    """Score every unit of a model.

    Args:
        model: of a family of models/cut.py, in a float type; its parameters need no gradients afterwards.
        batches: token ids, shape (B, T), all of one T at least 2; every window counts alike.
    """
    was_training = model.training
    model.eval().requires_grad_(False)
    probe = _Gradient(model) if by == "gradient" else _Activation(model)
    with probe.attached():
        for batch_BT in batches:
            probe.add(batch_BT.to(model.device))
    model.train(was_training)
    if not probe.windows:
        raise DataError("no window of the calibration text is long enough; give more text")
    scores = {name: (total / probe.windows).double().cpu().numpy() for name, total in probe.totals.items()}
    if bad := [name for name, values in scores.items() if not np.isfinite(values).all()]:
        raise DataError(
            f"the importance of {', '.join(bad)} is not finite: the weights are damaged, or their type is too narrow"
        )
    return Importance(by=by, windows=probe.windows, **scores)


class _Probe:
    """Hooks on a model, and running sums of scores over windows; a kind of probe has `add` and `_hooks`."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self.model, self.windows = model, 0
        self.blocks = decoder_blocks(model)
        config = model.config.get_text_config()
        self.heads, ffn, width = config.num_attention_heads, config.intermediate_size, config.hidden_size
        names = dict(self.blocks[0].named_modules())
        self.reads = GATED if GATED[0] in names else NEOX
        depth = len(self.blocks)
        sizes = {"layers": (depth,), "width": (width,), "heads": (depth, self.heads), "ffn": (depth, ffn)}
        self.totals = {name: torch.zeros(size, device=model.device) for name, size in sizes.items()}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks that score layers, and those of the kind of probe."""
        with ExitStack() as stack:
            for i, block in enumerate(self.blocks):
                stack.callback(block.register_forward_hook(self._influence(i), with_kwargs=True).remove)
            for handle in self._hooks():  # type: ignore[attr-defined]
                stack.callback(handle.remove)
            yield

    def _influence(self, i: int):
        def hook(module, args, kwargs, output):
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            with torch.no_grad():
                cosine_BT = functional.cosine_similarity(before.float(), after.float(), dim=-1)
                self.totals["layers"][i] += (1 - cosine_BT.mean(1)).sum()

        return hook


class _Gradient(_Probe):
    """|d loss / d mask|, window by window."""

    def add(self, batch_BT: torch.Tensor) -> None:
        size = len(batch_BT)
        self._masks = {
            name: torch.ones((size, *total.shape), device=batch_BT.device, requires_grad=True)
            for name, total in self.totals.items()
            if name != "layers"
        }
        hidden_BTD = hidden_states(self.model, batch_BT[:, :-1])
        # the sum of the windows' own means, since all have as many tokens
        loss = size * distillation_loss(hidden_BTD, head_of(self.model), batch_BT[:, 1:])
        gradients = torch.autograd.grad(loss, list(self._masks.values()))
        for name, gradient in zip(self._masks, gradients, strict=True):
            self.totals[name] += gradient.abs().sum(0).float()
        self.windows += size

    def _hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        yield self.model.get_input_embeddings().register_forward_hook(self._mask_width)
        for i, block in enumerate(self.blocks):
            yield block.register_forward_hook(self._mask_width)
            for name, axis in zip(self.reads, ("heads", "ffn"), strict=True):
                yield block.get_submodule(name).register_forward_pre_hook(self._mask_read(axis, i))

    def _mask_width(self, module, args, output):
        mask_B1D = self._masks["width"][:, None]
        if isinstance(output, tuple):
            return (output[0] * mask_B1D.to(output[0].dtype), *output[1:])
        return output * mask_B1D.to(output.dtype)

    def _mask_read(self, axis: str, i: int):
        def hook(module, args):
            (x,) = args
            mask_BU = self._masks[axis][:, i]
            mask = mask_BU.repeat_interleave(x.shape[-1] // mask_BU.shape[1], dim=1)[:, None]
            return (x * mask.to(x.dtype),)

        return hook


class _Activation(_Probe):
    """Mean size of what units say."""

    @torch.no_grad()
    def add(self, batch_BT: torch.Tensor) -> None:
        hidden_states(self.model, batch_BT)
        self.windows += len(batch_BT)

    def _hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        for i, block in enumerate(self.blocks):
            yield block.get_submodule("input_layernorm").register_forward_hook(self._width)
            for name, axis in zip(self.reads, ("heads", "ffn"), strict=True):
                yield block.get_submodule(name).register_forward_pre_hook(self._read(axis, i))

    def _width(self, module, args, output):
        self.totals["width"] += output.float().abs().mean(1).sum(0) / len(self.blocks)

    def _read(self, axis: str, i: int):
        units = self.totals[axis].shape[1]

        def hook(module, args):
            (x,) = args
            said_BTU = x.float().unflatten(-1, (units, -1)).norm(dim=-1)
            self.totals[axis][i] += said_BTU.mean(1).sum(0)

        return hook
