/** A published law asked about the user's text. Mirrors `distillaw/planning/text_scale.py`. */
import { constants } from "../data/bundle";
import { mean } from "../laws/numerics";
import type { Option } from "./options";
import { type OptionLoss, optionLoss, teacherLosses } from "./predictions";
import type { Situation, Teacher } from "./situation";
import type { Voice } from "./voices";

/** The user's losses over the law's, for the same models. */
export interface TextScale {
  readonly ratio: number;
  /** True where a teacher was measured on the user's text and nothing says how that text compares. */
  readonly isGuess: boolean;
}

export const SAME_TEXT: TextScale = { ratio: 1, isGuess: false };

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
export function textScale(
  voice: Voice, s: Situation, teachers: readonly Teacher[], own: { option: Option; loss: number } | null,
): TextScale {
  const ensemble = voice.ensemble!;
  const measured = teachers.filter((t) => t.loss !== null);
  if (voice.kind === "fitted" || (!measured.length && own === null)) return SAME_TEXT;
  if (own !== null) return { ratio: own.loss / mean(optionLoss(ensemble, s, own.option).loss), isGuess: false };
  const whole = measured.filter((t) => t.params !== null && t.tokens !== null);
  if (!whole.length) return { ratio: 1, isGuess: true };
  const logs = whole.map((t) => Math.log(t.loss!) - mean(teacherLosses(ensemble, s, { ...t, loss: null })));
  return { ratio: Math.exp(mean(logs)), isGuess: false };
}
