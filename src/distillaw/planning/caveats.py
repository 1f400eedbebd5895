"""What a verdict takes for granted, and what to be careful of."""

import math
from collections.abc import Sequence
from dataclasses import replace

from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.bills import effective_tokens, shares_of
from distillaw.planning.decision import disagreement
from distillaw.planning.evidence import Evidence, Strategy
from distillaw.planning.judging import Sources
from distillaw.planning.law_evidence import BEYOND, KEPT, repeated
from distillaw.planning.learnt import SEEN_BELOW
from distillaw.planning.options import Option, option_loss
from distillaw.planning.phrases import say
from distillaw.planning.situation import Situation, Teacher, begins_from, log_head_start
from distillaw.planning.text_scale import TextScale, deviation

PAID = {
    "best-case": "a teacher at hand is free, and so are its logits",
    "inference": "a teacher at hand is free; its logits are computed for this student and counted",
    "pretraining": "the teacher is trained for this; its logits are free",
    "pretraining-inference": "the teacher is trained for this and its logits are counted",
}
FEW_TOKENS = 1.0
"""Tokens per parameter below which no published law was ever fitted."""


def assumptions(situation: Situation, evidence: Sequence[Evidence], headline: Evidence, sources: Sources) -> list[str]:
    """Sentences on what the comparison is and how it was counted."""
    served = situation.students_served
    comparison = situation.comparison.replace("-", " ")
    paid = say("pays", scenario=situation.scenario, words=PAID[situation.scenario])
    if (shares := situation.shares) is not None:
        paid = f"shares of logits {shares.delta_lgt:g} and of teacher training {shares.delta_pre:g}"
    found = [say("about loss"), say("compared at", comparison=comparison, paid=paid)]
    if situation.budget_text:
        found.append(say("budget is", budget=situation.budget_text))
    if situation.max_params is not None:
        found.append(say("largest student", params=situation.max_params, why=situation.limit_text))
    if any(t.teacher is not None and not t.teacher.exists for t in headline.distil):
        found.append(say("must be trained", count=served))
    if situation.logits == "stored":
        found.append(say("stored", count=served))
    if situation.inference_tokens:
        found.append(say("serving", tokens=situation.inference_tokens))
    if situation.label:
        found.append(f"The {situation.label} student has {situation.student_params:,.0f} parameters exactly.")
    if headline.kind == "measured":
        found.append("The next runs are like those measured: same text, tokenizer, recipe and tuned learning rate.")
    else:
        found.append(say("FLOP counted", vocab=situation.vocab, context=situation.context))
    found += _measured_teachers(situation, evidence, headline, sources)
    found += _published_gains(situation, headline, sources)
    return found + _repeats(situation, headline) + _estimates(situation, headline)


def _published_gains(situation: Situation, headline: Evidence, sources: Sources) -> list[str]:
    """What outcomes and the recipe leave of a gain by published laws, where those speak."""
    laws = [v for v in sources.voices if v.learnt is not None and v.source in headline.deciding]
    if not laws or laws[0].learnt is None:
        return [] if situation.recipe.is_usual else [say("recipe own")]
    found, learnt = situation.recipe.lines(laws[0].learnt, situation.vocab, situation.start), laws[0].learnt
    if not headline.details.get(BEYOND) and headline.number(KEPT, 1.0) != 1:
        found.insert(0, say("counted", share=100 * headline.number(KEPT), sd=100 * learnt.per_gain))
    if often := repeated(situation, headline.best.student_tokens):
        found.append(say("repeated gain", share=100 * often * learnt.repeated, sd=100 * learnt.repeats_sd(often)))
    if situation.comparison == "equal-compute" and not headline.details.get(BEYOND):
        found.append(say("compute gain", share=100 * situation.recipe.weight * learnt.compute))
    if situation.start == "pruned":
        found.append(say("begun gain", share=100 * learnt.begun))
    return found


def _measured_teachers(
    situation: Situation, evidence: Sequence[Evidence], headline: Evidence, sources: Sources
) -> list[str]:
    """What the losses that were given for teachers did: how much was put down to the text, how much to the teacher."""
    laws = [e for e in evidence if e.speaks and e.kind in ("published", "surrogate")]
    lead = next((e for e in laws if e.source in (*headline.deciding, headline.source)), None)
    if lead is None or not (situation.baselines or any(t.loss is not None for t in situation.teachers)):
        return []
    scale = TextScale.of(lead)
    if scale.is_guess:
        return [say("text unknown")]
    ensemble = next(v.ensemble for v in sources.voices if v.source == lead.source)
    if scale.by_baseline and ensemble is not None:
        return _by_baseline(situation, headline, lead, ensemble, scale)
    whole = [t for t in situation.teachers if t.loss is not None and t.params is not None and t.tokens is not None]
    if not scale.sd or ensemble is None:
        return []
    text = math.log(scale.ratio)
    found = []
    for teacher in whole:
        d = deviation(ensemble, situation, teacher)
        found.append(
            say(
                "text and teacher",
                teacher=teacher.called,
                loss=teacher.loss,
                off=_per_cent(d, "above", "below"),
                source=lead.source,
                text=_per_cent(text, "harder", "easier"),
                sd=100 * scale.sd,
                judged=_per_cent(d - text, "worse", "better"),
            )
        )
    if not found:
        return []
    return [*found, say("tell apart"), *_which_way(situation, headline, ensemble, scale)]


def _by_baseline(
    situation: Situation, headline: Evidence, lead: Evidence, ensemble: LawEnsemble, scale: TextScale
) -> list[str]:
    """What the user's own baselines did: the scale of the text, the ratios of the teachers, the share that is kept."""
    alone = lead.pretrain
    assert alone is not None
    sd = 100 * scale.sd
    found = [say("by baseline", source=lead.source, off=_per_cent(math.log(scale.ratio), "above", "below"), sd=sd)]
    for teacher in situation.teachers:
        if teacher.loss is not None:
            slots = {"teacher": teacher.called, "ratio": teacher.loss / alone.loss.mean}
            found.append(say("at your ratio", **slots))
    if beyond := lead.number(BEYOND):
        low, high = SEEN_BELOW.seen.as_dict()["student_params"]
        share, sd, least = (100 * x for x in (SEEN_BELOW.mean(beyond), SEEN_BELOW.sd(beyond), SEEN_BELOW.share))
        found.append(say("realised", share=share, sd=sd, least=least, low=low, high=high))
    return found + _which_way(situation, headline, ensemble, scale)


def _which_way(situation: Situation, headline: Evidence, ensemble: LawEnsemble, scale: TextScale) -> list[str]:
    """Whether a lower loss of the best teacher would be for the better: beyond the capacity gap it is not."""
    row = headline.best
    teacher = None if row.teacher is None else scale.teacher_on_law_text(row.teacher)
    if teacher is None or teacher.loss is None:
        return []
    option = Option(kind="distil", student_params=row.student_params, student_tokens=row.student_tokens)
    stronger, weaker = (
        float(
            option_loss(
                ensemble, situation, replace(option, teacher=replace(teacher, loss=f * teacher.loss))
            ).loss.mean()
        )
        for f in (0.99, 1.01)
    )
    return [say("stronger" if stronger < weaker else "weaker", teacher=teacher.called)]


def _per_cent(log: float, above: str, below: str) -> str:
    """`3.2 % harder`: what it is above or below is the whole, so nothing is more than 100 % below."""
    return say(above if log > 0 else below, share=100 * abs(math.expm1(log)))


def _repeats(situation: Situation, headline: Evidence) -> list[str]:
    assert headline.pretrain is not None
    tokens = max(row.student_tokens for row in (headline.pretrain, *headline.alternatives))
    if situation.unique_tokens is None or tokens <= situation.unique_tokens:
        return []
    worth, unique = float(effective_tokens(situation, tokens)), situation.unique_tokens
    return [say("repeats", tokens=tokens, passes=tokens / unique, unique=unique, worth=worth)]


def _estimates(situation: Situation, headline: Evidence) -> list[str]:
    """What a hand-over and a cut rest on."""
    rows = [row for row in (headline.pretrain, *headline.alternatives) if row is not None]
    found = [say(f"estimate {row.kind}") for row in rows if row.kind == "distil-then-pretrain"]
    cut = next((row for row in rows if row.kind == "prune-and-pretrain"), None)
    if cut is None or cut.cut_of is None or cut.cut_of.params is None:
        return found
    asked = begins_from(situation, cut.cut_of, cut.student_params)
    (alone, sd), (taught, _) = (log_head_start(asked, cut.cut_of, taught=taught) for taught in (False, True))
    said = {"source": cut.cut_of.called, "alone": math.exp(alone), "taught": math.exp(taught), "factor": math.exp(sd)}
    kept = 100 * cut.student_params / cut.cut_of.params
    return [*found, say("cuts beside" if cut.is_speculative else "begins as a cut", kept=kept, **said)]


def caveats(situation: Situation, evidence: Sequence[Evidence], headline: Evidence, sources: Sources) -> list[str]:
    """Warnings, the gravest first."""
    found = [*_unbelieved(evidence, headline, sources), *headline.warnings]
    if (conflict := disagreement(evidence, sources.level)) is not None:
        found.insert(0, conflict)
    assert headline.pretrain is not None
    for row in (headline.pretrain, *(r for r in headline.alternatives if not r.is_speculative)):
        found += _odd(row, situation, headline)
    found += _left_out(situation, headline) + _in_nats(evidence)
    if situation.student_params is None and situation.compute is not None:
        found.append(say("chosen size"))
    silent = [e for e in evidence if e.source != headline.source and not e.speaks and e.kind == "fitted"]
    said = [e for e in silent if e.status not in ("NOT_FITTED", "TEACHER_SIZE")]
    found += [say("silent", source=e.source, status=e.status, note=e.note) for e in said]
    return list(dict.fromkeys(found))


IN_NATS = 0.5
"""Share of a law's losses below which the user's are asked about. Of four bytes a token, bits per byte are
1 / (4 ln 2), 0.36, of nats per token; half is far from that and from one: judged, it asks and changes nothing."""


def _in_nats(evidence: Sequence[Evidence]) -> list[str]:
    """Whether the user's own losses may be in another unit."""
    scales = [(e.source, TextScale.of(e)) for e in evidence if e.kind != "measured" and e.speaks]
    return [
        say("in nats", off=_per_cent(math.log(scale.ratio), "above", "below"), source=source)
        for source, scale in scales[:1]
        if scale.by_baseline and scale.ratio < IN_NATS
    ]


def _left_out(situation: Situation, headline: Evidence) -> list[str]:
    """Teachers that were named and are in no strategy: nobody should think that they were judged."""
    judged = {row.teacher.name for row in headline.distil if row.teacher is not None}
    left = [t for t in situation.teachers if t.name not in judged]
    return [say("left out", teacher=t.called, why=say(_why_left_out(situation, t))) for t in left]


def _why_left_out(situation: Situation, teacher: Teacher) -> str:
    """The phrase that says it."""
    is_trained_here = shares_of(situation, teacher).delta_pre > 0
    if situation.compute is None:
        return "must train beside" if is_trained_here else "loss unknown"
    if teacher.params is None:
        return "size unknown"
    return "tokens unknown" if teacher.tokens is None and is_trained_here else "bill too high"


def _unbelieved(evidence: Sequence[Evidence], headline: Evidence, sources: Sources) -> list[str]:
    """Laws that were asked for and may not decide, and headlines that may not."""
    asked = [e for e in evidence if e.source in sources.asked and not e.is_decisive and e.status != "TEACHER_SIZE"]
    found = [
        say("asked for", source=e.source, status=e.status, note=e.note) for e in asked if e.source != headline.source
    ]
    if headline.is_decisive:
        return found
    shown = "refused" if headline.status == "REFUSED" else "not believed"
    return [say(shown, source=headline.source), *found]


def _odd(row: Strategy, situation: Situation, headline: Evidence) -> list[str]:
    """A teacher that cannot help, and a student that hardly trains."""
    assert headline.pretrain is not None
    found = []
    ratio = row.student_tokens / row.student_params
    if headline.kind != "measured" and ratio < FEW_TOKENS:
        found.append(say("few tokens", option=row.name, ratio=ratio))
    if row.teacher is None or headline.kind == "measured":
        return found
    own, loss, teacher = headline.pretrain.loss.mean, row.teacher_loss, row.teacher
    if loss is not None and loss >= own:
        found.append(say("no better", teacher=teacher.called, loss=loss, own=own))
    if teacher.loss is None and teacher.exists:
        found.append(say("loss of the law", teacher=teacher.called, loss=loss))
    if teacher.params and teacher.params < row.student_params / 1.25:
        found.append(say("smaller teacher", option=row.name))
    total = row.compute.get("total")
    if situation.compute is not None and total is not None and total > 1.01 * situation.compute:
        found.append(say("over budget", option=row.name, total=total))
    return found
