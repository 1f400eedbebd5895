/** The loss of one option under every law of an ensemble. Mirrors `distillaw/planning/options.py`. */
import { constants } from "../data/bundle";
import type { Ensemble, Law } from "../laws/law";
import { logAddExp, mean } from "../laws/numerics";
import { effectiveTokens } from "./bills";
import type { Option } from "./options";
import { type Situation, type Teacher, lawError } from "./situation";

export interface OptionLoss {
  /** By law, nats/token. */
  readonly loss: Float64Array;
  readonly teacherLoss: Float64Array | null;
  /** Standard deviation of what is uncertain about this option alone. */
  readonly doubt: number;
}

function byLaw(ensemble: Ensemble, value: (law: Law, k: number) => number): Float64Array {
  return Float64Array.from(ensemble, value);
}

/** Ln L_T by law: as given, or as each law estimates it from size and tokens. */
export function teacherLosses(ensemble: Ensemble, s: Situation, teacher: Teacher): Float64Array {
  if (teacher.loss !== null) return new Float64Array(ensemble.length).fill(Math.log(teacher.loss));
  const tokens = teacher.exists ? teacher.tokens! : effectiveTokens(s, teacher.tokens!);
  const [n, d] = [Math.log(teacher.params!), Math.log(tokens)];
  return byLaw(ensemble, (law) => law.supervised(n, d));
}

export function optionLoss(ensemble: Ensemble, s: Situation, option: Option): OptionLoss {
  const n = Math.log(option.studentParams);
  const d = Math.log(effectiveTokens(s, option.studentTokens));
  if (option.teacher === null) {
    return { loss: byLaw(ensemble, (law) => Math.exp(law.supervised(n, d))), teacherLoss: null, doubt: 0 };
  }
  const t = teacherLosses(ensemble, s, option.teacher);
  const teacherLoss = t.map(Math.exp);
  const at = (tokens: number, ln: (k: number) => number) =>
    byLaw(ensemble, (law, k) => Math.exp(law.distilled(n, tokens, ln(k))));
  if (option.kind === "distil-then-pretrain") {
    const { after, pure } = handedOver(ensemble, s, option, t, option.studentTokens, option.taught);
    return { loss: after, teacherLoss, doubt: mean(after.map((x, k) => Math.abs(x - pure[k]!))) };
  }
  if (option.kind === "prune-and-distil") {
    const worth = Math.log(constants().pruned_worth);
    const [first, last] = [at(d, (k) => t[k]!), at(d + worth, (k) => t[k]!)];
    const doubt = mean(first.map((x, k) => x - last[k]!)) / 2;
    return { loss: at(d + worth / 2, (k) => t[k]!), teacherLoss, doubt };
  }
  const known = option.teacher.loss !== null;
  const spread = known ? option.teacher.lossSe : lawError(option.teacher) * mean(teacherLoss);
  const shifted = (by: number) => at(d, (k) => Math.log(teacherLoss[k]! + by));
  const loss = shifted(0);
  const [low, high] = spread ? [shifted(-spread), shifted(spread)] : [loss, loss];
  return { loss, teacherLoss, doubt: mean(high.map((x, k) => Math.abs(x - low[k]!))) / 2 };
}

/** Losses after distilling on a share of the tokens and going on alone, and of the better pure strategy. */
export function handedOver(
  ensemble: Ensemble, s: Situation, option: Option, t: Float64Array, tokens: number, taught: number,
): { after: Float64Array; pure: Float64Array } {
  const n = Math.log(option.studentParams);
  const whole = effectiveTokens(s, tokens);
  const [d, first] = [Math.log(whole), Math.log(effectiveTokens(s, taught * tokens))];
  const rest = Math.log(whole * (1 - taught));
  const after = byLaw(ensemble, (law, k) => {
    const reached = law.distilled(n, first, t[k]!);
    const stands = law.tokensFor(n, reached);
    return Math.exp(Number.isFinite(stands) ? law.supervised(n, logAddExp(stands, rest)) : reached);
  });
  const pure = byLaw(ensemble, (law, k) => {
    const own = law.supervised(n, d);
    return Math.exp(Math.min(law.distilled(n, d, t[k]!, own), own));
  });
  return { after, pure };
}
