"""The way from the question to the verdict as equations with the numbers put in, for `plan --explain`."""

import numpy as np

from distillaw.laws.base import Array
from distillaw.laws.ensemble import LawEnsemble
from distillaw.planning.bills import effective_tokens, forward_flop, shares_of
from distillaw.planning.consensus import LAW_DOF
from distillaw.planning.decision import MARGIN, SURE, Verdict
from distillaw.planning.evidence import Evidence, Strategy
from distillaw.planning.predictions import teacher_losses
from distillaw.planning.situation import Teacher
from distillaw.planning.text_scale import TextScale
from distillaw.planning.voices import Voice
from distillaw.planning.wording import interval
from distillaw.quantities import format_count, format_flop


def explanation(verdict: Verdict) -> list[str]:
    """One step a line: cost, supervised loss, teacher, distilled loss, gain, doubt, margin, call."""
    lines = _costs(verdict)
    row = verdict.headline.best
    deciding = [
        v for v in verdict.sources.voices if v.source in verdict.headline.deciding and v.ensemble is not None
    ]
    scales = {e.source: TextScale.of(e) for e in verdict.evidence}
    for voice in deciding:
        lines += _law(verdict, voice, row, scales[voice.source])
    if verdict.headline.kind == "measured":
        lines += _runs(verdict)
    return lines + _decision(verdict)


def _costs(verdict: Verdict) -> list[str]:
    situation, row = verdict.situation, verdict.headline.best
    assert verdict.headline.pretrain is not None and row.teacher is not None
    own, N = verdict.headline.pretrain, row.student_params
    student = forward_flop(situation, N)
    lines = [
        f"student: F({format_count(N)}) = 2 N (1 + sigma1 n_ctx / N^(1/3) + sigma2 n_vocab / N^(2/3)) = {student:.4g} "
        f"FLOP per token; training takes 3 F = {3 * student:.4g}"
    ]
    if row.teacher.params is None:
        return [*lines, f"{row.teacher.called} has no known size: its logits cannot be priced"]
    teacher, shares = forward_flop(situation, row.teacher.params), shares_of(situation, row.teacher)
    lines.append(
        f"bill: C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T), delta_Lgt = {shares.delta_lgt:.3g}, "
        f"delta_Pre = {shares.delta_pre:.3g}, F(N_T) = {teacher:.4g}"
    )
    if situation.compute is not None:
        lines.append(
            f"tokens on {format_flop(situation.compute)}: D = {format_count(own.student_tokens)} without a teacher, "
            f"{format_count(row.student_tokens)} with it"
        )
    return lines


def _law(verdict: Verdict, voice: Voice, row: Strategy, scale: TextScale) -> list[str]:
    """Both losses under the middle of one voice, with its coefficients."""
    situation, own = verdict.situation, verdict.headline.pretrain
    assert voice.ensemble is not None and own is not None and row.teacher is not None
    ensemble = voice.ensemble
    p, s = ({k: float(np.median(v)) for k, v in part.items()} for part in (ensemble.plain, ensemble.student))
    of = f"{ensemble.size} laws, medians shown" if ensemble.size > 1 else "one law"
    lines = [
        f"{voice.source} ({of}): L(N, D) = E + (A/N^alpha + B/D^beta)^gamma, E = {np.exp(p['log_E']):.4g}, A = "
        f"{np.exp(p['log_A']):.4g}, B = {np.exp(p['log_B']):.4g}, alpha = {p['alpha']:.4g}, beta = {p['beta']:.4g}, "
        f"gamma = {p['gamma']:.4g}"
    ]
    d_own, d = (float(effective_tokens(situation, r.student_tokens)) for r in (own, row))
    alone = ensemble.supervised(params=own.student_params, tokens=d_own)
    same = ensemble.supervised(params=row.student_params, tokens=d)
    teacher = np.exp(teacher_losses(ensemble, situation, scale.teacher_on_law_text(row.teacher)))
    lines.append(
        f"without a teacher: L({format_count(own.student_params)}, {format_count(d_own)}) = {_span(alone)} nats/token"
    )
    lines.append(
        f"teacher: L_T = {_on_both_texts(row.teacher, teacher, scale.ratio)}; against the student's own loss on its "
        f"tokens r = L_T / Ltilde_S = {float(np.mean(teacher / same)):.3f}"
    )
    lines.append(_taught(ensemble, s, row, d, same, teacher))
    if _is_other(scale.ratio):
        lines.append(
            f"all of that on the law's own text; losses on yours are {scale.ratio:.4f} times as high"
        )
    return lines


def _is_other(ratio: float) -> bool:
    """The law's text is not the user's."""
    return abs(ratio - 1) > 5e-4


def _on_both_texts(teacher: Teacher, losses: Array, ratio: float) -> str:
    """The teacher's loss and where it comes from, on the law's text and on the user's where they differ."""
    here, is_other = _span(losses), _is_other(ratio)
    if teacher.loss is not None:
        return f"{teacher.loss:.4f} given, {here} on the law's text" if is_other else f"{here} (given)"
    found = f"{here} (L({format_count(teacher.params or 0)}, {format_count(teacher.tokens or 0)}))"
    return f"{found} on the law's text, {ratio * float(losses.mean()):.4f} on yours" if is_other else found


def _taught(
    ensemble: LawEnsemble, s: dict[str, float], row: Strategy, d: float, same: Array, teacher: Array
) -> str:
    """L_S = L_T + what the student lacks of its teacher."""
    n = np.log(np.full(1, row.student_params))
    loss = np.exp(ensemble.log_distilled(n, np.log(np.full(1, d)), np.log(teacher)))
    factor = ensemble.break_factor(np.log(teacher / same))
    return (
        f"distilled: L_S = L_T + L_T^(-c0) exp(-h(r)) (A'/N^alpha' + B'/D^beta')^gamma' with c0 = {s['c0']:.4g}, "
        f"kappa = {np.exp(s['log_kappa']):.4g}, f1 = {s['f1']:.4g}: exp(-h) = {float(factor.mean()):.3f}, so L_S = "
        f"{float(teacher.mean()):.4f} + {float((loss - teacher).mean()):.4f} = {_span(loss)}"
    )


def _span(values: Array) -> str:
    if values.max() - values.min() < 5e-5:
        return f"{float(values.mean()):.4f}"
    return f"{float(values.mean()):.4f} ({float(values.min()):.4f} to {float(values.max()):.4f})"


def _runs(verdict: Verdict) -> list[str]:
    details = verdict.headline.details
    how = "paired runs" if verdict.headline.is_paired else "runs as if independent"
    return [
        f"{how}: gain = loss without - loss with the teacher, same seed, stream and documents; se^2 = documents + "
        f"seeds, documents {float(details['document_se']):.4f}, seed noise of one run {float(details['seed_sd']):.4f} "  # type: ignore[arg-type]
        f"nats/token ({details['seed_source']})"
    ]


def _decision(verdict: Verdict) -> list[str]:
    headline, answer = verdict.headline, verdict.call
    assert headline.pretrain is not None
    lines = []
    for source in verdict.evidence:
        if source.source in headline.deciding and source.speaks:
            gain = interval(source.gain(verdict.level))
            lines.append(f"gain by {source.source}: {gain}{_form_doubt(source)}")
    if len(headline.deciding) > 1:
        lines.append(f"together (densities multiplied): {interval(verdict.gain)}")
    floor = MARGIN * headline.pretrain.loss.mean
    noise = headline.noise if headline.kind == "measured" else 0.0
    lines.append(
        f"margin = max({MARGIN:.2%} of the loss = {floor:.4f}, noise {noise:.4f}) = {answer.margin:.4f}; "
        + _called(verdict)
    )
    return lines


def _called(verdict: Verdict) -> str:
    answer = verdict.call
    if not verdict.headline.is_decisive:
        return "no probability: nothing that may decide reaches this question"
    return (
        f"P(gain > margin) = {answer.distil:.3f}, P(-gain > margin) = {answer.pretrain:.3f}; called from {SURE:g} on: "
        f"{verdict.verdict}"
    )


def _form_doubt(source: Evidence) -> str:
    doubt = source.details.get("doubt")
    if not isinstance(doubt, float):
        return ""
    return f", of which {doubt:.4f} (sd, t with {LAW_DOF:g} degrees of freedom) is doubt of the form"
