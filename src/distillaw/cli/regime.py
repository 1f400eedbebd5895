"""`distillaw regime`: batch, learning rate and the rest of a run's settings, with their sources and their spread."""

import shlex
from typing import Annotated, Literal

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Count, count, optional_count, whole_count
from distillaw.cli.names import HardwareName
from distillaw.cli.output import Output
from distillaw.cli.regime_options import ReferenceOptions
from distillaw.cli.typed import formerly
from distillaw.errors import ConfigError


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
    from distillaw.large_batch.question import Question

    question = Question(
        params=count(params, name="--student"), tokens=count(tokens, name="--tokens"),
        context=_one_or_more(context, name="--context"), devices=_one_or_more(devices, name="--devices"),
        micro_batch=_one_or_more(micro_batch, name="--micro-batch"), optimizer=optimizer, norm=norm,
        distils=distil, batch_tokens=optional_count(batch, name="--batch"),
        steps=optional_count(steps, name="--steps"), width=optional_count(width, name="--width"), loss=loss,
        cooldown=cooldown, reference=None if reference is None else reference.read(),
    )  # fmt: skip
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
