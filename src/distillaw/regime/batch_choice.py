"""Which batch: the published laws as a band, capped where they say that a fifth more tokens would be spent."""

import math

from distillaw.errors import ConfigError
from distillaw.regime.critical import BatchLaw, batch_laws
from distillaw.regime.question import Answer, Opinion, Question

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
