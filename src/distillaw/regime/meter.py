"""Gradient norms at two batch sizes from gradient accumulation: |g_b|^2 of each micro-batch, |g_B|^2 of their mean.

For any PyTorch loop whose micro-batches are equally large. Costs one copy of the gradients and no extra pass; for
data parallelism there is regime/rank_meter.py.
"""

from collections.abc import Iterable, Sequence

import torch

from distillaw.errors import ConfigError, RunError


class AccumulationMeter:
    """Call `after_backward()` after each micro-batch's backward, `norms()` once before clipping.

    Gradients must begin at zero, and each micro-batch's loss must be divided by `micro_batches`, as loops that
    accumulate do.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> meter = AccumulationMeter(layer.parameters(), micro_batches=2)
        >>> for x in torch.eye(3)[:2]:
        ...     (layer(x).sum() / 2).backward()
        ...     meter.after_backward()
        >>> meter.norms()  # unit gradients along two axes: 1 each, 1/2 for their mean
        (1.0, 0.5)
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, micro_batches: int) -> None:
        if micro_batches < 2:
            raise ConfigError(f"micro_batches = {micro_batches}: the estimator needs at least two a step")
        self._parameters = [p for p in parameters if p.requires_grad]
        self._micro_batches = micro_batches
        self._before: list[torch.Tensor] | None = None
        self._squares: list[float] = []

    @torch.no_grad()
    def after_backward(self) -> None:
        """Measure what the last micro-batch added."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        added = gradients if self._before is None else torch._foreach_sub(gradients, self._before)
        self._squares.append(_squared(added) * self._micro_batches**2)
        self._before = [gradient.clone() for gradient in gradients]

    @torch.no_grad()
    def norms(self) -> tuple[float, float]:
        """(mean |g_b|^2, |g_B|^2) of the step; the meter begins anew.

        Raises:
            RunError: not as many micro-batches were measured as announced.
        """
        if len(self._squares) != self._micro_batches or self._before is None:
            raise RunError(
                f"{len(self._squares)} micro-batches measured of {self._micro_batches}: call after_backward() after "
                "each of them, and norms() once a step"
            )
        answer = sum(self._squares) / len(self._squares), _squared(self._before)
        self._squares, self._before = [], None
        return answer


def _squared(tensors: Sequence[torch.Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum())
