/**
 * The points behind every interval, the command's own (`distillaw/planning/draws.py`), and means with central intervals.
 *
 *     u_id = (i a^d mod R) / R
 */
import { constants, data } from "../data/bundle";
import { deviation, linspace, mean, median } from "../laws/numerics";

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

/** Draws of the gain of the j-th option, with what the laws and it alone leave in doubt; taught options have that share in common. */
export function drawnGains(
  gain: Float64Array, common: number, own: number, j: number, share: number | null,
): Float64Array {
  const [together, apart] = share !== null ? [common * Math.sqrt(share), common * Math.sqrt(1 - share)] : [0, common];
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

/** A mixture of t densities over the gain of one option. */
export interface Belief {
  readonly centres: Float64Array;
  readonly scale: number;
}

export function beliefOfLaw(centres: Float64Array, sd: number): Belief {
  return { centres, scale: constants().law_scale * sd };
}

/** Ln density up to a constant. */
function logDensity(belief: Belief, grid: Float64Array): Float64Array {
  const dof = constants().law_dof;
  const power = -(dof + 1) / 2;
  const { centres, scale } = belief;
  return grid.map((x) => {
    let total = 0;
    let top = -Infinity;
    for (let k = 0; k < centres.length; k++) {
      const z = (x - centres[k]!) / scale;
      const base = 1 + (z * z) / dof;
      // the usual degrees of freedom without a call of pow
      total += dof === 4 ? 1 / (base * base * Math.sqrt(base)) : base ** power;
      top = Math.max(top, -base);
    }
    return total > 0 ? Math.log(total / centres.length) : power * Math.log(-top);
  });
}

/** Draws of the gain that several sources agree on, with the ranks of given draws. */
export function agreedDraws(beliefs: readonly Belief[], order: Float64Array, weights: readonly number[]): Float64Array {
  const grid = gridFor(beliefs);
  const logs = new Float64Array(grid.length);
  beliefs.forEach((belief, i) => {
    const one = logDensity(belief, grid);
    for (let j = 0; j < logs.length; j++) logs[j]! += weights[i]! * one[j]!;
  });
  let top = -Infinity;
  for (const value of logs) top = Math.max(top, value);
  const density = logs.map((x) => Math.exp(x - top));
  const mass = new Float64Array(grid.length);
  for (let j = 1; j < mass.length; j++) {
    mass[j] = mass[j - 1]! + ((density[j]! + density[j - 1]!) / 2) * (grid[j]! - grid[j - 1]!);
  }
  const whole = mass[mass.length - 1]!;
  const at = mass.map((x) => x / whole);
  const ranks = Array.from(order.keys()).sort((a, b) => order[a]! - order[b]!);
  const out = new Float64Array(order.length);
  let cell = 0;
  for (let k = 0; k < out.length; k++) {
    const p = (k + 0.5) / out.length;
    while (cell < at.length - 2 && at[cell + 1]! <= p) cell++;
    const [x, y] = [grid[cell]!, grid[cell + 1]!];
    const value = x + ((y - x) / (at[cell + 1]! - at[cell]!)) * (p - at[cell]!);
    out[ranks[k]!] = value;
  }
  return out;
}

/** A grid over all beliefs with points close together around the narrowest. */
function gridFor(beliefs: readonly Belief[]): Float64Array {
  const { points, tail, near } = constants().density;
  const ends = beliefs.flatMap((b) => [Math.min(...b.centres) - tail * b.scale, Math.max(...b.centres) + tail * b.scale]);
  const coarse = linspace(Math.min(...ends), Math.max(...ends), points);
  const finest = beliefs.reduce((a, b) => (b.scale < a.scale ? b : a));
  const middle = median(finest.centres);
  const reach = near * (finest.scale + deviation(finest.centres));
  const both = new Float64Array(2 * points);
  both.set(coarse);
  both.set(linspace(middle - reach, middle + reach, points), points);
  both.sort();
  return both.filter((x, i) => i === 0 || x !== both[i - 1]);
}
