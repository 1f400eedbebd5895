"""Equations with the numbers put in: the way to a verdict (`plan --explain`), why a stronger teacher can hurt (`gap`).

    L_S = L_T + F,    F = L_T^(-c0) exp( -h(r) ) T(N_S, D_S),    r = L_T / Ltilde_S

    dL_S / dL_T = 1 - (F / L_T) ( c0 + h'(r) ),    h'(r) = dh / d ln r = u / ( f1 (1 + eps u) ),   u = kappa r^(1/f1)

The 1 is what a better teacher gives: a lower target. F is what the student lacks of its teacher, and grows as the
teacher improves. Where the second term passes 1, the student loses more than the target gives. The equation is
Eq. 8 of arXiv 2502.08606v2, re-parameterised (`laws/ensemble.py`); that the gap is one of learning capacity is its
reading too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distillaw.laws.base import Array, log_positive
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.bills import shares_of, student_tokens_worth
from distillaw.planning.decision import MARGIN, SURE
from distillaw.planning.evidence import Strategy
from distillaw.planning.gains import LAW_DOF
from distillaw.planning.law_evidence import KEPT
from distillaw.planning.options import teacher_losses
from distillaw.planning.phrases import say
from distillaw.planning.situation import Teacher, forward_flop
from distillaw.planning.teacher_curve import teacher_loss_curve
from distillaw.planning.text_scale import TextScale
from distillaw.planning.verdict import Verdict
from distillaw.planning.voices import Voice
from distillaw.quantities import format_count


def explanation(verdict: Verdict) -> list[str]:
    """One step a line: cost, supervised loss, teacher, distilled loss, gain, discrepancy, margin, call."""
    lines = _costs(verdict)
    row = verdict.headline.best
    deciding = [v for v in verdict.sources.voices if v.source in verdict.headline.deciding and v.ensemble is not None]
    evidence = {e.source: e for e in verdict.evidence}
    for voice in deciding:
        lines += _law(verdict, voice, row, TextScale.of(evidence[voice.source]))
        if (kept := evidence[voice.source].number(KEPT, 1.0)) != 1:
            lines.append(say("step realised", share=100 * kept))
    if verdict.headline.kind == "measured":
        lines += _runs(verdict)
    return lines + _decision(verdict)


def _costs(verdict: Verdict) -> list[str]:
    situation, row = verdict.situation, verdict.headline.best
    assert verdict.headline.pretrain is not None and row.teacher is not None
    own, N = verdict.headline.pretrain, row.student_params
    student = forward_flop(situation, N)
    lines = [say("step FLOP", params=N, student=student, training=3 * student)]
    if row.teacher.params is None:
        return [*lines, say("step unpriced", teacher=row.teacher.called)]
    teacher, shares = forward_flop(situation, row.teacher.params), shares_of(situation, row.teacher)
    lines.append(say("step bill", logits=shares.delta_lgt, training=shares.delta_pre, teacher=teacher))
    if situation.compute is not None:
        tokens = {"own": own.student_tokens, "taught": row.student_tokens}
        lines.append(say("step tokens", compute=situation.compute, **tokens))
    return lines


def _law(verdict: Verdict, voice: Voice, row: Strategy, scale: TextScale) -> list[str]:
    """Both losses under the middle of one voice, with its coefficients."""
    situation, own = verdict.situation, verdict.headline.pretrain
    assert voice.ensemble is not None and own is not None and row.teacher is not None
    ensemble = voice.ensemble
    p, s = ({k: float(np.median(v)) for k, v in part.items()} for part in (ensemble.plain, ensemble.student))
    of = say("step laws", count=ensemble.size) if ensemble.size > 1 else say("step one law")
    values = {name: float(np.exp(p[f"log_{name}"])) for name in "EAB"}
    powers = {name: p[name] for name in ("alpha", "beta", "gamma")}
    lines = [say("step law", source=voice.source, of=of, **values, **powers)]
    d_own = float(student_tokens_worth(situation, own.student_tokens, taught=False))
    d = float(student_tokens_worth(situation, row.student_tokens, taught=True))
    supervised = ensemble.supervised(params=own.student_params, tokens=d_own)
    same = ensemble.supervised(params=row.student_params, tokens=d)
    teacher = np.exp(teacher_losses(ensemble, situation, scale.teacher_on_law_text(row.teacher)))
    lines.append(say("step alone", params=own.student_params, tokens=d_own, loss=_span(supervised)))
    loss, ratio = _on_both_texts(row.teacher, teacher, scale.ratio), float(np.mean(teacher / same))
    lines.append(say("step teacher", loss=loss, ratio=ratio))
    lines.append(_distilled(ensemble, s, row, d, same, teacher))
    if _is_other(scale.ratio):
        lines.append(say("step text", ratio=scale.ratio))
    return lines


def _is_other(ratio: float) -> bool:
    """The law's text is not the user's."""
    return abs(ratio - 1) > 5e-4


def _on_both_texts(teacher: Teacher, losses: Array, ratio: float) -> str:
    """The teacher's loss and where it comes from, on the law's text and on the user's where they differ."""
    here, is_other = _span(losses), _is_other(ratio)
    if teacher.loss is not None:
        return say("step given elsewhere" if is_other else "step given", loss=teacher.loss, here=here)
    found = say("step estimated", here=here, params=teacher.params, tokens=teacher.tokens)
    if not is_other:
        return found
    return say("step estimated elsewhere", found=found, loss=ratio * float(losses.mean()))


def _distilled(ensemble: LawEnsemble, s: dict[str, float], row: Strategy, d: float, same: Array, teacher: Array) -> str:
    """L_S = L_T + what the student lacks of its teacher."""
    n = np.log(np.full(1, row.student_params))
    loss = np.exp(ensemble.log_distilled(n, np.log(np.full(1, d)), np.log(teacher)))
    factor = ensemble.break_factor(np.log(teacher / same))
    return say(
        "step distilled",
        c0=s["c0"],
        kappa=float(np.exp(s["log_kappa"])),
        f1=s["f1"],
        factor=float(factor.mean()),
        teacher=float(teacher.mean()),
        lacking=float((loss - teacher).mean()),
        loss=_span(loss),
    )


def _span(values: Array) -> str:
    name = "step mean" if values.max() - values.min() < 5e-5 else "step span"
    return say(name, mean=float(values.mean()), low=float(values.min()), high=float(values.max()))


def _runs(verdict: Verdict) -> list[str]:
    headline = verdict.headline
    documents, seeds = headline.number("document_se"), headline.number("seed_sd")
    how = "paired runs" if headline.is_paired else "runs as if independent"
    return [
        f"{how}: gain = loss without - loss with the teacher, same seed, stream and documents; se^2 = documents + "
        f"seeds, documents {documents:.4f}, seed noise of one run {seeds:.4f} "
        f"nats/token ({headline.details['seed_source']})"
    ]


def _decision(verdict: Verdict) -> list[str]:
    headline, answer = verdict.headline, verdict.call
    assert headline.pretrain is not None
    lines = []
    for source in verdict.evidence:
        if source.source in headline.deciding and source.speaks:
            sd = source.details.get("doubt")
            doubt = say("step doubt", doubt=sd, dof=LAW_DOF) if isinstance(sd, float) else ""
            lines.append(say("step gain", source=source.source, gain=source.gain(verdict.level), doubt=doubt))
    if len(headline.deciding) > 1:
        lines.append(say("step together", gain=verdict.gain))
    floor = MARGIN * headline.pretrain.loss.mean
    noise = headline.noise if headline.kind == "measured" else 0.0
    called = say("step uncalled")
    if headline.is_decisive:
        chances = {"distil": answer.distil, "pretrain": answer.pretrain}
        called = say("step called", **chances, sure=SURE, verdict=verdict.verdict)
    margin = {"share": MARGIN, "floor": floor, "noise": noise, "margin": answer.margin}
    return [*lines, say("step margin", **margin, called=called)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The terms at k teacher losses, each (k,), means over the members of an ensemble."""

    teacher_loss: Array
    ratio: Array
    """r = L_T / Ltilde_S."""
    factor: Array
    """exp(-h(r)): the share of the student's own term that is felt."""
    lacking: Array
    """F = L_S - L_T, nats/token."""
    student_loss: Array
    by_power: Array
    """c0 F / L_T: what the student loses through L_T^(-c0), per nat that the teacher gains."""
    by_break: Array
    """h' F / L_T: what it loses because it stops following, per nat."""

    @property
    def slope(self) -> Array:
        """dL_S / dL_T: positive where a better teacher makes a better student."""
        return 1 - self.by_power - self.by_break


def balance(ensemble: LawEnsemble, *, student_params: float, student_tokens: float, teacher_loss: ArrayLike) -> Balance:
    """Both sides of dL_S / dL_T at teacher losses (k,), nats/token, under laws with both halves."""
    c = {name: values[:, None] for name, values in ensemble.student.items()}
    t = np.atleast_1d(log_positive("teacher_loss", teacher_loss))[None]
    n, d = (
        log_positive(name, v).reshape(1, 1)
        for name, v in (("student_params", student_params), ("student_tokens", student_tokens))
    )
    x = t - ensemble.log_supervised(n, d)
    u = np.exp(c["log_kappa"] + x / c["f1"])
    student = np.exp(ensemble.log_distilled(n, d, t))
    lacking = student - np.exp(t)
    per_nat = lacking * np.exp(-t)
    has_eps = c["eps"] > 0
    h = np.where(has_eps, np.log1p(c["eps"] * u) / np.where(has_eps, c["eps"], 1.0), u)
    return Balance(
        teacher_loss=np.exp(t[0]),
        ratio=np.exp(x).mean(0),
        factor=np.exp(-h).mean(0),
        lacking=lacking.mean(0),
        student_loss=student.mean(0),
        by_power=(c["c0"] * per_nat).mean(0),
        by_break=(u / (c["f1"] * (1 + c["eps"] * u)) * per_nat).mean(0),
    )


def derivation(ensemble: LawEnsemble, *, name: str, student_params: float, student_tokens: float) -> str:
    """The derivation with this student's numbers put in, as text; `name` is what to call the laws."""
    at = {"student_params": student_params, "student_tokens": student_tokens}
    curve = teacher_loss_curve(ensemble, **at)
    best, supervised = curve.best.at, float(curve.supervised_loss.mean())
    floor = float(curve.teacher_loss[0])
    losses = {supervised * r for r in (1.1, 1.0)} | {best * s for s in (1.1, 1.05, 1.0, 0.95, 0.9, 0.8)}
    rows = balance(ensemble, **at, teacher_loss=sorted((loss for loss in losses if loss > floor), reverse=True))
    c = ensemble.student
    c0, kappa, f1, eps = (float(np.median(v)) for v in (c["c0"], np.exp(c["log_kappa"]), c["f1"], c["eps"]))
    here = balance(ensemble, **at, teacher_loss=best)
    numbers = f"{name}: c0 = {c0:.4g}, kappa = {kappa:.4g}, f1 = {f1:.4g}, eps = {eps:.3g}"
    student = f"{format_count(student_params)} on {format_count(student_tokens)} tokens"
    return "\n".join(
        [
            *_EQUATIONS,
            f"  {numbers}, kappa^(-f1) = {float(curve.break_ratio.mean()):.3g}",
            f"  the student alone, {student}: Ltilde_S = {supervised:.4f}",
            *_table(rows, best),
            *_sign(best, here, is_edge=curve.best.at_edge),
        ]
    )


_EQUATIONS = (
    "Why a stronger teacher can hurt",
    "  L_S = L_T + F,    F = L_T^(-c0) exp(-h(r)) T(N_S, D_S),    r = L_T / Ltilde_S",
    "  L_T is the target. F is what the student lacks of it: T, which its own size and tokens decide, times a factor",
    "  exp(-h) that is small for a teacher no better than the student would be alone (it copies that one almost",
    "  exactly) and 1 for one far ahead. The teacher's size and tokens do not occur: the gap is one of loss.",
    "  Per nat that the teacher improves, the target falls by 1 and F grows by (F / L_T)(c0 + h'):",
    "      dL_S / dL_T = 1 - c0 F / L_T - h' F / L_T,    h' = u / (f1 (1 + eps u)),    u = kappa r^(1/f1)",
    "  c0 F / L_T   what the student lacks weighs as L_T^(-c0): more, the lower the target",
    "  h' F / L_T   the student stops following the teacher, fastest around r = kappa^(-f1)",
)


def _table(rows: Balance, best: float) -> list[str]:
    lines = ["       L_T      r   exp(-h)       F      L_S   c0 F/L_T   h' F/L_T   dL_S/dL_T"]
    names = ("teacher_loss", "ratio", "factor", "lacking", "student_loss", "by_power", "by_break", "slope")
    columns = zip(*(getattr(rows, name) for name in names), strict=True)
    for t, r, factor, lacking, student, by_power, by_break, slope in columns:
        is_best = abs(t / best - 1) < 1e-9
        lines.append(
            f"    {t:6.4f}  {r:5.3f}    {factor:6.4f}  {lacking:6.4f}   {student:6.4f}     {by_power:6.3f}     "
            f"{by_break:6.3f}      {0.0 if is_best else slope:+6.3f}{'  <- best' if is_best else ''}"
        )
    return lines


def _sign(best: float, here: Balance, *, is_edge: bool) -> list[str]:
    if is_edge:
        return [f"  The sign does not change above {best:.4f}: for this student every better teacher is better."]
    return [
        f"  The sign changes at L_T* = {best:.4f}, where {here.by_power[0]:.3f} + {here.by_break[0]:.3f} = 1. With a "
        "weaker teacher the two terms",
        "  are below 1: improve it. With a stronger one the student loses more by not following than the target gives.",
    ]
