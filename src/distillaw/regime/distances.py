"""How far a model's weights are from where they began: in total, of the first tensor, per group of modules.

The distances are fitted in regime/diffusion.py, at the steps of its `log_steps`. Put `state()` into the checkpoint, so
that a resumed run continues the same curve.
"""

import math
from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor

from distillaw.errors import ConfigError


class DistanceTracker:
    """Keeps w_0 (one copy of the weights, on their device) and measures ||w - w_0||.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> tracker = DistanceTracker(layer)
        >>> _ = layer.weight.data.add_(3.0)
        >>> round(tracker.measure()["total"], 3)
        4.243
    """

    def __init__(self, model: torch.nn.Module, *, depth: int = 1) -> None:
        """Start at the model's weights as they are.

        Args:
            model: whose parameters are followed; buffers are not.
            depth: components of a module's name that make its group: 1 is the model's children.

        Raises:
            ConfigError: no parameters, or a depth below one.
        """
        if depth < 1:
            raise ConfigError(f"depth = {depth}: at least one component of the names makes a group")
        self._parameters = dict(model.named_parameters())
        if not self._parameters:
            raise ConfigError("the model has no parameters to follow")
        self._depth = depth
        self._start = {name: p.detach().clone() for name, p in self._parameters.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """w_0 by parameter name."""
        return dict(self._start)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up w_0 of a run that goes on.

        Raises:
            ConfigError: the names or shapes are not this model's.
        """
        ours = {name: tuple(p.shape) for name, p in self._parameters.items()}
        theirs = {name: tuple(start.shape) for name, start in state.items()}
        if ours != theirs:
            odd = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
            raise ConfigError(f"start weights of another model: {odd[0]} and {len(odd) - 1} more differ")
        self._start = {name: start.to(self._parameters[name].device) for name, start in state.items()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`total`, `first` (the first tensor) and `group:NAME` for each group: Euclidean distances.

        On a model sharded over ranks all of them call this.
        """
        squares = [_squared(p.detach() - self._start[name]) for name, p in self._parameters.items()]
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(self._parameters):
            groups.setdefault(f"group:{self._group(name)}", []).append(i)
        found = torch.stack(squares).tolist()
        parts = {"total": list(range(len(found))), "first": [0], **groups}
        return {name: math.sqrt(math.fsum(found[i] for i in part)) for name, part in parts.items()}

    def _group(self, name: str) -> str:
        """The first components of the module that a parameter is of."""
        *module, parameter = name.split(".")
        return ".".join(module[: self._depth]) or parameter


def _squared(difference: torch.Tensor) -> torch.Tensor:
    """Sum of squares in float64, of all ranks' parts where the tensor is sharded."""
    norm = torch.linalg.vector_norm(difference, dtype=torch.float64)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).square()
