/** What several sources say together: t mixtures multiplied as densities. Mirrors `distillaw/planning/gains.py`. */
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
