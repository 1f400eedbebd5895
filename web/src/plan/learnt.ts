/** What published outcomes taught of gains by published laws. Mirrors `distillaw/planning/learnt.py`. */
import { type LearntData, constants } from "../data/bundle";
import { mean } from "../laws/numerics";
import { type Situation, comparison } from "./situation";

type Outside = Readonly<Record<string, number>>;

/** How far outside a law's range, from 0 to 1. */
function beyond(outside: Outside): number {
  return Math.min(Math.max(0, ...Object.values(outside)) / constants().far, 1);
}

/** Of what laws make of a teacher for students of one cut. */
function begun(s: Situation, learnt: LearntData): number {
  return s.start === "pruned" ? learnt.begun : 1;
}

/** Of a positive gain; all of it by a law of the user's own. */
export function keptShare(s: Situation, learnt: LearntData | null, outside: Outside): number {
  return learnt === null ? 1 : (1 - (1 - learnt.realised) * beyond(outside)) * begun(s, learnt);
}

/** Whether text is read so often that laws of fresh tokens do not know what a teacher does there. */
export function isRepeated(s: Situation, tokens: number): boolean {
  return s.uniqueTokens !== null && tokens > constants().repeats * s.uniqueTokens;
}

/** What is left of gains by a law, shares of the loss; `isStrong`: the teacher's loss is below the student's. */
export function leftOf(
  s: Situation, learnt: LearntData | null, outside: Outside, gain: Float64Array, isStrong: boolean,
): Float64Array {
  if (learnt === null) return gain;
  const kept = keptShare(s, learnt, outside);
  const gap = isStrong && comparison(s) === "equal-tokens" ? 1 - beyond(outside) : 1;
  return gain.map((x) => (x > 0 ? kept * x : begun(s, learnt) * gap * x));
}

/** The same, nats/token, with what is gained beside the law's: on repeated text, at equal compute. */
export function countedGain(
  s: Situation, learnt: LearntData | null, outside: Outside, alone: Float64Array, taught: Float64Array, tokens: number,
  teacherLoss: number,
): Float64Array {
  const gain = alone.map((x, k) => 1 - taught[k]! / x);
  const left = leftOf(s, learnt, outside, gain, teacherLoss < mean(alone));
  let added = 0;
  if (learnt !== null && isRepeated(s, tokens)) added += learnt.repeated;
  if (learnt !== null && comparison(s) === "equal-compute") added += learnt.compute;
  return left.map((x, k) => (x + added) * alone[k]!);
}

/** Standard deviation of a gain, as a share of the loss. */
export function learntDoubt(
  s: Situation, learnt: LearntData, outside: Outside, alone: Float64Array, taught: Float64Array, tokens: number,
): number {
  const gain = Math.max(1 - mean(taught) / mean(alone), 0);
  const ofTeacher = Math.hypot(learnt.at_home, learnt.per_gain * beyond(outside) * gain);
  return Math.hypot(constants().seeds, ofTeacher, isRepeated(s, tokens) ? learnt.repeated_sd : 0);
}
