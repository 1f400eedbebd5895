/** What published outcomes taught of gains by published laws. Mirrors `distillaw/planning/learnt.py`. */
import { type LearntData, constants } from "../data/bundle";
import { mean } from "../laws/numerics";
import type { Situation } from "./situation";

type Outside = Readonly<Record<string, number>>;

/** How far outside a law's range, from 0 to 1. */
function beyond(outside: Outside): number {
  return Math.min(Math.max(0, ...Object.values(outside)) / constants().far, 1);
}

/** Of a positive gain; all of it by a law of the user's own. */
export function keptShare(learnt: LearntData | null, outside: Outside): number {
  return learnt === null ? 1 : 1 - (1 - learnt.realised) * beyond(outside);
}

/** Whether text is read so often that laws of fresh tokens do not know what a teacher does there. */
export function isRepeated(s: Situation, tokens: number): boolean {
  return s.uniqueTokens !== null && tokens > constants().repeats * s.uniqueTokens;
}

/** What is left of gains by a law, one for each of its members. */
export function leftOf(learnt: LearntData | null, outside: Outside, gain: Float64Array): Float64Array {
  const kept = keptShare(learnt, outside);
  return gain.map((x) => (x > 0 ? kept * x : x));
}

/** The same with what any teacher adds on repeated text. */
export function countedGain(
  s: Situation, learnt: LearntData | null, outside: Outside, alone: Float64Array, taught: Float64Array, tokens: number,
): Float64Array {
  const left = leftOf(learnt, outside, alone.map((x, k) => x - taught[k]!));
  if (learnt === null || !isRepeated(s, tokens)) return left;
  return left.map((x, k) => x + learnt.repeated * alone[k]!);
}

/** Standard deviation of a gain, as a share of the loss. */
export function learntDoubt(
  s: Situation, learnt: LearntData, outside: Outside, alone: Float64Array, taught: Float64Array, tokens: number,
): number {
  const gain = Math.max(1 - mean(taught) / mean(alone), 0);
  const ofTeacher = Math.hypot(learnt.at_home, learnt.per_gain * beyond(outside) * gain);
  return Math.hypot(constants().seeds, ofTeacher, isRepeated(s, tokens) ? learnt.repeated_sd : 0);
}
