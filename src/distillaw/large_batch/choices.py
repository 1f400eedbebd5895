"""Batch, rate, betas, weight decay and warm-up: what every rule and law says, and the one that is taken."""

import math
from collections.abc import Callable

from distillaw.errors import ConfigError
from distillaw.large_batch.laws import BatchLaw, batch_laws
from distillaw.large_batch.question import Answer, Opinion, Question, Reference
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
"""Most extra tokens, as a share of the fewest, that the advice accepts by itself."""
REFERENCE_EXPONENT = 0.383
"""nanochat carries its reference batch over by (D/D_ref) to it, after Bergsma et al. 2025."""


def best_batches(question: Question) -> list[Opinion]:
    """What each law of the best batch says, tokens; the reference's own batch carried over to these tokens."""
    found = [opinion(law, question) for law in batch_laws("best") if law.applies(**question.coords)]
    reference = question.reference
    if reference is not None and reference.tokens is not None:
        found.append(Opinion(
            name="reference-scaled", formula="B = B_ref (D/D_ref)^0.383",
            value=reference.batch_tokens * (question.tokens / reference.tokens) ** REFERENCE_EXPONENT,
            source="nanochat (code), exponent of arXiv:2505.13738", certainty="code; exponent secondary",
        ))  # fmt: skip
    return found


def critical_batches(question: Question) -> list[Opinion]:
    """B_crit of the hyperbola by each law of the critical batch that applies here, tokens."""
    coords = question.coords
    return [
        opinion(law, question, value=law.hyperbola(**coords))
        for law in batch_laws("critical")
        if law.applies(**coords)
    ]


def measured_levels(question: Question) -> list[Opinion]:
    """Critical batches that were measured, where this size lies in the range."""
    return [
        opinion(law, question) for law in batch_laws("measured") if not law.complaints(params=question.params)
    ]


def cap_tokens(question: Question) -> float:
    """The batch that costs `CAP` more tokens under the strictest law in this run's own tokens."""
    coords = question.coords
    laws = [law for law in batch_laws("critical") if dict(law.exponents).keys() == {"tokens"}]
    return min(CAP * law.hyperbola(**coords) for law in laws)


def choose_batch(question: Question) -> tuple[Answer, list[str]]:
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
        values = [o.value for o in opinions if o.value is not None]
        middle = math.exp(sum(map(math.log, values)) / len(values))
        batch, chosen = _whole(min(middle, cap), quantum), "geometric middle of the laws"
        if middle > cap:
            chosen = f"cap at {100 * CAP:.0f} % more tokens"
    if batch > question.tokens:
        raise ConfigError(
            f"the devices take {quantum:,} tokens at once, the run has {question.tokens:,.0f}: not one step. Take "
            "fewer devices, a smaller micro-batch or a shorter context"
        )
    if batch > 1.05 * cap:
        why = " The devices force it: fewer devices or a smaller micro-batch" if batch <= quantum else ""
        said.append(
            f"this batch is {batch / cap:.2g} times the one at {100 * CAP:.0f} % more tokens ({cap:,.0f}).{why}"
        )
    return Answer(setting="batch", unit="tokens", value=batch, chosen=chosen, opinions=tuple(opinions)), said


def opinion(law: BatchLaw, question: Question, *, value: float | None = None) -> Opinion:
    """A law's value at the question's coordinates with its source, range and doubts."""
    coords = question.coords
    return Opinion(
        name=law.name, value=law(**coords) if value is None else value, formula=law.formula, source=law.source,
        certainty=law.certainty, notes=(*law.complaints(**coords), *law.known_problems),
    )  # fmt: skip


def _whole(batch: float, quantum: int) -> float:
    """The nearest whole multiple, at least one."""
    return float(max(1, round(batch / quantum)) * quantum)


USUAL_BETAS = (0.9, 0.95)
"""What distillaw's own engine uses (train/optim.py): a convention of language models, no law."""
MAREK_EXPONENT = math.log(3) / math.log(1024)
"""Best rates moved about 3x between batches of 1 and 1024 sequences."""
SOURCES = {
    "sqrt": ("eta sqrt(B/B_ref)", "arXiv:1705.08741 (SGD), arXiv:2205.10287 (Adam)", "secondary; the root also code"),
    "linear": ("eta B/B_ref", "arXiv:1404.5997, arXiv:1706.02677 (SGD)", "secondary"),
    "constant": ("eta", "no rule: what not scaling gives", "-"),
}  # fmt: skip


def choose_rate(question: Question, batch: float) -> Answer:
    """The peak rate: from the reference by rule; without one, laws only, as a band."""
    laws = [] if question.optimizer == "sgd" else [
        opinion(law, question) for law in batch_laws("rate") if law.applies(**question.coords)
    ]  # fmt: skip
    reference = question.reference
    if reference is None:
        values = [o.value for o in laws if o.value is not None]
        middle = math.exp(sum(map(math.log, values)) / len(values)) if values else None
        how = (
            "geometric middle of the laws: a band, not a value"
            if values
            else "no law for SGD without a reference"
        )
        return Answer(setting="peak_lr", unit="", value=middle, chosen=how, opinions=tuple(laws))
    rules = [_rate_opinion(name, question, reference, batch) for name in RATE_RULES
             if name != "linear" or question.optimizer == "sgd"]  # fmt: skip
    if question.optimizer != "sgd":
        rules.append(_marek(question, reference, batch))
    chosen = "linear" if question.optimizer == "sgd" else "sqrt"
    value = next(o.value for o in rules if o.name == chosen)
    return Answer(setting="peak_lr", unit="", value=value, chosen=chosen, opinions=(*rules, *laws))


def choose_betas(question: Question, batch: float) -> list[Answer]:
    """beta1, beta2 and epsilon's factor; none for SGD."""
    if question.optimizer == "sgd":
        return []
    reference = question.reference
    if reference is None:
        usual = "usual of language models (train/optim.py); the rules need a reference"
        return [Answer(setting=name, unit="", value=value, chosen=usual, opinions=())
                for name, value in zip(("beta1", "beta2"), USUAL_BETAS, strict=True)]  # fmt: skip
    tuned = reference_settings(reference)
    keep1, keep2 = (_keep(value, given is None) for value, given in
                    ((tuned.beta1, reference.beta1), (tuned.beta2, reference.beta2)))  # fmt: skip
    half = _holds(lambda: half_life_beta2(tuned.beta2, batch=batch, reference=tuned.batch), Opinion(
        name="half-life", value=None, formula="beta2^(B/B_ref)", source="arXiv:2507.07101", certainty="paper",
    ))  # fmt: skip
    moved = [
        _holds(lambda which=which: getattr(sde_betas(tuned, batch=batch), which), Opinion(
            name="sde", value=None, formula=formula, source="arXiv:2205.10287",
            certainty="recalled",
        ))
        for which, formula in (("beta1", "1 - k (1 - beta1), k = B/B_ref"), ("beta2", "1 - k (1 - beta2), k = B/B_ref"))
    ]  # fmt: skip
    taken, how = (
        (keep2.value, "keep: half-life does not hold") if half.value is None else (half.value, "half-life")
    )
    return [
        Answer(setting="beta1", unit="", value=keep1.value, chosen="keep", opinions=(keep1, moved[0])),
        Answer(setting="beta2", unit="", value=taken, chosen=how, opinions=(half, moved[1], keep2)),
    ]


def choose_decay(question: Question, batch: float, peak_lr: float | None) -> Answer:
    """PyTorch's weight decay: by the published averaging window, and by the reference's own."""
    if question.optimizer == "sgd" or peak_lr is None:
        return Answer(setting="weight_decay", unit="", value=None, opinions=(),
                      chosen="the laws are AdamW's and need a rate")  # fmt: skip
    window = next(law for law in batch_laws("window"))
    tau = window(**question.coords)
    by_law = Opinion(
        name="bergsma2025-window", formula=f"B/(eta D tau), tau = {tau:.3g} of the run", source=window.source,
        value=decay_for_window(tau, batch=batch, peak_lr=peak_lr, tokens=question.tokens),
        certainty="secondary, three sources", notes=tuple(window.complaints(**question.coords)),
    )  # fmt: skip
    opinions, reference = [by_law], question.reference
    if reference is not None and reference.weight_decay is not None:
        tokens_ratio = 1.0 if reference.tokens is None else question.tokens / reference.tokens
        opinions.append(Opinion(
            name="timescale", formula="lambda (B/B_ref)(eta_ref/eta)(D_ref/D)", certainty="code",
            value=timescale_decay(
                reference.weight_decay, batch=batch, reference=reference.batch_tokens,
                rate_ratio=peak_lr / reference.peak_lr, tokens_ratio=tokens_ratio,
            ),
            source="the reference's own averaging window, arXiv:2405.13698; nanochat (code)",
            notes=() if reference.tokens is not None else ("D_ref not given: taken as D",),
        ))  # fmt: skip
    return Answer(
        setting="weight_decay", unit="", value=by_law.value, chosen=by_law.name, opinions=tuple(opinions)
    )


def choose_warmup(question: Question, batch: float, beta2: float | None) -> Answer:
    """Warm-up in steps: the reference's tokens, and the time that Adam's second moment needs."""
    opinions, reference = [], question.reference
    if reference is not None and reference.warmup_tokens is not None:
        opinions.append(Opinion(
            name="reference-tokens", value=reference.warmup_tokens / batch, formula="the reference's tokens over B",
            source="your reference run", certainty="convention: no law of warm-up is known here",
        ))  # fmt: skip
    if beta2 is not None:
        opinions.append(Opinion(
            name="second-moment", value=2 / (1 - beta2), formula="2/(1 - beta2) steps",
            source="Ma & Yarats 2021, arXiv:1910.04209", certainty="recalled",
        ))  # fmt: skip
    if not opinions:
        return Answer(setting="warmup", unit="steps", value=None, opinions=(),
                      chosen="no rule without a reference's warm-up")  # fmt: skip
    longest = max(opinions, key=lambda o: o.value or 0.0)
    assert longest.value is not None
    how = f"the longer: {longest.name}" if len(opinions) > 1 else f"{longest.name} alone"
    if reference is None or reference.warmup_tokens is None:
        how = "a floor, no law: second-moment. Give --reference-warmup"
    return Answer(setting="warmup", unit="steps", value=float(max(1, math.ceil(longest.value))), chosen=how,
                  opinions=tuple(opinions))  # fmt: skip


def reference_settings(reference: Reference) -> Settings:
    """The reference as the rules take it; betas that were not given are the usual ones."""
    return Settings(
        batch=reference.batch_tokens, peak_lr=reference.peak_lr, weight_decay=reference.weight_decay or 0.0,
        beta1=USUAL_BETAS[0] if reference.beta1 is None else reference.beta1,
        beta2=USUAL_BETAS[1] if reference.beta2 is None else reference.beta2,
    )  # fmt: skip


def _at_width(question: Question, reference: Reference) -> tuple[float, tuple[str, ...]]:
    if question.width is None or reference.width is None:
        return reference.peak_lr, ()
    rate = mup_simple_rate(reference.peak_lr, width=question.width, base_width=reference.width)
    note = (f"hidden matrices and head; widths {reference.width:g} -> {question.width:g}, eta base/width "
            "(arXiv:2309.14322); embeddings and gains keep the rate of the reference's width")  # fmt: skip
    return rate, (note,)


def _rate_opinion(name: str, question: Question, reference: Reference, batch: float) -> Opinion:
    formula, source, certainty = SOURCES[name]
    rate, notes = _at_width(question, reference)
    return Opinion(
        name=name, value=RATE_RULES[name](rate, batch=batch, reference=reference.batch_tokens), formula=formula,
        source=source, certainty=certainty, notes=notes,
    )  # fmt: skip


def _marek(question: Question, reference: Reference, batch: float) -> Opinion:
    rate, notes = _at_width(question, reference)
    return Opinion(
        name="marek", value=rate * (batch / reference.batch_tokens) ** MAREK_EXPONENT,
        formula="eta (B/B_ref)^0.159: best rates moved about 3x from B = 1 to 1024 sequences",
        source="arXiv:2507.07101; the power is drawn here through its two ends", certainty="paper (full text read)",
        notes=notes,
    )  # fmt: skip


def _keep(value: float, assumed: bool) -> Opinion:
    return Opinion(name="keep", value=value, formula="as the reference", source="your reference run", certainty="-",
                   notes=("not given: the usual value is assumed",) if assumed else ())  # fmt: skip


def _holds(compute: Callable[[], float], said: Opinion) -> Opinion:
    """The opinion with its value, or with the reason why the rule does not hold."""
    try:
        value, notes = compute(), said.notes
    except ConfigError as error:
        value, notes = None, (str(error),)
    return Opinion(name=said.name, value=value, formula=said.formula, source=said.source,
                   certainty=said.certainty, notes=notes)  # fmt: skip
