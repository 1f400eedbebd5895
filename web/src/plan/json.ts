/** A verdict under the names of `distillaw plan --json`, as far as laws can answer. */
import { rangeSentence } from "./teacherRange";
import { explanation } from "./explain";
import type { Crossover } from "./crossover";
import type { Strategy } from "./evidence";
import type { Verdict } from "./plan";

export function verdictJson(v: Verdict): Record<string, unknown> {
  return {
    verdict: v.call.verdict, probability: v.call.probability, margin: v.call.margin, sentence: v.sentence,
    probability_distil: v.call.distil, probability_pretrain: v.call.pretrain, gain: v.gain,
    regret_if_wrong: v.regret, strategies: v.strategies.map(row), crossover_tokens: band(v.crossover),
    crossover_compute: band(v.crossoverCompute), inside_range: v.headline.insideRange, reasons: v.reasons, explanation: explanation(v),
    assumptions: v.assumptions, warnings: v.warnings,
    equal_compute: v.equal && {
      compute: v.equal.compute, pretrain_tokens: v.equal.pretrainTokens, verdict: v.equal.call?.verdict ?? null,
      probability: v.equal.call?.probability ?? null, gain: v.equal.gain,
    },
    with_a_teacher: v.supposed && {
      teacher: v.supposed.row.teacher!.name, verdict: v.supposed.call.verdict,
      probability: v.supposed.call.probability, gain: v.supposed.gain,
    },
    teacher_sizes: v.teachers && {
      best: v.teachers.best, student_loss: v.teachers.studentLoss, flat: [v.teachers.lower, v.teachers.upper],
      sentence: rangeSentence(v.teachers),
    },
  };
}

function band(c: Crossover | null) {
  return { lower: c?.lower ?? null, median: c?.median ?? null, upper: c?.upper ?? null };
}

function row(s: Strategy) {
  return {
    name: s.name, kind: s.kind, student_params: s.studentParams, student_tokens: s.studentTokens,
    teacher_params: s.teacher?.params ?? null, teacher_tokens: s.teacher?.tokens ?? null, teacher_loss: s.teacherLoss,
    compute: s.compute, loss: s.loss, gain: s.gain, probability_best_teacher: s.shareBest,
    is_speculative: s.isSpeculative,
  };
}
