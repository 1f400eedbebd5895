/** What several sources say together: t mixtures multiplied as densities. Mirrors `distillaw/planning/consensus.py`. */
import { constants } from "../data/bundle";
import { deviation, linspace, median } from "../laws/numerics";

/** A mixture of t densities over the gain of one option. */
export interface Belief {
  readonly centres: Float64Array;
  readonly scale: number;
}

const POINTS = 2001;

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
  const ranks = ascending(order);
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
  const ends = beliefs.flatMap((b) => [Math.min(...b.centres) - 12 * b.scale, Math.max(...b.centres) + 12 * b.scale]);
  const coarse = linspace(Math.min(...ends), Math.max(...ends), POINTS);
  const finest = beliefs.reduce((a, b) => (b.scale < a.scale ? b : a));
  const middle = median(finest.centres);
  const reach = 8 * (finest.scale + deviation(finest.centres));
  const both = new Float64Array(2 * POINTS);
  both.set(coarse);
  both.set(linspace(middle - reach, middle + reach, POINTS), POINTS);
  both.sort();
  return both.filter((x, i) => i === 0 || x !== both[i - 1]);
}

/** Indices that sort values ascending: radix sort of their bits. */
export function ascending(values: Float64Array): Uint32Array {
  const n = values.length;
  const words = new Uint32Array(Float64Array.from(values).buffer);
  for (let i = 0; i < n; i++) {
    const sign = words[2 * i + 1]! >>> 31;
    words[2 * i + 1] = sign ? ~words[2 * i + 1]! : words[2 * i + 1]! | 0x80000000;
    if (sign) words[2 * i] = ~words[2 * i]!;
  }
  let from = Uint32Array.from({ length: n }, (_, i) => i);
  let to = new Uint32Array(n);
  for (let pass = 0; pass < 4; pass++) {
    const half = pass >> 1;
    const shift = (pass & 1) * 16;
    const starts = new Uint32Array(65537);
    for (let i = 0; i < n; i++) starts[((words[2 * i + half]! >>> shift) & 0xffff) + 1]!++;
    for (let v = 0; v < 65536; v++) starts[v + 1]! += starts[v]!;
    for (let i = 0; i < n; i++) {
      const index = from[i]!;
      to[starts[(words[2 * index + half]! >>> shift) & 0xffff]!++] = index;
    }
    [from, to] = [to, from];
  }
  return from;
}
