/** A published law asked about the user's text. Mirrors `distillaw/planning/text_scale.py`. */
import { constants } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { mean } from "../laws/numerics";
import type { Option } from "./options";
import { type OptionLoss, optionLoss, teacherLosses } from "./predictions";
import { type Situation, type Teacher, lawError } from "./situation";
import type { Voice } from "./voices";

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
