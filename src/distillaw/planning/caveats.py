"""What a verdict takes for granted, and what to be careful of."""

import math
from collections.abc import Sequence
from dataclasses import replace

from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.bills import effective_tokens, shares_of
from distillaw.planning.decision import disagreement
from distillaw.planning.evidence import Evidence, Strategy, nats
from distillaw.planning.judging import Sources
from distillaw.planning.options import PRUNED_WORTH, Option, option_loss
from distillaw.planning.situation import Situation, Teacher
from distillaw.planning.text_scale import TextScale, deviation
from distillaw.quantities import format_count, format_flop

PAID = {
    "best-case": "a teacher at hand is free, and so are its logits",
    "inference": "a teacher at hand is free; its logits are computed for this student and counted",
    "pretraining": "the teacher is trained for this; its logits are free",
    "pretraining-inference": "the teacher is trained for this and its logits are counted",
}
FEW_TOKENS = 1.0
"""Tokens per parameter below which no published law was ever fitted."""


def assumptions(
    situation: Situation, evidence: Sequence[Evidence], headline: Evidence, sources: Sources
) -> list[str]:
    """Sentences on what the comparison is and how it was counted."""
    found = [
        "The verdict is about held-out loss in nats/token on text like the validation split, not about skill.",
        f"Compared at {situation.comparison.replace('-', ' ')}; {_who_pays(situation)}.",
    ]
    if situation.budget_text:
        found.append(f"The budget is {situation.budget_text}.")
    if situation.max_params is not None:
        found.append(
            f"The largest student that can be served has {format_count(situation.max_params)}: {situation.limit_text}."
        )
    if any(t.teacher is not None and not t.teacher.exists for t in headline.distil):
        found.append(
            "Teachers that do not exist yet must be trained: that is in the bill, shared by "
            f"{situation.students_served} student{'s' * (situation.students_served != 1)}."
        )
    if situation.logits == "stored":
        found.append(f"Logits are computed once, stored, and read by {situation.students_served} students.")
    if situation.inference_tokens:
        found.append(f"Serving {format_count(situation.inference_tokens)} tokens is in every bill.")
    if situation.label:
        found.append(f"The {situation.label} student has {situation.student_params:,.0f} parameters exactly.")
    if headline.kind == "measured":
        found.append(
            "The next runs are like those measured: same text, tokenizer, recipe and tuned learning rate."
        )
    else:
        found.append(
            f"FLOP are counted for a vocabulary of {situation.vocab} and a context of {situation.context} where no run "
            "counted them; parameters exclude embeddings."
        )
    found += _measured_teachers(situation, evidence, headline, sources)
    return found + _repeats(situation, headline) + _estimates(headline)


def _measured_teachers(
    situation: Situation, evidence: Sequence[Evidence], headline: Evidence, sources: Sources
) -> list[str]:
    """What the losses that were given for teachers did: how much was put down to the text, how much to the teacher."""
    laws = [e for e in evidence if e.speaks and e.kind in ("published", "surrogate")]
    lead = next((e for e in laws if e.source in (*headline.deciding, headline.source)), None)
    if lead is None or all(t.loss is None for t in situation.teachers):
        return []
    scale = TextScale.of(lead)
    if scale.is_guess:
        return [
            "Nothing says how your text compares with that of the laws: it is taken to be as hard, with more doubt. "
            "The name of a teacher, or its size and tokens beside its loss, would say."
        ]
    ensemble = next(v.ensemble for v in sources.voices if v.source == lead.source)
    whole = [
        t for t in situation.teachers if t.loss is not None and t.params is not None and t.tokens is not None
    ]
    if not scale.sd or ensemble is None:
        return []
    text = math.log(scale.ratio)
    found = []
    for teacher in whole:
        d = deviation(ensemble, situation, teacher)
        found.append(
            f"{teacher.called[0].upper()}{teacher.called[1:]}: a loss of {nats(teacher.loss or 0.0)} is "
            f"{_per_cent(d, 'above', 'below')} what {lead.source} make of its size and tokens; "
            f"{_per_cent(text, 'harder', 'easier')} is put down to your text (give or take {100 * scale.sd:.0f} %), "
            f"and the teacher is judged as {_per_cent(d - text, 'worse', 'better')} than they make of it."
        )
    if not found:
        return []
    apart = "The student's own loss on your text would tell text and teacher apart."
    return [*found, apart, *_which_way(situation, headline, ensemble, scale)]


def _which_way(
    situation: Situation, headline: Evidence, ensemble: LawEnsemble, scale: TextScale
) -> list[str]:
    """Whether a lower loss of the best teacher would be for the better: beyond the capacity gap it is not."""
    row = headline.best
    teacher = None if row.teacher is None else scale.teacher_on_law_text(row.teacher)
    if teacher is None or teacher.loss is None:
        return []
    option = Option(kind="distil", student_params=row.student_params, student_tokens=row.student_tokens)
    option = Option(kind="distil", student_params=row.student_params, student_tokens=row.student_tokens)
    stronger, weaker = (
        float(
            option_loss(
                ensemble, situation, replace(option, teacher=replace(teacher, loss=f * teacher.loss))
            ).loss.mean()
        )
        for f in (0.99, 1.01)
    )
    if stronger < weaker:
        return [f"By these laws a stronger teacher than {teacher.called} would serve this student better."]
    return [
        f"By these laws a weaker teacher than {teacher.called} would serve this student better (distillaw gap)."
    ]


def _per_cent(log: float, above: str, below: str) -> str:
    """`3.2 % harder`: what it is above or below is the whole, so nothing is more than 100 % below."""
    return f"{100 * abs(math.expm1(log)):.1f} % {above if log > 0 else below}"


def _who_pays(situation: Situation) -> str:
    if situation.shares is not None:
        return f"shares of logits {situation.shares.delta_lgt:g} and of teacher training {situation.shares.delta_pre:g}"
    return f"cost scenario {situation.scenario}: {PAID[situation.scenario]}"


def _repeats(situation: Situation, headline: Evidence) -> list[str]:
    assert headline.pretrain is not None
    tokens = max(row.student_tokens for row in (headline.pretrain, *headline.alternatives))
    if situation.unique_tokens is None or tokens <= situation.unique_tokens:
        return []
    worth = float(effective_tokens(situation, tokens))
    return [
        f"{format_count(tokens)} tokens are {tokens / situation.unique_tokens:.3g} passes over "
        f"{format_count(situation.unique_tokens)} unique ones and count as {format_count(worth)} (Muennighoff et al. "
        "2023, supervised runs; taken to hold for distilled ones too, which nobody has measured)."
    ]


def _estimates(headline: Evidence) -> list[str]:
    """What the strategies that no law describes rest on."""
    kinds = {row.kind for row in headline.alternatives}
    found = []
    if "distil-then-pretrain" in kinds:
        found.append(
            "Distil then pretrain is an estimate: the student is taken to stand where pretraining reaches the same "
            "loss, and to go on from there. It never carries the verdict."
        )
    if "prune-and-distil" in kinds:
        found.append(
            f"A pruned start is taken to be worth 1 to {PRUNED_WORTH:g} times the tokens (reports on skill, not on "
            "loss). It never carries the verdict; a pilot of both starts would say."
        )
    return found


def caveats(
    situation: Situation, evidence: Sequence[Evidence], headline: Evidence, sources: Sources
) -> list[str]:
    """Warnings, the gravest first."""
    found = [*_unbelieved(evidence, headline, sources), *headline.warnings]
    if (conflict := disagreement(evidence, sources.level)) is not None:
        found.insert(0, conflict)
    assert headline.pretrain is not None
    for row in (headline.pretrain, *(r for r in headline.alternatives if not r.is_speculative)):
        found += _odd(row, situation, headline)
    found += _left_out(situation, headline)
    if situation.student_params is None and situation.compute is not None:
        found.append(
            "a law chose the student's size, and such a size is good partly by luck: the probability of distilling is "
            "too high then, and 20 tokens per parameter without a teacher did as well (docs/verdict.md). Fix --student"
        )
    silent = [e for e in evidence if e.source != headline.source and not e.speaks and e.kind == "fitted"]
    found += [
        f"{e.source}: {e.status}: {e.note}" for e in silent if e.status not in ("NOT_FITTED", "TEACHER_SIZE")
    ]
    return list(dict.fromkeys(found))


def _left_out(situation: Situation, headline: Evidence) -> list[str]:
    """Teachers that were named and are in no strategy: nobody should think that they were judged."""
    judged = {row.teacher.name for row in headline.distil if row.teacher is not None}
    found = []
    for teacher in situation.teachers:
        if teacher.name not in judged:
            found.append(f"left out: {teacher.called}: {_why_left_out(situation, teacher)}")
    return found


def _why_left_out(situation: Situation, teacher: Teacher) -> str:
    if situation.compute is None:
        if shares_of(situation, teacher).delta_pre > 0:
            return (
                "it must be trained, and beside a teacher at hand that is a question of FLOP: give --compute"
            )
        return "nothing that may decide knows its loss"
    if teacher.params is None:
        return "without its size its logits cannot be priced, and the budget is a bill: give --teacher-params"
    if teacher.tokens is None and shares_of(situation, teacher).delta_pre > 0:
        return "without its tokens its training cannot be priced, and the budget is a bill: give --teacher-tokens"
    return (
        "its bill leaves nothing for the student (who pays for its training? --scenario, --students-served)"
    )


def _unbelieved(evidence: Sequence[Evidence], headline: Evidence, sources: Sources) -> list[str]:
    """Laws that were asked for and may not decide, and headlines that may not."""
    asked = [
        e for e in evidence if e.source in sources.asked and not e.is_decisive and e.status != "TEACHER_SIZE"
    ]
    found = [
        f"{e.source} was asked for and may not carry a plan ({e.status}: {e.note})"
        for e in asked
        if e.source != headline.source
    ]
    if headline.is_decisive:
        return found
    if headline.status == "REFUSED":
        return [
            f"REFUSED as a basis: {headline.source} may not carry a plan; the verdict is left open.",
            *found,
        ]
    return [f"Nothing in range speaks for this student; {headline.source} is shown, not believed.", *found]


def _odd(row: Strategy, situation: Situation, headline: Evidence) -> list[str]:
    """A teacher that cannot help, and a student that hardly trains."""
    assert headline.pretrain is not None
    found = []
    per_param = row.student_tokens / row.student_params
    if headline.kind != "measured" and per_param < FEW_TOKENS:
        found.append(f"{row.name}: {per_param:.2g} tokens per parameter; no published law was fitted below 1")
    if row.teacher is None or headline.kind == "measured":
        return found
    own = headline.pretrain.loss.mean
    if row.teacher_loss is not None and row.teacher_loss >= own:
        found.append(
            f"{row.teacher.called} (loss {row.teacher_loss:.3f}) is no better than the student by itself "
            f"({own:.3f}): expect it to hold the student back"
        )
    if row.teacher.loss is None and row.teacher.exists:
        found.append(
            f"the loss of {row.teacher.called} ({row.teacher_loss:.3f}) is what the law makes of its size and "
            "tokens alone: measure it on yours, distillaw scout"
        )
    size = row.teacher.params
    if size and size < row.student_params / 1.25:
        found.append(
            f"{row.name}: a teacher smaller than the student; no law here can describe a student that beats its teacher"
        )
    total = row.compute.get("total")
    if situation.compute is not None and total is not None and total > 1.01 * situation.compute:
        found.append(f"{row.name} costs {format_flop(total)}, more than the budget")
    return found
