/**
 * The best teacher to train for one student and one bill. Mirrors `distillaw/planning/optimum.py` and
 * `optimum_search.py` for teachers whose training is paid, which is the one case that a plan searches.
 *
 * Two coordinates, ln N_T and the odds of teacher training in the budget, from the deepest valleys of a grid; and the
 * edge of what is allowed, line by line.
 */
import { constants } from "../data/bundle";
import { type Ensemble, thinned } from "../laws/law";
import { clip, interpolate, linspace, logAddExp, lowest } from "../laws/numerics";
import { newton } from "./minimise";
import type { CostShares } from "./situation";

const SPACING = 0.7;
const ODDS = 28;
const VALLEYS = 3;
const SCOUTS = 16;
const EDGE_POINTS = 41;
const NEAR = 0.03;
const UNPAID = 1e30;
const BEYOND = 0.3;
const AT_BOUND = 1e-6;

export interface Bounds {
  /** Ln of the smallest and the largest teacher. */
  readonly params: readonly [number, number];
  readonly tokens: readonly [number, number];
}

export interface BestTeacher {
  readonly teacherParams: number;
  readonly teacherTokens: number;
  readonly studentTokens: number;
  readonly studentLoss: number;
  /** True where the laws give all to the teacher and leave the student the fewest tokens allowed. */
  readonly isStarved: boolean;
  /** Where the best teacher that touches no bound lies, for a search nearby. */
  readonly start: Start | null;
}

/** Ln N_T and the odds of its training in the budget. */
export type Start = readonly [n: number, odds: number];

interface Found {
  n: number;
  d: number;
  loss: number;
  start?: Start;
}

const NOTHING: Found = { n: 0, d: 0, loss: Infinity };

const agreeing = new WeakMap<Ensemble, boolean>();

/** True if all laws have one supervised half, so that a teacher's loss is the same under each. */
function agreeOnTeachers(ensemble: Ensemble): boolean {
  let found = agreeing.get(ensemble);
  if (found === undefined) {
    const first = JSON.stringify(ensemble[0]!.plain);
    agreeing.set(ensemble, (found = ensemble.every((law) => JSON.stringify(law.plain) === first)));
  }
  return found;
}

/** One student with its budget, and what a teacher (ln N_T, ln D_T) costs it and brings. */
export class Cell {
  readonly training: number;
  private readonly agree: boolean;

  constructor(
    readonly ensemble: Ensemble,
    readonly n: number,
    readonly compute: number,
    readonly shares: CostShares,
    readonly fewest: number,
    readonly forward: (params: number) => number,
    readonly effective: (d: number) => number,
  ) {
    this.training = constants().training_factor * forward(Math.exp(n));
    this.agree = agreeOnTeachers(ensemble);
  }

  withScouts(): Cell {
    if (this.ensemble.length <= SCOUTS) return this;
    const some = thinned(this.ensemble, SCOUTS);
    return new Cell(some, this.n, this.compute, this.shares, this.fewest, this.forward, this.effective);
  }

  perToken(price: number): number {
    return this.training + this.shares.logits * price;
  }

  teacherTraining(price: number, d: number): number {
    return this.shares.training * constants().training_factor * price * Math.exp(d);
  }

  /** Ln D_S that the teacher leaves; one below the fewest where it leaves less than that. */
  studentTokens(price: number, d: number): number {
    const left = (this.compute - this.teacherTraining(price, d)) / this.perToken(price);
    return Math.log(Math.max(left, Math.exp(this.fewest - 1)));
  }

  price(n: number): number {
    return this.forward(Math.exp(n));
  }

  /** Mean L_S; infinite where the student gets too few tokens. */
  loss(n: number, d: number, studentTokens: number): number {
    if (!(studentTokens >= this.fewest - 1e-6)) return Infinity;
    const own = this.effective(studentTokens);
    const taught = this.effective(d);
    let t = 0;
    let alone = 0;
    let total = 0;
    for (let k = 0; k < this.ensemble.length; k++) {
      const law = this.ensemble[k]!;
      if (k === 0 || !this.agree) {
        t = law.supervised(n, taught);
        alone = law.supervised(this.n, own);
      }
      total += Math.exp(law.distilled(this.n, own, t, alone));
    }
    return total / this.ensemble.length;
  }

  /** The same with the tokens that this teacher leaves; above every loss where they are too few. */
  atTeacher(n: number, d: number): number {
    const price = this.price(n);
    const tokens = this.studentTokens(price, d);
    if (tokens >= this.fewest - 1e-6) return this.loss(n, d, tokens);
    const spent = this.teacherTraining(price, d) + this.perToken(price) * Math.exp(this.fewest);
    return UNPAID * Math.max(spent / this.compute, 1);
  }

  /** The same from the odds of teacher training in the budget. */
  atOdds(n: number, odds: number): number {
    const { d, student } = this.divided(n, odds);
    return this.loss(n, d, student);
  }

  /** Ln D_T and ln D_S of a teacher size and the odds. */
  divided(n: number, odds: number): { d: number; student: number } {
    const price = this.price(n);
    const student = Math.log(this.compute / this.perToken(price));
    const teacher = Math.log(this.compute / (this.shares.training * constants().training_factor * price));
    return { d: teacher - logAddExp(0, -odds), student: student - logAddExp(0, odds) };
  }
}

/**
 * The best teacher; null where none leaves compute for the fewest student tokens.
 *
 * @param cell - the student and its budget.
 * @param bounds - the teachers allowed.
 * @param starts - where to look inside the bounds: what was best for a student of nearly this size. Without them a grid
 *   over the whole range is searched first.
 */
export function bestTeacher(cell: Cell, bounds: Bounds, starts: readonly Start[] = []): BestTeacher | null {
  const largest = clip(largestPaid(cell, bounds), ...bounds.params);
  const inside = searchInside(cell, bounds, starts.length ? starts : gridStarts(cell, bounds, largest));
  const rim = searchRim(cell, bounds, largest, inside.loss);
  const best = rim.loss < inside.loss ? rim : inside;
  if (!(best.loss < UNPAID)) return null;
  const student = cell.studentTokens(cell.price(best.n), best.d);
  return {
    teacherParams: Math.exp(best.n), teacherTokens: Math.exp(best.d), studentTokens: Math.exp(student),
    studentLoss: cell.loss(best.n, best.d, student), isStarved: student <= cell.fewest + AT_BOUND,
    start: inside.start ?? null,
  };
}

/** The lowest loss of a coarse grid: within twice `NEAR` of what a whole search finds. */
export function scoutedLoss(cell: Cell, bounds: Bounds): number {
  const largest = clip(largestPaid(cell, bounds), ...bounds.params);
  const grid = gridOf(cell.withScouts(), bounds, largest, 2 * SPACING, ODDS / 2);
  return grid === null ? Infinity : Math.min(...grid.loss);
}

export { NEAR };

type Line = (x: number) => [number, number];

/** The edges of the box, and the teachers that leave the student its fewest tokens and no more. */
function linesOf(cell: Cell, bounds: Bounds, largest: number): Line[] {
  const [[small, large], [few, many]] = [bounds.params, bounds.tokens];
  const between = (a: number, b: number, x: number) => a + (b - a) * x;
  return [
    (x) => [small, between(few, many, x)],
    (x) => [between(small, large, x), many],
    (x) => [between(small, large, x), few],
    (x) => [large, between(few, many, x)],
    (x) => {
      const n = between(small, largest, x);
      const price = cell.price(n);
      const left = cell.compute - cell.perToken(price) * Math.exp(cell.fewest);
      return [n, clip(Math.log(Math.max(left / cell.teacherTraining(price, 0), Math.exp(few))), few, many)];
    },
  ];
}

function searchRim(cell: Cell, bounds: Bounds, largest: number, within: number): Found {
  const scouts = cell.withScouts();
  const grid = linspace(0, 1, EDGE_POINTS);
  const lines = linesOf(cell, bounds, largest);
  const heights = lines.map((line) => Math.min(...Array.from(grid, (x) => scouts.atTeacher(...line(x)))));
  const bound = Math.min(within, ...heights);
  let best = NOTHING;
  lines.forEach((line, i) => {
    if (!((1 - NEAR) * heights[i]! < bound)) return;
    const x = lowest((at) => cell.atTeacher(...line(at)), 0, 1, EDGE_POINTS);
    const [n, d] = line(x);
    const loss = cell.atTeacher(n, d);
    if (loss < best.loss) best = { n, d, loss };
  });
  return best;
}

/** The best teacher that touches no bound. */
function searchInside(cell: Cell, bounds: Bounds, starts: readonly Start[]): Found {
  let best = NOTHING;
  for (const [first, second] of starts) {
    const isLost = (n: number, odds: number) => isOutside(n, cell.divided(n, odds).d, bounds, BEYOND);
    const at = newton((n, odds) => cell.atOdds(n, odds), first, second, isLost);
    const { d } = cell.divided(at.x, at.y);
    if (!isOutside(at.x, d, bounds, 0) && at.value < best.loss) best = { n: at.x, d, loss: at.value, start: [at.x, at.y] };
  }
  return best;
}

/** The deepest valleys of a grid over the whole range. */
function gridStarts(cell: Cell, bounds: Bounds, largest: number): Start[] {
  const grid = gridOf(cell.withScouts(), bounds, largest, SPACING, ODDS);
  return grid === null ? [] : deepest(grid.loss, grid.rows, ODDS).map((k) => [grid.n[k]!, grid.odds[k]!]);
}

interface Grid {
  rows: number;
  n: Float64Array;
  odds: Float64Array;
  loss: Float64Array;
}

/** Losses on sizes x divisions of the budget; null where no teacher can be paid for. */
function gridOf(cell: Cell, bounds: Bounds, largest: number, spacing: number, divisions: number): Grid | null {
  const low = bounds.params[0];
  const rows = Math.max(6, Math.ceil((largest - low) / spacing));
  const [n, odds, loss] = [0, 0, 0].map(() => new Float64Array(rows * divisions)) as [
    Float64Array, Float64Array, Float64Array,
  ];
  let isAny = false;
  for (let i = 0; i < rows; i++) {
    const size = low + ((i + 0.5) / rows) * (largest - low);
    const range = rangeOfOdds(cell, bounds, cell.price(size));
    for (let j = 0; j < divisions; j++) {
      const k = i * divisions + j;
      n[k] = size;
      odds[k] = range ? range[0] + ((j + 0.5) / divisions) * (range[1] - range[0]) : 0;
      loss[k] = range ? cell.atOdds(size, odds[k]!) : Infinity;
      isAny ||= Number.isFinite(loss[k]!);
    }
  }
  return isAny ? { rows, n, odds, loss } : null;
}

function rangeOfOdds(cell: Cell, bounds: Bounds, price: number): [number, number] | null {
  const most = 1 - (Math.exp(cell.fewest) * cell.perToken(price)) / cell.compute;
  const low = cell.teacherTraining(price, bounds.tokens[0]) / cell.compute;
  const high = Math.min(cell.teacherTraining(price, bounds.tokens[1]) / cell.compute, most);
  const odds = (share: number) => Math.log(share) - Math.log1p(-share);
  return high > low ? [odds(low), odds(high)] : null;
}

/** Indices of the lowest grid points that are not above any neighbour; then the next best points. */
function deepest(loss: Float64Array, rows: number, columns: number): number[] {
  const around = (i: number, j: number) =>
    i < 0 || j < 0 || i >= rows || j >= columns ? Infinity : loss[i * columns + j]!;
  const rank = Array.from(loss, (value, k) => {
    const [i, j] = [Math.floor(k / columns), k % columns];
    let isValley = true;
    for (let a = -1; a <= 1; a++) {
      for (let b = -1; b <= 1; b++) if ((a || b) && around(i + a, j + b) < value) isValley = false;
    }
    return { k, isValley, value };
  });
  rank.sort((a, b) => Number(b.isValley) - Number(a.isValley) || a.value - b.value);
  return rank.slice(0, VALLEYS).map((r) => r.k);
}

/** Ln N_T of the largest teacher that leaves compute for the fewest tokens. */
function largestPaid(cell: Cell, bounds: Bounds): number {
  const sizes = linspace(bounds.params[0], bounds.params[1], 257);
  const fewest = Math.exp(cell.fewest);
  const each = cell.shares.logits * fewest + cell.teacherTraining(1, bounds.tokens[0]);
  const left = Math.max(cell.compute - cell.training * fewest, 0) / each;
  return interpolate(left, sizes.map((n) => cell.price(n)), sizes);
}

function isOutside(n: number, d: number, bounds: Bounds, by: number): boolean {
  const [[small, large], [few, many]] = [bounds.params, bounds.tokens];
  return n < small - by || n > large + by || d < few - by || d > many + by;
}
