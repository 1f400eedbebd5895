"""What code is known to compute instead of what it says: by position (a divergence, a cross-entropy) and by weight.

Each variant carries the property it belongs to and a sentence. They serve to name what an observed gradient is, never
to decide whether it is right: that is decided by the closed form alone. Sources: docs/audit-catalogue.md.
Shape suffixes: P position, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch

from distillaw.audit.contract import DeclaredLoss
from distillaw.audit.objective import PerToken, Rows, entries, log_pair, per_token, weights

T = TypeVar("T")


class Variant(NamedTuple, Generic[T]):
    """What may be computed instead: a divergence, the objective of a cross-entropy, or weights of positions (P,)."""

    property: str
    says: str
    value: T


_TEMPERATURES = (0.5, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 8.0, 10.0, 20.0)
_CLIPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0)


def shapes(o: DeclaredLoss, vocab: int) -> Iterator[Variant[PerToken]]:
    """Divergences that are not the declared one, the likely ones first."""
    t = o.temperature or 1.0
    yield from _directions(o)
    for other in dict.fromkeys((1.0, *_TEMPERATURES, t * t, t**0.5, 1 / t)):
        if other != t:
            yield _changed(o, "temperature", f"the temperature is {other:g}, not {t:g}", temperature=other)
    if t != 1:
        yield _changed(o, "temperature", f"only the student's logits are divided by {t:g}", teacher_temperature=1.0)
        yield _changed(
            o, "temperature", f"only the teacher's logits are divided by {t:g}", temperature=1.0, teacher_temperature=t
        )
    yield from _truncations(o, vocab)
    yield from _slips(o)
    for name in ("tvd", "mse-logits", "mse-probs"):
        if name != o.divergence:
            yield _changed(o, "loss", f"it is {name}", divergence=name)
    yield from _vocabularies(o)
    for other in _directions(o):
        for wrong in (1.0, 0.9):
            if wrong != t:
                value = _at_temperature(other.value, wrong)
                yield Variant("temperature", f"the temperature is {wrong:g}, not {t:g}; and {other.says}", value)


def _changed(o: DeclaredLoss, property: str, says: str, **fields: object) -> Variant[PerToken]:
    other = o.but(**fields)
    return Variant(property, says, lambda s, t, _: per_token(s, t, other))


def _at_temperature(value: PerToken, temperature: float) -> PerToken:
    return lambda s, t, o: value(s, t, o.but(temperature=temperature))


def _directions(o: DeclaredLoss) -> Iterator[Variant[PerToken]]:
    beta = 0.5 if o.beta is None else o.beta
    skew = 0.1 if o.skew is None else o.skew
    seen = {(o.divergence, o.beta, o.skew)}
    for name, b, k in (
        ("reverse-kl", o.beta, o.skew),
        ("forward-kl", o.beta, o.skew),
        ("jsd", 0.5, o.skew),
        ("jsd", 1 - beta, o.skew),
        ("jsd", beta, o.skew),
        ("jsd", 0.1, o.skew),
        ("jsd", 0.9, o.skew),
        ("skew-kl", o.beta, skew),
        ("skew-kl", o.beta, 1 - skew),
        ("skew-reverse-kl", o.beta, skew),
        ("skew-reverse-kl", o.beta, 1 - skew),
        ("skew-kl", o.beta, 0.1),
        ("symmetric-kl", 0.5, o.skew),
        ("symmetric-kl", 1 - beta, o.skew),
    ):
        if (name, b, k) in seen or (name in ("jsd", "symmetric-kl") and b in (0.0, 1.0)):
            continue
        seen.add((name, b, k))
        with_ = f" with beta {b:g}" if name in ("jsd", "symmetric-kl") else ""
        with_ = f" with skew {k:g}" if name.startswith("skew") else with_
        yield _changed(o, "direction", f"it is {name}{with_}", divergence=name, beta=b, skew=k)
    if o.divergence == "jsd" and 0 < beta < 1:

        def swapped(s: torch.Tensor, t: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
            log_p, log_q = log_pair(s, t, o)
            p, q = log_p.exp(), log_q.exp()
            m = ((1 - beta) * p + beta * q).clamp_min(1e-300).log()
            return (beta * p * (log_p - m) + (1 - beta) * q * (log_q - m)).sum(-1)

        yield Variant("direction", "the weights of teacher and student in the mixture are swapped", swapped)

    if o.divergence in ("skew-kl", "skew-reverse-kl") and skew:

        def mixed(s: torch.Tensor, t: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
            log_p, log_q = log_pair(s, t, o)
            if o.divergence == "skew-kl":
                return entries(log_p, ((1 - skew) * log_p.exp() + skew * log_q.exp()).log(), _forward(o)).sum(-1)
            return entries(log_q, ((1 - skew) * log_q.exp() + skew * log_p.exp()).log(), _forward(o)).sum(-1)

        yield Variant("direction", "the shares of teacher and student in the mixture are swapped", mixed)


def _forward(o: DeclaredLoss) -> DeclaredLoss:
    return o.but(divergence="forward-kl")


def _truncations(o: DeclaredLoss, vocab: int) -> Iterator[Variant[PerToken]]:
    words = {
        "renormalised": "the teacher's top k are renormalised",
        "zero": "the teacher's top k are not renormalised and the rest counts nothing",
        "subset": "both distributions are renormalised over the top k",
        "tail": "the rest is one bucket",
    }
    if o.top_k:
        yield _changed(o, "top-k", "nothing is truncated", top_k=0)
    for k in dict.fromkeys((o.top_k, o.top_k - 1, o.top_k + 1, *range(1, min(vocab, 65)))):
        if not 0 < k < vocab or (not o.top_k and k > 8 and k not in (10, 16, 20, 32, 50, 64)):
            continue
        for rule, says in words.items():
            for whose in ("teacher", "student"):
                if (k, rule, whose) == (o.top_k, o.top_k_rule, o.top_k_of):
                    continue
                by = "" if whose == "teacher" else ", chosen by the student"
                yield _changed(o, "top-k", f"{says} (k = {k}{by})", top_k=k, top_k_rule=rule, top_k_of=whose)
        for shards in (2, 4):
            if vocab % shards == 0 or shards == 2:
                yield Variant(
                    "top-k",
                    f"the top {k} of each of {shards} shards of the vocabulary under the shard's own ids",
                    _sharded(k, shards),
                )
        if o.top_k and k > o.top_k + 1:
            break


def _sharded(k: int, shards: int) -> PerToken:
    def value(s: torch.Tensor, t: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
        plain = o.but(top_k=0)
        log_p, log_q = log_pair(s, t, plain)
        found, ids = zip(
            *((part.topk(min(k, part.shape[-1]), -1)) for part in log_p.tensor_split(shards, -1)), strict=True
        )
        values, places = torch.cat(found, -1), torch.cat(ids, -1)
        if values.shape[-1] > k:
            values, chosen = values.topk(k, -1)
            places = places.gather(-1, chosen)
        p = values.exp()
        if o.top_k_rule in ("renormalised", "subset"):
            p = p / p.sum(-1, keepdim=True)
        kept = log_q.gather(-1, places)
        if o.top_k_rule == "subset":
            kept = kept.log_softmax(-1)
        return (p * (p.log() - kept)).sum(-1)

    return value


def _slip(value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> PerToken:
    """A value of (log p, log q)."""
    return lambda s, t, o: value(*log_pair(s, t, o))


_SLIPS: tuple[tuple[str, PerToken], ...] = (
    (
        "probabilities stand where log-probabilities belong (first argument)",
        _slip(lambda p, q: -(p.exp() * q.exp()).sum(-1)),
    ),
    ("the teacher's log-probabilities are taken for probabilities (log_target)", _slip(lambda p, q: -(p * q).sum(-1))),
    ("the teacher's probabilities are exponentiated (log_target)", _slip(lambda p, q: -(p.exp().exp() * q).sum(-1))),
    ("softmax is applied twice to the student", _slip(lambda p, q: -(p.exp() * q.exp().log_softmax(-1)).sum(-1))),
    ("softmax is applied twice to the teacher", _slip(lambda p, q: -(p.exp().softmax(-1) * q).sum(-1))),
    (
        "the teacher's likeliest token is the target",
        _slip(lambda p, q: -q.gather(-1, p.argmax(-1, keepdim=True)).squeeze(-1)),
    ),
    (
        "the teacher's logits stand where its probabilities belong",
        lambda s, t, o: -(t[..., : s.shape[-1]] / (o.temperature or 1.0) * log_pair(s, t, o)[1]).sum(-1),
    ),
)


def _slips(o: DeclaredLoss) -> Iterator[Variant[PerToken]]:
    for says, value in _SLIPS:
        yield Variant("loss", says, value)
    if o.clip:
        yield _changed(o, "loss", "clipping is left out", clip=0.0, clip_rule="")
    for clip in dict.fromkeys((o.clip, *_CLIPS)):
        for rule, unit in (("entry", "each vocabulary entry"), ("token", "each token's divergence")):
            if clip and (clip, rule) != (o.clip, o.clip_rule):
                yield _changed(o, "loss", f"{unit} is clipped at {clip:g}", clip=clip, clip_rule=rule)
    for low in (1e-6, 1e-4, 1e-3, 1e-2, 0.1):
        yield Variant(
            "loss",
            f"the teacher's probabilities are floored at {low:g}",
            _slip(lambda p, q, low=low: -(p.exp().clamp_min(low) * q).sum(-1)),
        )


def _vocabularies(o: DeclaredLoss) -> Iterator[Variant[PerToken]]:
    def filled(s: torch.Tensor, t: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
        more = t.shape[-1] - s.shape[-1]
        s, t = (torch.nn.functional.pad(s, (0, max(more, 0))), torch.nn.functional.pad(t, (0, max(-more, 0))))
        return per_token(s, t, o)

    def cut_after(s: torch.Tensor, t: torch.Tensor, o: DeclaredLoss) -> torch.Tensor:
        vocab = min(s.shape[-1], t.shape[-1])
        log_p = (t / (o.teacher_temperature or o.temperature or 1)).log_softmax(-1)[..., :vocab]
        log_q = (s / (o.temperature or 1)).log_softmax(-1)[..., :vocab]
        return entries(log_p, log_q, o).sum(-1)

    yield Variant("vocabulary", "missing columns are filled with logit 0", filled)
    yield Variant("vocabulary", "columns are cut after the softmax, so what is left does not sum to 1", cut_after)
    for step in (1, -1):
        yield Variant(
            "vocabulary",
            f"the teacher's columns are moved by {step:+d}",
            lambda s, t, o, step=step: per_token(s, t[..., : s.shape[-1]].roll(step, -1), o),
        )


def hard_shapes(o: DeclaredLoss) -> Iterator[Variant[DeclaredLoss]]:
    """Cross-entropies that are not the declared one."""
    t = o.temperature or 1.0
    if t != o.hard_temperature:
        yield Variant(
            "temperature", f"the cross-entropy to labels is at temperature {t:g} too", o.but(hard_temperature=t)
        )
    if o.hard_temperature != 1:
        yield Variant("temperature", "the cross-entropy to labels is at temperature 1", o.but(hard_temperature=1.0))
    for smoothing in dict.fromkeys((0.0, 0.05, 0.1, 0.2)):
        if smoothing != o.label_smoothing:
            yield Variant(
                "loss",
                f"labels are smoothed by {smoothing:g}, not {o.label_smoothing:g}",
                o.but(label_smoothing=smoothing),
            )


def weightings(
    rows: Rows, o: DeclaredLoss, *, is_hard: bool, per: str, ranks: int = 1
) -> Iterator[Variant[torch.Tensor]]:
    """How positions may be weighted instead, all factors included; the likely ones first."""
    name = "cross-entropy" if is_hard else "divergence"
    declared = weights(rows, o, per=per)[is_hard]
    yield from _temperature_factors(declared, o, is_hard)
    yield from _splits(declared, rows, o, per, ranks, is_hard)
    yield from _reductions(declared, rows, o, per, name, is_hard)
    soft, hard = o.distill_weight or 0.0, o.hard_weight or 0.0
    own, other = (hard, soft) if is_hard else (soft, hard)
    if own and own != 1:
        yield Variant("weights", f"the weight of the {name} is left out", declared / own)
        yield Variant("weights", f"the weight of the {name} counts twice", declared * own)
    if own and other and own != other:
        yield Variant("weights", "the weights of the two terms are swapped", declared / own * other)
    if own and own != 0.5:
        yield Variant("weights", f"the weight of the {name} is 0.5", declared / own / 2)
    yield Variant("loss", f"the {name} has the wrong sign: it is maximised", -declared)
    for factor in (2.0, 0.5):
        yield Variant("weights", f"the {name} counts {factor:g} times", declared * factor)


def _temperature_factors(declared: torch.Tensor, o: DeclaredLoss, is_hard: bool) -> Iterator[Variant[torch.Tensor]]:
    t = o.temperature or 1.0
    if t == 1:
        return
    if is_hard:
        yield Variant("temperature", "the cross-entropy is multiplied by T^2 too", declared * t**2)
        yield Variant("temperature", "the cross-entropy is divided by T^2", declared / t**2)
    elif o.temperature_squared:
        yield Variant("temperature", "the factor T^2 is missing", declared / t**2)
        yield Variant("temperature", "the factor is T, not T^2", declared / t)
        yield Variant("temperature", "the factor T^2 is there twice", declared * t**2)
        yield Variant("temperature", "it is divided by T, not multiplied by T^2", declared / t**3)
    else:
        yield Variant("temperature", "there is a factor T^2", declared * t**2)
        yield Variant("temperature", "there is a factor T", declared * t)


def _splits(
    declared: torch.Tensor, rows: Rows, o: DeclaredLoss, per: str, ranks: int, is_hard: bool
) -> Iterator[Variant[torch.Tensor]]:
    """By micro-batches and ranks."""
    parts = int(rows.part.max()) + 1
    if parts > 1:
        if per == "update":
            mean = weights(rows, o, per="micro-batch")[is_hard]
            yield Variant("accumulation", "the mean of the micro-batches' means", mean)
            yield Variant("accumulation", "the sum of the micro-batches' means", mean * parts)
            square = mean / parts
            yield Variant("accumulation", "the micro-batches' means over the square of their number", square)
        for power, says in (
            (-1, "divided by the number of micro-batches"),
            (1, "multiplied by the number of micro-batches"),
            (-2, "divided by the square of the number of micro-batches"),
        ):
            yield Variant("accumulation", says, declared * float(parts) ** power)
    if ranks > 1:
        yield Variant("distributed", "multiplied by the number of ranks", declared * ranks)
        yield Variant("distributed", "divided by the number of ranks", declared / ranks)


def _reductions(
    declared: torch.Tensor, rows: Rows, o: DeclaredLoss, per: str, name: str, is_hard: bool
) -> Iterator[Variant[torch.Tensor]]:
    field = "hard_reduction" if is_hard else "reduction"
    own = (o.hard_reduction if is_hard else "") or o.reduction or ""

    def by(**fields: object) -> torch.Tensor:
        return weights(rows, o.but(**fields), per=per)[is_hard]

    for other in ("token-mean", "sequence-mean", "row-mean", "sum", "position-mean"):
        if other != own:
            says = f"the {name} is reduced by {other}, not {own}"
            yield Variant("normalisation", says, by(**{field: other}))
    if own in ("sequence-mean", "row-mean"):
        says = "rows without a counted token are treated otherwise than declared"
        for rule in ("skip", "count"):
            yield Variant("normalisation", says, by(empty_rows=rule))
    count, vocab = max(float(rows.counted.sum()), 1.0), rows.student.shape[-1]
    factors = {
        "divided by the number of tokens once more": 1 / count,
        "divided by the number of rows once more": 1 / rows.num_rows,
        "averaged over the vocabulary as well": 1 / vocab,
        "divided by the number of positions, counted or not, once more": 1 / len(declared),
        "divided by all positions that have a next, counted or not": count / max(len(declared) - rows.num_rows, 1),
        "a count of tokens too low by one per row": count / max(count - rows.num_rows, 1),
        "a count of tokens too high by one per row": count / (count + rows.num_rows),
    }
    for says, factor in factors.items():
        yield Variant("normalisation", says, declared * factor)
    says = "averaged over positions and vocabulary"
    yield Variant("normalisation", says, by(**{field: "position-mean"}) / vocab)
    if o.top_k > 1:
        yield Variant("normalisation", "averaged over the kept entries as well", declared / o.top_k)
        if not is_hard and o.top_k_rule in ("renormalised", "zero"):
            log_p, _ = log_pair(rows.student, rows.teacher, o.but(top_k_rule="zero"))
            mass = log_p.exp().sum(-1)
            if o.top_k_rule == "renormalised":
                yield Variant("top-k", "the teacher's top k are not renormalised", declared * mass)
            else:
                yield Variant("top-k", "the teacher's top k are renormalised", declared / mass)
