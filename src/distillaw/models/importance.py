"""How much each unit of a model matters on a text: heads, FFN neurons, hidden dimensions, layers; one pass.

    scores = measure_importance(model, windows, by="gradient")
    cut = ranked_cut(teacher_shape, student_shape, scores)

gradient    mean over windows of |d loss / d mask| at masks of 1 on every head, neuron and hidden dimension (the last
            shared by embedding and all layers). The masks are per window, so the score does not depend on how many
            windows a batch holds; in the reference recipe it does (MiniMA, arXiv 2311.07052).
activation  mean size of what a unit says: the norm of a head's output, |FFN neuron|, |normed hidden dimension|
            (Minitron, arXiv 2407.14679); forward passes only.

Layers are scored by 1 - mean cosine of their input and output either way (block influence, arXiv 2403.03853).
Shape suffixes: B window, T position, D hidden width, H head, F FFN neuron.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional

from distillaw.distill.losses import distillation_loss
from distillaw.errors import DataError
from distillaw.models.cut import GATED, NEOX, Importance
from distillaw.models.teacher import decoder_blocks, head_of, hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

By = Literal["gradient", "activation"]


def measure_importance(
    model: "PreTrainedModel", batches: Iterable[torch.Tensor], *, by: By = "gradient"
) -> Importance:
    """Score every unit of a model.

    Args:
        model: of a family of models/cut.py, in a float type; its parameters need no gradients afterwards.
        batches: token ids, shape (B, T), all of one T at least 2; every window counts alike.
        by: how heads, neurons and hidden dimensions are scored.

    Raises:
        DataError: no windows, or a score is not finite.
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
    """Hooks on a model, and running sums of scores over windows."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self.model, self.windows = model, 0
        self.blocks = decoder_blocks(model)
        config = model.config.get_text_config()
        self.heads, ffn, width = config.num_attention_heads, config.intermediate_size, config.hidden_size
        names = dict(self.blocks[0].named_modules())
        self.reads = GATED if GATED[0] in names else NEOX
        sizes = {
            "layers": (len(self.blocks),),
            "width": (width,),
            "heads": (len(self.blocks), self.heads),
            "ffn": (len(self.blocks), ffn),
        }
        self.totals = {name: torch.zeros(size, device=model.device) for name, size in sizes.items()}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks that score layers, and those of the kind of probe."""
        with ExitStack() as stack:
            for i, block in enumerate(self.blocks):
                stack.callback(block.register_forward_hook(self._influence(i), with_kwargs=True).remove)
            for handle in self._hooks():
                stack.callback(handle.remove)
            yield

    def add(self, batch_BT: torch.Tensor) -> None:
        """Score a batch."""
        raise NotImplementedError

    def _hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        raise NotImplementedError

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
