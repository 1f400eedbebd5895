/** The loss of one option under every law of an ensemble. Mirrors `distillaw/planning/options.py`. */
import { constants } from "../data/bundle";
import type { Ensemble, Law } from "../laws/law";
import { logAddExp, mean } from "../laws/numerics";
import { effectiveTokens, studentTokensWorth } from "./bills";
import type { Voice } from "./evidence";
import type { Option } from "./options";
import { type Situation, type Teacher, lawError } from "./situation";
import { beginsFrom } from "./starts";

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
  if (option.cutOf !== null && s.start !== "pruned") return cutLoss(ensemble, s, option, option.cutOf);
  const n = Math.log(option.studentParams);
  const d = Math.log(studentTokensWorth(s, option.studentTokens, option.teacher !== null));
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
  const known = option.teacher.loss !== null;
  const spread = known ? option.teacher.lossSe : lawError(option.teacher) * mean(teacherLoss);
  const shifted = (by: number) => at(d, (k) => Math.log(teacherLoss[k]! + by));
  const loss = shifted(0);
  const [low, high] = spread ? [shifted(-spread), shifted(spread)] : [loss, loss];
  return { loss, teacherLoss, doubt: mean(high.map((x, k) => Math.abs(x - low[k]!))) / 2 };
}

/** Of a cut beside random starts: the doubt of its head start is its own. */
function cutLoss(ensemble: Ensemble, s: Situation, option: Option, source: Teacher): OptionLoss {
  const asked = beginsFrom(s, source, option.studentParams);
  const [less, middle, more] = [-1, 0, 1].map((startShift) => optionLoss(ensemble, { ...asked, startShift }, option));
  const begun = mean(less!.loss.map((x, k) => x - more!.loss[k]!)) / 2;
  return { ...middle!, doubt: Math.hypot(middle!.doubt, begun) };
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

/** The user's losses over the law's, for the same models. */
export interface TextScale {
  readonly ratio: number;
  /** Standard deviation of ln ratio. */
  readonly sd: number;
  /** True where a teacher was measured on the user's text and nothing says how that text compares. */
  readonly isGuess: boolean;
}

export const SAME_TEXT: TextScale = { ratio: 1, sd: 0, isGuess: false };

/** The same, so many standard deviations off. */
export function movedScale(scale: TextScale, deviations: number): TextScale {
  return { ...scale, ratio: scale.ratio * Math.exp(deviations * scale.sd) };
}

export function teacherOnLawText<T extends Teacher | null>(scale: TextScale, teacher: T): T {
  if (teacher === null || teacher.loss === null || scale.ratio === 1) return teacher;
  return { ...teacher, loss: teacher.loss / scale.ratio, lossSe: teacher.lossSe / scale.ratio };
}

export function onLawText(scale: TextScale, option: Option): Option {
  return { ...option, teacher: teacherOnLawText(scale, option.teacher) };
}

export function onUserText(scale: TextScale, p: OptionLoss): OptionLoss {
  const scaled = (x: Float64Array) => x.map((v) => v * scale.ratio);
  return { loss: scaled(p.loss), teacherLoss: p.teacherLoss && scaled(p.teacherLoss), doubt: p.doubt * scale.ratio };
}

/** True where a guessed scale makes a measured teacher change the loss by more than any teacher does. */
export function isImplausible(scale: TextScale, options: readonly Option[], predicted: readonly OptionLoss[]): boolean {
  if (!scale.isGuess) return false;
  const own = mean(predicted[0]!.loss);
  return options.some(
    (o, j) =>
      o.teacher !== null && o.teacher.loss !== null &&
      Math.abs(own - mean(predicted[j]!.loss)) > constants().largest_gain * own,
  );
}

/** How the user's losses compare with a law's. */
export function textScale(voice: Voice, s: Situation, own: { option: Option; loss: number } | null): TextScale {
  const ensemble = voice.ensemble!;
  const measured = s.teachers.filter((t) => t.loss !== null);
  if (voice.kind === "fitted" || (!measured.length && own === null)) return SAME_TEXT;
  if (own !== null) return { ...SAME_TEXT, ratio: own.loss / mean(optionLoss(ensemble, s, own.option).loss) };
  const whole = measured.filter((t) => t.params !== null && t.tokens !== null);
  if (!whole.length) return { ...SAME_TEXT, isGuess: true };
  return shared(whole.map((t) => deviation(ensemble, s, t)), whole);
}

/** Ln of a measured loss over what the laws make of the teacher's size and tokens. */
export function deviation(ensemble: Ensemble, s: Situation, t: Teacher): number {
  return Math.log(t.loss!) - mean(teacherLosses(ensemble, s, { ...t, loss: null }));
}

/** The part of the deviations that the text explains. */
function shared(deviations: readonly number[], teachers: readonly Teacher[]): TextScale {
  const { text_spread, text_dof, least } = constants();
  const v = teachers.map((t) => Math.max(lawError(t) ** 2 + (t.lossSe / t.loss!) ** 2, least ** 2));
  const total = (of: (d: number, v: number) => number) => deviations.reduce((sum, d, j) => sum + of(d, v[j]!), 0);
  const precision = 1 / text_spread ** 2 + total((_, w) => 1 / w);
  const middle = total((d, w) => d / w) / precision;
  const chi2 = total((d, w) => d ** 2 / w) - middle ** 2 * precision;
  const k2 = (text_dof + chi2) / (text_dof + deviations.length);
  return { ratio: Math.exp(middle), sd: Math.sqrt(k2 / precision), isGuess: false };
}
