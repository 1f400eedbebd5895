"""Stored teacher targets: a few tokens per position with their weights, instead of a distribution.

Two kinds, told apart by `residual`:

* importance-sampled (residual None): weights are unbiased estimates of the teacher's probabilities, which sum
  to 1 only on average. E[weights] = p, so the loss and its gradient are unbiased (arXiv 2503.16870).
* top-k or top-p with residual mass: weights are exact probabilities and `residual` the mass outside `ids`,
  which the student must match in total ("ghost token"); nothing is said on how it is spread.

Shape suffixes: B sequence, T position, K kept token.
"""

from dataclasses import dataclass

import torch

from distillaw.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseTargets:
    """Teacher targets of one batch at one temperature. Ids of used slots are distinct within a position.

    Raises:
        DataError: shapes or types do not fit together.
    """

    ids: torch.Tensor
    """Token ids, (B, T, K), int64."""
    weights: torch.Tensor
    """Probability, or its unbiased estimate, of each token, (B, T, K), float32; 0 marks an unused slot."""
    residual: torch.Tensor | None = None
    """Teacher mass outside `ids`, (B, T), float32; None for importance-sampled targets."""
    entropy: torch.Tensor | None = None
    """The teacher's own entropy in nats, (B, T), float32: turns the cross-entropy of sampled targets into a KL."""
    temperature: float = 1.0
    """The temperature at which the teacher was recorded."""

    def __post_init__(self):
        shape = self.ids.shape
        if (
            self.weights.shape != shape
            or not self.weights.is_floating_point()
            or self.ids.dtype != torch.int64
        ):
            raise DataError(
                f"targets: ids {tuple(shape)} {self.ids.dtype} and weights {tuple(self.weights.shape)} "
                f"{self.weights.dtype} must be of one shape (..., kept), int64 and floating"
            )
        for name, value in (("residual", self.residual), ("entropy", self.entropy)):
            if value is not None and value.shape != shape[:-1]:
                raise DataError(
                    f"targets: {name} {tuple(value.shape)} must be {tuple(shape[:-1])}, one per position"
                )
        if not self.temperature > 0:
            raise DataError(f"targets: temperature {self.temperature} must be above 0")

    def rows(self, keep_N: torch.Tensor | None) -> "SparseTargets":
        """The same targets flattened to one position per row, only rows `keep_N` (indices) if given."""
        leading = self.ids.dim() - 1

        def flat(value: torch.Tensor) -> torch.Tensor:
            value = value.reshape(-1, *value.shape[leading:])
            return value if keep_N is None else value[keep_N]

        return SparseTargets(
            ids=flat(self.ids),
            weights=flat(self.weights),
            temperature=self.temperature,
            residual=None if self.residual is None else flat(self.residual),
            entropy=None if self.entropy is None else flat(self.entropy),
        )

    def to(self, device: torch.device) -> "SparseTargets":
        """The same targets on another device."""
        if self.ids.device == device:
            return self
        moved = {
            name: None if value is None else value.to(device)
            for name, value in (("residual", self.residual), ("entropy", self.entropy))
        }
        return SparseTargets(
            ids=self.ids.to(device), weights=self.weights.to(device), temperature=self.temperature, **moved
        )
