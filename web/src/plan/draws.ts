/**
 * The points behind every interval, the command's own (`distillaw/planning/draws.py`), and means with central intervals.
 *
 *     u_id = (i a^d mod R) / R
 */
import { data } from "../data/bundle";
import { mean } from "../laws/numerics";

/** Coordinates; from OPTIONS on two for each option: its part of the law's doubt, and its own. */
const [MEMBER, TAIL, SHARED, PRETRAIN, OPTIONS] = [0, 1, 2, 3, 4];

const kept = new Map<string, Float64Array>();

/** What is drawn along one coordinate, worked out once. */
function drawn(name: string, coordinate: number, value: (place: number, points: number) => number): Float64Array {
  let found = kept.get(name);
  if (!found) {
    const { points, multiplier } = data().draws;
    let step = 1;
    for (let d = 0; d < coordinate; d++) step = (step * multiplier) % points;
    const half = Math.floor(points / 2);
    kept.set(name, (found = Float64Array.from({ length: points }, (_, i) => value((i * step + half) % points, points))));
  }
  return found;
}

function normals(coordinate: number): Float64Array {
  const { normal } = data().draws;
  return drawn(`normal ${coordinate}`, coordinate, (place, points) => normal[Math.floor((place * normal.length) / points)]!);
}

function tails(): Float64Array {
  const { tail } = data().draws;
  return drawn("tail", TAIL, (place, points) => tail[Math.floor((place * tail.length) / points)]!);
}

/** By draw: a law of the ensemble, each as often as any other up to one. */
function members(count: number): Float64Array {
  return drawn(`member ${count}`, MEMBER, (place, points) => Math.floor((place * count) / points));
}

/** Draws of a loss without a teacher, given by law, with a standard deviation common to all laws. */
export function drawnLosses(alone: Float64Array, common: number): Float64Array {
  const [pick, tail, z] = [members(alone.length), tails(), normals(PRETRAIN)];
  return z.map((x, i) => alone[pick[i]!]! + common * tail[i]! * x);
}

/** Draws of the gain of the j-th option, with what the laws and it alone leave in doubt; taught options share a part. */
export function drawnGains(gain: Float64Array, common: number, own: number, j: number, isTaught: boolean): Float64Array {
  const { common: share } = data().constants;
  const [together, apart] = isTaught ? [common * Math.sqrt(share), common * Math.sqrt(1 - share)] : [0, common];
  const [pick, tail, shared] = [members(gain.length), tails(), normals(SHARED)];
  const [ofLaw, ofOption] = [normals(OPTIONS + 2 * j), normals(OPTIONS + 2 * j + 1)];
  return pick.map((k, i) => gain[k]! + tail[i]! * (together * shared[i]! + apart * ofLaw[i]! + own * ofOption[i]!));
}

export interface Interval {
  readonly mean: number;
  readonly lower: number;
  readonly upper: number;
}

/** Mean and central interval of draws, as numpy's `percentile` gives it; worked out when its ends are first read. */
export function intervalOf(draws: Float64Array, level: number): Interval {
  let sorted: Float64Array | null = null;
  const at = (share: number) => {
    sorted ??= draws.slice().sort();
    const place = share * (sorted.length - 1);
    const low = sorted[Math.floor(place)]!;
    return low + (sorted[Math.ceil(place)]! - low) * (place % 1);
  };
  return {
    mean: mean(draws),
    get lower() {
      return at((1 - level) / 2);
    },
    get upper() {
      return at((1 + level) / 2);
    },
  };
}

export function difference(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((x, i) => x - b[i]!);
}
