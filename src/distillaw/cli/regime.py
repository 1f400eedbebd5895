"""`distillaw regime`: batch, learning rate and the rest of a run's settings, with their sources and their spread."""

import shlex
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, count, optional_count, whole_count
from distillaw.cli.names import HardwareName
from distillaw.cli.output import Output
from distillaw.cli.typed import formerly, refuse_idle
from distillaw.errors import ConfigError
from distillaw.large_batch.question import Reference, RegimeQuestion


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

    def read(self) -> Reference | None:
        """The reference, or None where nothing was given.

        Raises:
            ConfigError: part of a reference without its batch or its rate, or numbers that cannot be.
        """
        if all(getattr(self, field.name) is None for field in fields(self)):
            return None
        batch = optional_count(self.reference_batch, name="--reference-batch")
        if batch is None or self.reference_lr is None:
            raise ConfigError("a reference run needs both --reference-batch and --reference-lr")
        return Reference(
            batch_tokens=batch,
            peak_lr=self.reference_lr,
            tokens=optional_count(self.reference_tokens, name="--reference-tokens"),
            width=optional_count(self.reference_width, name="--reference-width"),
            weight_decay=self.reference_weight_decay,
            beta1=self.reference_beta1,
            beta2=self.reference_beta2,
            warmup_tokens=optional_count(self.reference_warmup, name="--reference-warmup"),
        )


def regime(
    *,
    params: Annotated[Count, Parameter(name="--student", alias=("--params", "--student-params"))],
    tokens: Count,
    reference: ReferenceOptions | None = None,
    batch: Count | None = None,
    steps: Count | None = None,
    context: Count = "4096",
    devices: Count = "1",
    micro_batch: Count = "1",
    width: Count | None = None,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    norm: Literal["rmsnorm", "layernorm", "batchnorm", "none"] = "rmsnorm",
    distil: Annotated[bool, Parameter(negative="")] = False,
    loss: float | None = None,
    cooldown: float = 0.2,
    device: Annotated[HardwareName | None, formerly("--hardware")] = None,
    mfu: float | None = None,
    price: float | None = None,
    output: Output = Output(),
) -> None:
    """Choose batch, rate, warm-up, weight decay, betas and steps of a run, and what its batch wastes.

    Every number names the rule or law it is from; where laws disagree, all are shown.

    Args:
        params: non-embedding parameters, e.g. 300M.
        tokens: tokens of the run, e.g. 6B.
        reference: a run whose settings were tuned.
        batch: judge this batch, in tokens, instead of choosing one.
        steps: or the batch that so many updates mean.
        context: tokens of a sequence.
        devices: how many share the batch.
        micro_batch: sequences that one device takes at once.
        width: of the model, to move the rate from --reference-width.
        optimizer: adamw or sgd.
        norm: what the model normalises with; only batchnorm has batch statistics.
        distil: the run learns from a teacher.
        loss: expected final loss in nats per token, for the law in the loss.
        cooldown: share of the run at a falling rate.
        device: preset of the devices, e.g. h100-sxm, for time and money.
        mfu: model FLOP over peak, 0 to 1; the preset's by default.
        price: US dollars per device-hour; the preset's by default.
    """
    from distillaw.accounting.hardware import hardware as preset
    from distillaw.large_batch.advice import advise

    if optimizer == "sgd":
        of_adamw = ("--reference-weight-decay", "--reference-beta1", "--reference-beta2")
        refuse_idle(of_adamw, "decay and betas are advised on for --optimizer adamw")
    question = RegimeQuestion(
        params=count(params, name="--student"),
        tokens=count(tokens, name="--tokens"),
        context=_one_or_more(context, name="--context"),
        devices=_one_or_more(devices, name="--devices"),
        micro_batch=_one_or_more(micro_batch, name="--micro-batch"),
        optimizer=optimizer,
        norm=norm,
        distils=distil,
        batch_tokens=optional_count(batch, name="--batch"),
        steps=optional_count(steps, name="--steps"),
        width=optional_count(width, name="--width"),
        loss=loss,
        cooldown=cooldown,
        reference=None if reference is None else reference.read(),
    )
    advice = advise(
        question, device=None if device is None else preset(device), mfu=mfu, price_per_hour=price
    )
    from distillaw.cli.regime_view import as_json, print_text

    print_json(as_json(advice)) if output.json else print_text(advice)
    output.suggest(
        f"distillaw cost --student {shlex.quote(params)} --tokens {shlex.quote(tokens)}",
        first="batch, rate and warm-up go into the TOML file of a run or a study; what it costs:",
    )


def _one_or_more(text: str, *, name: str) -> int:
    value = whole_count(text, name=name)
    if value < 1:
        raise ConfigError(f"{name} {text}: at least 1")
    return value
