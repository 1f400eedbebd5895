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

/** Shares of a loss that the weight of the teacher's term leaves, each as likely; the page asks about no weight. */
export function readingsOf(s: Situation, learnt: LearntData | null): readonly number[] {
  if (learnt === null) return [1];
  const share = s.start === "pruned" ? learnt.alone_of_cuts : learnt.alone;
  const count = constants().readings;
  return share === 1 ? [1] : Array.from({ length: count }, (_, i) => (i < Math.round(count * share) ? 1 : 0));
}

/** The same values once for every reading. */
export function tiled(values: Float64Array, readings: readonly number[]): Float64Array {
  return Float64Array.from({ length: values.length * readings.length }, (_, i) => values[i % values.length]!);
}

/** Of a positive gain; all of it by a law of the user's own. */
export function keptShare(s: Situation, learnt: LearntData | null, outside: Outside): number {
  return learnt === null ? 1 : (1 - (1 - learnt.realised) * beyond(outside)) * begun(s, learnt);
}

/** How far text is read too often for laws of fresh tokens to know what a teacher does there, from 0 to 1. */
export function repeated(s: Situation, tokens: number): number {
  if (s.uniqueTokens === null) return 0;
  const [fresh, often] = constants().repeats.map(Math.log) as [number, number];
  return Math.min(Math.max((Math.log(tokens / s.uniqueTokens) - fresh) / (often - fresh), 0), 1);
}

/** Standard deviation of the gain by repeats, as a share of the loss. */
export function repeatsDoubt(learnt: LearntData, often: number): number {
  return Math.sqrt(often * learnt.repeated_sd ** 2 + often * (1 - often) * learnt.repeated ** 2);
}

/** What is left of gains by a law, shares of the loss, by reading; `isStrong`: the teacher's loss is below the student's. */
export function leftOf(
  s: Situation, learnt: LearntData | null, outside: Outside, gain: Float64Array, isStrong: boolean,
): Float64Array {
  if (learnt === null) return gain;
  const kept = keptShare(s, learnt, outside);
  const gap = isStrong && comparison(s) === "equal-tokens" ? 1 - beyond(outside) : 1;
  const readings = readingsOf(s, learnt);
  const lost = (i: number) => readings[Math.floor(i / gain.length)]! * begun(s, learnt) * gap;
  return tiled(gain, readings).map((x, i) => (x > 0 ? kept : lost(i)) * x);
}

/** The same, nats/token, with what is gained beside the law's: on repeated text, at equal compute. */
export function countedGain(
  s: Situation, learnt: LearntData | null, outside: Outside, alone: Float64Array, twin: Float64Array,
  taught: Float64Array, tokens: number, teacherLoss: number,
): Float64Array {
  const gain = alone.map((x, k) => (twin[k]! - taught[k]!) / x);
  const left = leftOf(s, learnt, outside, gain, teacherLoss < mean(alone));
  let added = 0;
  if (learnt !== null) added += learnt.repeated * repeated(s, tokens);
  if (learnt !== null && comparison(s) === "equal-compute") added += learnt.compute;
  const cost = alone.map((x, k) => 1 - twin[k]! / x);
  return left.map((x, k) => (x + cost[k % alone.length]! + added) * alone[k % alone.length]!);
}

/** Standard deviation of a gain, as a share of the loss. */
export function learntDoubt(
  s: Situation, learnt: LearntData, outside: Outside, alone: Float64Array, twin: Float64Array, taught: Float64Array,
  tokens: number,
): number {
  const gain = Math.max((mean(twin) - mean(taught)) / mean(alone), 0);
  const ofTeacher = Math.hypot(learnt.at_home, learnt.per_gain * beyond(outside) * gain);
  return Math.hypot(constants().seeds, ofTeacher, repeatsDoubt(learnt, repeated(s, tokens)));
}
