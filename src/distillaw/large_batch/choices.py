"""Batch, rate, betas, weight decay and warm-up: what every rule and law says, and the one that is taken."""

import math
from collections.abc import Callable, Sequence

from distillaw.errors import ConfigError
from distillaw.large_batch.laws import BatchLaw, batch_laws
from distillaw.large_batch.question import ChosenSetting, Reference, RegimeQuestion, RuleValue
from distillaw.large_batch.rules import (
    RATE_RULES,
    Settings,
    decay_for_window,
    half_life_beta2,
    mup_simple_rate,
    sde_betas,
    timescale_decay,
)

CAP = 0.2
"""Most extra tokens, as a share of the fewest, that the advice accepts by itself: our choice, where the hyperbola
still saves many steps for each token (S/S_min = 6 there, 2 at B_crit, for 0.8 more of the fewest tokens)."""
REFERENCE_EXPONENT = 0.383
"""nanochat carries its reference batch over by (D/D_ref) to it, after Bergsma et al. 2025 (arXiv 2505.13738)."""
USUAL_BETAS = (0.9, 0.95)
"""What distillaw's own engine uses (train/optim.py): a convention of language models, no law."""
MAREK_EXPONENT = math.log(3) / math.log(1024)
"""Best rates moved about 3x between batches of 1 and 1024 sequences (Marek et al. 2025, arXiv 2507.07101)."""
SAYS = {
    # rule: formula, source, certainty
    "sqrt": (
        "eta sqrt(B/B_ref)",
        "arXiv:1705.08741 (SGD), arXiv:2205.10287 (Adam)",
        "secondary; the root also code",
    ),
    "linear": ("eta B/B_ref", "arXiv:1404.5997, arXiv:1706.02677 (SGD)", "secondary"),
    "constant": ("eta", "no rule: what not scaling gives", "-"),
    "marek": (
        "eta (B/B_ref)^0.159: best rates moved about 3x from B = 1 to 1024 sequences",
        "arXiv:2507.07101; the power is drawn here through its two ends",
        "paper (full text read)",
    ),
    "reference-scaled": (
        "B = B_ref (D/D_ref)^0.383",
        "nanochat (code), exponent of arXiv:2505.13738",
        "code; exponent secondary",
    ),
    "keep": ("as the reference", "your reference run", "-"),
    "half-life": ("beta2^(B/B_ref)", "arXiv:2507.07101", "paper"),
    "sde": ("1 - k (1 - {beta}), k = B/B_ref", "arXiv:2205.10287", "recalled"),
    "timescale": (
        "lambda (B/B_ref)(eta_ref/eta)(D_ref/D)",
        "the reference's own averaging window, arXiv:2405.13698; nanochat (code)",
        "code",
    ),
    "reference-tokens": (
        "the reference's tokens over B",
        "your reference run",
        "convention: no law of warm-up is known here",
    ),
    "second-moment": ("2/(1 - beta2) steps", "Ma & Yarats 2021, arXiv:1910.04209", "recalled"),
}


def _by_rule(name: str, value: float | None, notes: Sequence[str] = (), **symbols: str) -> RuleValue:
    formula, source, certainty = SAYS[name]
    said = {"formula": formula.format(**symbols), "source": source, "certainty": certainty}
    return RuleValue(name=name, value=value, notes=tuple(notes), **said)


def _by_law(law: BatchLaw, question: RegimeQuestion, value: float | None = None) -> RuleValue:
    """A law's value at the question's coordinates with its source, range and doubts."""
    coords = question.coords
    said = {"formula": law.formula, "source": law.source, "certainty": law.certainty}
    notes = (*law.complaints(**coords), *law.known_problems)
    return RuleValue(name=law.name, value=law(**coords) if value is None else value, notes=notes, **said)


def _answer(
    setting: str, value: float | None, chosen: str, opinions: Sequence[RuleValue] = (), unit: str = ""
) -> ChosenSetting:
    return ChosenSetting(setting=setting, unit=unit, value=value, chosen=chosen, opinions=tuple(opinions))


def _middle(opinions: Sequence[RuleValue]) -> float | None:
    """Geometric mean."""
    logs = [math.log(one.value) for one in opinions if one.value is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None


def best_batches(question: RegimeQuestion) -> list[RuleValue]:
    """What each law of the best batch says, tokens; the reference's own batch carried over to these tokens."""
    found = [_by_law(law, question) for law in batch_laws("best") if law.applies(**question.coords)]
    reference = question.reference
    if reference is not None and reference.tokens is not None:
        grown = (question.tokens / reference.tokens) ** REFERENCE_EXPONENT
        found.append(_by_rule("reference-scaled", reference.batch_tokens * grown))
    return found


def critical_batches(question: RegimeQuestion) -> list[RuleValue]:
    """B_crit of the hyperbola by each law of the critical batch that applies here, tokens."""
    laws = [law for law in batch_laws("critical") if law.applies(**question.coords)]
    return [_by_law(law, question, law.hyperbola(**question.coords)) for law in laws]


def measured_levels(question: RegimeQuestion) -> list[RuleValue]:
    """Critical batches that were measured, where this size lies in the range."""
    laws = batch_laws("measured")
    return [_by_law(law, question) for law in laws if not law.complaints(params=question.params)]


def cap_tokens(question: RegimeQuestion) -> float:
    """The batch that costs `CAP` more tokens under the strictest law in this run's own tokens."""
    laws = [law for law in batch_laws("critical") if dict(law.exponents).keys() == {"tokens"}]
    return min(CAP * law.hyperbola(**question.coords) for law in laws)


def choose_batch(question: RegimeQuestion) -> tuple[ChosenSetting, list[str]]:
    """The batch in tokens, and what must be said with it.

    Raises:
        ConfigError: the devices take more at once than the run has.
    """
    opinions, cap, quantum = best_batches(question), cap_tokens(question), question.quantum
    said = []
    if (asked := question.asked_batch) is not None:
        batch, chosen = asked, "as asked" if question.steps is None else "the tokens over the steps asked"
        if question.steps is not None:
            batch = _whole(batch, quantum)
        elif abs(batch / quantum - round(batch / quantum)) > 1e-9:
            said.append(
                f"a batch of {batch:,.0f} tokens is no multiple of the {quantum:,} that the devices take at once; "
                f"the nearest is {_whole(batch, quantum):,.0f}"
            )
    else:
        middle = _middle(opinions)
        assert middle is not None, "a law of the best batch applies to every run"
        batch = _whole(min(middle, cap), quantum)
        chosen = f"cap at {100 * CAP:.0f} % more tokens" if middle > cap else "geometric middle of the laws"
    if batch > question.tokens:
        raise ConfigError(
            f"the devices take {quantum:,} tokens at once, the run has {question.tokens:,.0f}: not one step. Take "
            "fewer devices, a smaller micro-batch or a shorter context"
        )
    if batch > 1.05 * cap:  # rounding to whole multiples is not worth a word
        why = " The devices force it: fewer devices or a smaller micro-batch" if batch <= quantum else ""
        said.append(
            f"this batch is {batch / cap:.2g} times the one at {100 * CAP:.0f} % more tokens ({cap:,.0f}).{why}"
        )
    return _answer("batch", batch, chosen, opinions, unit="tokens"), said


def _whole(batch: float, quantum: int) -> float:
    """The nearest whole multiple, at least one."""
    return float(max(1, round(batch / quantum)) * quantum)


def choose_rate(question: RegimeQuestion, batch: float) -> ChosenSetting:
    """The peak rate: from the reference by rule; without one, laws only, as a band."""
    is_sgd, reference, laws = question.optimizer == "sgd", question.reference, []
    if not is_sgd:
        laws = [_by_law(law, question) for law in batch_laws("rate") if law.applies(**question.coords)]
    if reference is None:
        how = (
            "geometric middle of the laws: a band, not a value"
            if laws
            else "no law for SGD without a reference"
        )
        return _answer("peak_lr", _middle(laws), how, laws)
    rate, notes = _at_width(question, reference)
    kept = [name for name in RATE_RULES if is_sgd or name != "linear"]
    values = {name: RATE_RULES[name](rate, batch=batch, reference=reference.batch_tokens) for name in kept}
    if not is_sgd:
        values["marek"] = rate * (batch / reference.batch_tokens) ** MAREK_EXPONENT
    chosen = "linear" if is_sgd else "sqrt"
    rules = [_by_rule(name, value, notes) for name, value in values.items()]
    return _answer("peak_lr", values[chosen], chosen, (*rules, *laws))


def _at_width(question: RegimeQuestion, reference: Reference) -> tuple[float, tuple[str, ...]]:
    if question.width is None or reference.width is None:
        return reference.peak_lr, ()
    rate = mup_simple_rate(reference.peak_lr, width=question.width, base_width=reference.width)
    note = (
        f"hidden matrices and head; widths {reference.width:g} -> {question.width:g}, eta base/width "
        "(arXiv:2309.14322); embeddings and gains keep the rate of the reference's width"
    )
    return rate, (note,)


def choose_betas(question: RegimeQuestion, batch: float) -> list[ChosenSetting]:
    """beta1, beta2 and epsilon's factor; none for SGD."""
    reference = question.reference
    if question.optimizer == "sgd":
        return []
    if reference is None:
        usual = "usual of language models (train/optim.py); the rules need a reference"
        return [
            _answer(name, value, usual) for name, value in zip(("beta1", "beta2"), USUAL_BETAS, strict=True)
        ]
    tuned = reference_settings(reference)
    keep1 = _by_rule("keep", tuned.beta1, _assumed(reference.beta1))
    keep2 = _by_rule("keep", tuned.beta2, _assumed(reference.beta2))
    half = _holding("half-life", lambda: half_life_beta2(tuned.beta2, batch=batch, reference=tuned.batch))
    moved1 = _holding("sde", lambda: sde_betas(tuned, batch=batch).beta1, beta="beta1")
    moved2 = _holding("sde", lambda: sde_betas(tuned, batch=batch).beta2, beta="beta2")
    taken, how = half.value, "half-life"
    if taken is None:
        taken, how = keep2.value, "keep: half-life does not hold"
    return [
        _answer("beta1", keep1.value, "keep", (keep1, moved1)),
        _answer("beta2", taken, how, (half, moved2, keep2)),
    ]


def _assumed(given: float | None) -> tuple[str, ...]:
    return ("not given: the usual value is assumed",) if given is None else ()


def _holding(name: str, compute: Callable[[], float], **symbols: str) -> RuleValue:
    """The rule's value, or the reason why it does not hold."""
    try:
        return _by_rule(name, compute(), **symbols)
    except ConfigError as error:
        return _by_rule(name, None, (str(error),), **symbols)


def choose_decay(question: RegimeQuestion, batch: float, peak_lr: float | None) -> ChosenSetting:
    """PyTorch's weight decay: by the published averaging window, and by the reference's own."""
    if question.optimizer == "sgd" or peak_lr is None:
        return _answer("weight_decay", None, "the laws are AdamW's and need a rate")
    (window,) = batch_laws("window")
    tau = window(**question.coords)
    by_law = RuleValue(
        name="bergsma2025-window",
        value=decay_for_window(tau, batch=batch, peak_lr=peak_lr, tokens=question.tokens),
        formula=f"B/(eta D tau), tau = {tau:.3g} of the run",
        source=window.source,
        certainty="secondary, three sources",
        notes=tuple(window.complaints(**question.coords)),
    )
    opinions, reference = [by_law], question.reference
    if reference is not None and reference.weight_decay is not None:
        value = timescale_decay(
            reference.weight_decay,
            batch=batch,
            reference=reference.batch_tokens,
            rate_ratio=peak_lr / reference.peak_lr,
            tokens_ratio=question.tokens / (reference.tokens or question.tokens),
        )
        notes = () if reference.tokens is not None else ("D_ref not given: taken as D",)
        opinions.append(_by_rule("timescale", value, notes))
    return _answer("weight_decay", by_law.value, by_law.name, opinions)


def choose_warmup(question: RegimeQuestion, batch: float, beta2: float | None) -> ChosenSetting:
    """Warm-up in steps: the reference's tokens, and the time that Adam's second moment needs."""
    reference, steps = question.reference, {}
    if reference is not None and reference.warmup_tokens is not None:
        steps["reference-tokens"] = reference.warmup_tokens / batch
    if beta2 is not None:
        steps["second-moment"] = 2 / (1 - beta2)
    if not steps:
        return _answer("warmup", None, "no rule without a reference's warm-up", unit="steps")
    longest = max(steps, key=steps.__getitem__)
    how = f"the longer: {longest}" if len(steps) > 1 else f"{longest} alone"
    if "reference-tokens" not in steps:
        how = "a floor, no law: second-moment. Give --reference-warmup"
    value = float(max(1, math.ceil(steps[longest])))
    return _answer("warmup", value, how, [_by_rule(name, n) for name, n in steps.items()], unit="steps")


def reference_settings(reference: Reference) -> Settings:
    """The reference as the rules take it; betas that were not given are the usual ones."""
    return Settings(
        batch=reference.batch_tokens,
        peak_lr=reference.peak_lr,
        weight_decay=reference.weight_decay or 0.0,
        beta1=USUAL_BETAS[0] if reference.beta1 is None else reference.beta1,
        beta2=USUAL_BETAS[1] if reference.beta2 is None else reference.beta2,
    )
