"""From evidence to a verdict: which source may speak, how sure it is, and when the answer is "too close".

    gain    = loss of pretraining - loss of the best distillation, nats/token, as draws
    margin  = max(0.25 % of the loss, standard error of the paired gain)
    distil if P(gain > margin) >= 0.8, pretrain if P(-gain > margin) >= 0.8, else too close to call
    P by published laws alone: 0.9 of what their draws say, and one in twenty either way

The 0.25 % is about what half or twice the teacher costs (docs/gap.md) and about the seed noise of a
small run; a gain below it is not worth a pipeline. The words around the numbers are in wording.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distillaw.planning.evidence import SOURCES, Evidence, Interval, Strategy, with_gains
from distillaw.planning.gains import GainPosterior, pooled_draws
from distillaw.planning.phrases import say

MARGIN = 0.0025
"""Smallest gain worth having, as a share of the loss."""
PUBLISHED_WEIGHT = 0.3
"""Weight of a published law beside the user's own runs or fits. As a full witness, on the user's scale, it made them
better in simulated worlds but a little too sure (benchmarks/verdict/run.py)."""
PUBLISHED = ("surrogate", "published")
"""Kinds of evidence that are laws of other people's runs."""
SURPRISE = 0.1
"""Share of questions whose outcome published laws say nothing of: untuned rates and weights, other text, a teacher that
knows it or does not. There it is as likely one way as the other, so that these laws alone never say more than 95 %. Of
the outcomes that taught, leaving each one's source out, 0.1 to 0.15 had the best score (docs/retrodiction.md)."""
SURE = 0.8
"""Probability from which a choice is called: at worst one call in five is wrong."""


@dataclass(frozen=True, slots=True)
class VerdictWords:
    """How one answer is said."""

    title: str
    then: str
    """After `then`: what a changed question is answered."""
    at_equal_flop: str
    still: str
    """The same where it stands beside another answer."""


WORDS = {
    "distil": VerdictWords("DISTIL", "distil", "distilling is better", "distilling is still better"),
    "pretrain": VerdictWords("PRETRAIN", "pretrain", "pretraining is better", "pretraining is better"),
    "too-close": VerdictWords("TOO CLOSE TO CALL", "too close to call", "it is too close to call", "it is too close"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one source's draws say: the choice, its probability, the margin."""

    verdict: str
    """`distil`, `pretrain` or `too-close`."""
    probability: float
    """That the gain over the other choice exceeds the margin, for the leading choice."""
    distil: float
    """P(gain > margin)."""
    pretrain: float
    """P(-gain > margin)."""
    margin: float
    """Nats/token."""

    def to_json(self) -> dict[str, object]:
        """All five."""
        return {
            "verdict": self.verdict,
            "probability": self.probability,
            "probability_distil": self.distil,
            "probability_pretrain": self.pretrain,
            "margin": self.margin,
        }


def call(evidence: Evidence) -> Call:
    """Turn the draws of one source into a choice.

    A source that may not decide knows nothing: too close, with probability one half either way. The margin
    uses the noise of paired runs only: a law's discrepancy is in its draws already.
    """
    assert evidence.pretrain is not None
    gain = evidence.gain_draws
    margin = max(MARGIN * evidence.pretrain.loss.mean, evidence.noise if evidence.kind == "measured" else 0.0)
    # (k + 1/2) / (R + 1): a finite number of draws never proves certainty.
    distil = (np.count_nonzero(gain > margin) + 0.5) / (len(gain) + 1)
    pretrain = (np.count_nonzero(gain < -margin) + 0.5) / (len(gain) + 1)
    if not evidence.is_decisive:
        return Call(verdict="too-close", probability=0.5, distil=0.5, pretrain=0.5, margin=margin)
    if evidence.kind in PUBLISHED:
        distil, pretrain = (tempered(p) for p in (distil, pretrain))
    lead = max(distil, pretrain)
    verdict = "too-close"
    if lead >= SURE:
        verdict = "distil" if distil > pretrain else "pretrain"
    return Call(verdict=verdict, probability=lead, distil=distil, pretrain=pretrain, margin=margin)


def tempered(probability: float) -> float:
    """A probability by published laws alone, with what they say nothing of."""
    return (1 - SURPRISE) * probability + SURPRISE / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCall:
    """Whether a cut is the better start, where the verdict is on random ones."""

    row: Strategy
    """The best strategy that begins as a cut."""
    other: Strategy
    """The best one that begins from random weights."""
    gain: Interval
    """Of the first over the second, nats/token."""
    pruned: float
    """P(gain > margin)."""
    random: float
    """P(-gain > margin)."""

    @property
    def better(self) -> str:
        """`pruned`, `random` or `too-close`, called as verdicts are."""
        lead = max(self.pruned, self.random)
        return "too-close" if lead < SURE else "pruned" if self.pruned > self.random else "random"

    def to_json(self) -> dict[str, object]:
        """The call, its probabilities and what is compared."""
        return {
            "better": self.better,
            "probability_pruned": self.pruned,
            "probability_random": self.random,
            "gain": self.gain.to_json(),
            "strategy": self.row.name,
            "against": self.other.name,
        }


def better_start(evidence: Evidence, answer: Call, level: float) -> StartCall | None:
    """The call between the best cut and the best random start; None where no cut is judged."""
    if not evidence.judges_starts:
        return None
    assert evidence.posterior is not None and evidence.pretrain is not None
    draws, rows = evidence.posterior.draws, evidence.alternatives
    cuts = [j for j, row in enumerate(rows) if row.cut_of is not None and row.is_speculative]
    if not cuts:
        return None
    cut = max(cuts, key=lambda j: draws[:, j].mean())
    own = [(evidence.pretrain, np.zeros(len(draws)))]
    own += [(row, draws[:, j]) for j, row in enumerate(rows) if not row.is_speculative]
    other, over = max(own, key=lambda one: one[1].mean())
    gain = draws[:, cut] - over
    pruned, random = ((np.count_nonzero(s * gain > answer.margin) + 0.5) / (len(gain) + 1) for s in (1, -1))
    if evidence.kind in PUBLISHED:
        pruned, random = tempered(pruned), tempered(random)
    return StartCall(
        row=rows[cut], other=other, gain=Interval.of(gain, level), pruned=float(pruned), random=float(random)
    )


def regret(evidence: Evidence, answer: Call, level: float) -> Interval:
    """What is lost, nats/token, if the choice turns out wrong: draws in which the other one is better.

    Too close to call means the strategy that leads. No wrong draw, no regret: zeros.
    """
    gain = evidence.gain_draws
    distils = leads_distilling(evidence, answer) if answer.verdict == "too-close" else answer.verdict == "distil"
    lost = -gain if distils else gain
    lost = lost[lost > 0]
    return Interval.of(lost, level) if len(lost) else Interval(mean=0.0, lower=0.0, upper=0.0)


def leads_distilling(evidence: Evidence, answer: Call) -> bool:
    """What to do if one must choose: a teacher that should gain what matters; else the cheaper way, without one."""
    return bool(evidence.gain_draws.mean() > answer.margin)


def choose(evidence: Sequence[Evidence], *, level: float) -> Evidence:
    """What carries the verdict: the witnesses that may decide, put together; else the first that has numbers."""
    deciding = witnesses(evidence)
    if not deciding:
        return next(e for e in evidence if e.speaks)
    return deciding[0] if len(deciding) == 1 else agree(deciding, level=level)


def witnesses(evidence: Sequence[Evidence]) -> list[Evidence]:
    """At most one deciding source of each kind, in order of trust.

    Fits of one study share its runs, and published laws share their form and its discrepancy: two of a kind are not
    independent, and multiplying them would be too sure.
    """
    found: dict[str, Evidence] = {}
    for one in evidence:
        if one.speaks and one.is_decisive:
            found.setdefault("published" if one.kind == "surrogate" else one.kind, one)
    return list(found.values())


def agree(sources: Sequence[Evidence], *, level: float) -> Evidence:
    """Several sources as one: gains multiplied as densities, all else from the first, which is trusted most.

    Laws do not talk over what was measured: a gain between two cells that were run is the difference of their runs.
    """
    lead = sources[0]
    assert lead.pretrain is not None and lead.posterior is not None
    by_source = [{(row.name, row.teacher): j for j, row in enumerate(e.alternatives)} for e in sources]
    keys = list(dict.fromkeys(key for rows in by_source for key in rows))
    columns, rows, heard, count = [], [], {lead.source}, len(lead.posterior.draws)
    for key in keys:
        those = [(e, at[key]) for e, at in zip(sources, by_source, strict=True) if key in at]
        first, j = those[0]
        assert first.posterior is not None
        row, draws = first.alternatives[j], first.posterior.draws[:, j]
        if len(those) > 1 and not first.was_run(row):
            weights = [PUBLISHED_WEIGHT if e.kind in PUBLISHED else 1.0 for e, _ in those]
            draws = pooled_draws([e.beliefs[k] for e, k in those], draws, weights)
        if not (row.is_speculative or first.was_run(row)):
            heard |= {e.source for e, _ in those}
        columns.append(np.resize(draws, count))
        rows.append(row)
    draws = np.column_stack(columns)
    posterior = GainPosterior(draws=draws, estimate=draws.mean(0), se=draws.std(0))
    found = tuple(
        replace(old, share_best=new.share_best) if lead.was_run(old) else _moved(new, lead.pretrain)
        for old, new in zip(rows, with_gains(rows, draws, level), strict=True)
    )
    names = [e.source for e in sources if e.source in heard]
    kind = "measured" if lead.kind == "measured" else "consensus"
    together = replace(
        lead,
        source=lead.source if len(names) == 1 else say("consensus", sources=" and ".join(names)),
        kind=kind,
        note=lead.note if len(names) == 1 else say("first", source=lead.source, note=lead.note),
        alternatives=found,
        posterior=posterior,
        beliefs=(),
        warnings=tuple(dict.fromkeys(w for e in sources for w in e.warnings)),
        details={**lead.details, SOURCES: names},
    )
    best = keys[together.best_index]  # the lead may not know it: then the range is that of the first who does
    owner = next(e for e, at in zip(sources, by_source, strict=True) if best in at)
    return replace(together, inside_range=owner.inside_range)


def _moved(row: Strategy, pretrain: Strategy) -> Strategy:
    """A row with its loss shifted to fit the gain agreed on."""
    assert row.gain is not None
    shift = pretrain.loss.mean - row.gain.mean - row.loss.mean
    loss = Interval(mean=row.loss.mean + shift, lower=row.loss.lower + shift, upper=row.loss.upper + shift)
    return replace(row, loss=loss)


def disagreement(evidence: Sequence[Evidence], level: float) -> str | None:
    """A sentence where two sources that may decide put the gain into intervals that do not meet."""
    bands = [(e.source, Interval.of(e.gain_draws, level)) for e in evidence if e.speaks and e.is_decisive]
    for i, (one, a) in enumerate(bands):
        for other, b in bands[i + 1 :]:
            if max(a.lower, b.lower) > min(a.upper, b.upper):
                ends = [say("ends", lower=band.lower, upper=band.upper) for band in (a, b)]
                return say("disagree", one=one, other=other, a=ends[0], b=ends[1])
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualCompute:
    """The same question at equal FLOP: pretraining may spend what the teacher's logits would have cost."""

    compute: float
    """FLOP of the distillation chosen, as the scenario counts it."""
    pretrain_tokens: float
    """Tokens that pretraining gets for it."""
    basis: str
    """The source, or why there is none."""
    call: Call | None
    gain: Interval | None

    def to_json(self) -> dict[str, object]:
        """Flat; verdict and probability are null where no source can say."""
        answer: dict[str, object] = dict.fromkeys(("verdict", "probability", "margin", "gain"))
        if self.call is not None and self.gain is not None:
            answer = {**self.call.to_json(), "gain": self.gain.to_json()}
        return {"compute": self.compute, "pretrain_tokens": self.pretrain_tokens, "basis": self.basis, **answer}


@dataclass(frozen=True, slots=True, kw_only=True)
class Supposed:
    """What distilling would be worth, at equal tokens, from a teacher that is not at hand; it carries no verdict."""

    row: Strategy
    """The best distillation, were its teacher there."""
    call: Call
    gain: Interval

    def to_json(self) -> dict[str, object]:
        """The teacher, the call and the gain."""
        teacher = self.row.teacher
        assert teacher is not None
        sizes = {
            "teacher_params": teacher.params,
            "teacher_tokens": teacher.tokens,
            "teacher_loss": self.row.teacher_loss,
        }
        return {"teacher": teacher.name, **sizes, **self.call.to_json(), "gain": self.gain.to_json()}
