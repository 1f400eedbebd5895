"""The reference run of `distillaw regime`, as typed."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from cyclopts import Parameter

from distillaw.cli.counts import Count, optional_count
from distillaw.errors import ConfigError

if TYPE_CHECKING:
    from distillaw.large_batch.question import Reference


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceOptions:
    """A run whose settings were tuned; it needs at least its batch and its rate."""

    reference_batch: Count | None = None
    """Its batch in tokens, e.g. 524288."""
    reference_lr: float | None = None
    """Its peak rate."""
    reference_tokens: Count | None = None
    """Its tokens."""
    reference_width: Count | None = None
    """Its width; with --width the rate is moved by muP."""
    reference_weight_decay: float | None = None
    """Its weight decay, PyTorch's."""
    reference_beta1: float | None = None
    """Its beta1; 0.9 is assumed."""
    reference_beta2: float | None = None
    """Its beta2; 0.95 is assumed."""
    reference_warmup: Count | None = None
    """Its warm-up in tokens."""

    def read(self) -> "Reference | None":
        """The reference, or None where nothing was given.

        Raises:
            ConfigError: part of a reference without its batch or its rate, or numbers that cannot be.
        """
        from distillaw.large_batch.question import Reference

        if all(getattr(self, field.name) is None for field in fields(self)):
            return None
        batch = optional_count(self.reference_batch, name="--reference-batch")
        if batch is None or self.reference_lr is None:
            raise ConfigError("a reference run needs both --reference-batch and --reference-lr")
        return Reference(
            batch_tokens=batch, peak_lr=self.reference_lr,
            tokens=optional_count(self.reference_tokens, name="--reference-tokens"),
            width=optional_count(self.reference_width, name="--reference-width"),
            weight_decay=self.reference_weight_decay, beta1=self.reference_beta1, beta2=self.reference_beta2,
            warmup_tokens=optional_count(self.reference_warmup, name="--reference-warmup"),
        )  # fmt: skip
