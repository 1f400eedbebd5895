/**
 * The best teacher to train for one student and one bill. Mirrors `distillaw/planning/optimum.py`
 * for teachers whose training is paid, which is the one case that a plan searches.
 *
 * Two coordinates, ln N_T and the odds of teacher training in the budget, from the deepest valleys of a grid; and the
 * edge of what is allowed, line by line.
 */
import { constants } from "../data/bundle";
import { type Ensemble, thinned } from "../laws/law";
import { clip, interpolate, linspace, logAddExp, lowest, mean } from "../laws/numerics";
import type { CostShares } from "./situation";

const SPACING = 0.7;
const ODDS = 28;
const VALLEYS = 3;
const SCOUTS = 16;
const EDGE_POINTS = 41;
const NEAR = 0.03;
const UNPAID = 1e30;
const BEYOND = 0.3;
/** Points less than so many e-folds apart are the bottom of one valley. */
const APART = 1e-3;
const AT_BOUND = 1e-6;

export interface Bounds {
  /** Ln of the smallest and the largest teacher. */
  readonly params: readonly [number, number];
  readonly tokens: readonly [number, number];
}

/** A teacher that touches no bound: ln N_T and the odds of its training in the budget. */
export type Start = readonly [n: number, odds: number];

interface BestTeacher {
  readonly teacherParams: number;
  readonly teacherTokens: number;
  readonly studentTokens: number;
  readonly studentLoss: number;
  /** True where the laws give all to the teacher and leave the student the fewest tokens allowed. */
  readonly isStarved: boolean;
  /** The bottoms of all valleys found, for a search nearby; none where a bound was best. */
  readonly starts: readonly Start[];
}

interface Found {
  n: number;
  d: number;
  loss: number;
  starts: Start[];
}

const NOTHING: Found = { n: 0, d: 0, loss: Infinity, starts: [] };

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

  price(n: number): number {
    return this.forward(Math.exp(n));
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
  atTeacher(n: number, d: number, price: number): number {
    const tokens = this.studentTokens(price, d);
    if (tokens >= this.fewest - 1e-6) return this.loss(n, d, tokens);
    const spent = this.teacherTraining(price, d) + this.perToken(price) * Math.exp(this.fewest);
    return UNPAID * Math.max(spent / this.compute, 1);
  }

  /** Loss by the odds of teacher training in the budget, for one size of teacher. */
  ofOdds(n: number): (odds: number) => number {
    const { student, teacher } = this.whole(n);
    return (odds) => this.loss(n, teacher - logAddExp(0, -odds), student - logAddExp(0, odds));
  }

  /** Ln D_T of a teacher size and the odds. */
  teacherTokens(n: number, odds: number): number {
    return this.whole(n).teacher - logAddExp(0, -odds);
  }

  /** By law ln L_T of the best sizes for such FLOP of training, both ascending; one row where all laws agree on teachers. */
  teacherLosses(spent: Float64Array, sizes: Float64Array): Float64Array[] {
    const budgets = spent.map((flop) => Math.log(flop));
    const costs = sizes.map((n) => Math.log(this.teacherTraining(this.price(n), 0)));
    return (this.agree ? this.ensemble.slice(0, 1) : this.ensemble).map((law) => {
      let i = 0; // the best size grows with its budget
      return budgets.map((budget) => {
        const lossOf = (j: number) => law.supervised(sizes[j]!, this.effective(budget - costs[j]!));
        let best = lossOf(i);
        for (let next; i + 1 < sizes.length && (next = lossOf(i + 1)) <= best; i++) best = next;
        return best;
      });
    });
  }

  /** What no teacher beats: on what each training leaves, its logits free, every law with the one it likes best. */
  boundBelow(spent: Float64Array, teachers: readonly Float64Array[]): number {
    const lowest = new Float64Array(this.ensemble.length).fill(Infinity);
    spent.forEach((flop, i) => {
      const tokens = Math.log((this.compute - flop) / this.training);
      if (!(tokens >= this.fewest)) return;
      const d = this.effective(tokens);
      let alone = 0;
      this.ensemble.forEach((law, k) => {
        if (k === 0 || !this.agree) alone = law.supervised(this.n, d);
        const t = teachers[this.agree ? 0 : k]![i]!;
        lowest[k] = Math.min(lowest[k]!, law.distilled(this.n, d, t, alone));
      });
    });
    return mean(lowest.map(Math.exp));
  }

  /** Ln tokens of either side if it had the whole budget. */
  private whole(n: number): { student: number; teacher: number } {
    const price = this.price(n);
    return {
      student: Math.log(this.compute / this.perToken(price)),
      teacher: Math.log(this.compute / this.teacherTraining(price, 0)),
    };
  }
}

/** The best teacher; null where none leaves compute for the fewest student tokens. */
export function bestTeacher(cell: Cell, bounds: Bounds): BestTeacher | null {
  const largest = clip(largestPaid(cell, bounds), ...bounds.params);
  const inside = searchInside(cell, bounds, gridStarts(cell, bounds, largest));
  const rim = searchRim(cell, bounds, largest, inside.loss);
  const best = rim.loss < inside.loss ? rim : inside;
  return best.loss < UNPAID ? taughtBy(cell, best) : null;
}

/** The same from what was best for students of nearly this size, where none of theirs touched a bound. */
export function bestTeacherNear(cell: Cell, bounds: Bounds, starts: readonly Start[]): BestTeacher | null {
  const inside = starts.length ? searchInside(cell, bounds, starts) : NOTHING;
  return inside.loss < UNPAID ? taughtBy(cell, inside) : bestTeacher(cell, bounds);
}

function taughtBy(cell: Cell, best: Found): BestTeacher {
  const student = cell.studentTokens(cell.price(best.n), best.d);
  return {
    teacherParams: Math.exp(best.n), teacherTokens: Math.exp(best.d), studentTokens: Math.exp(student),
    studentLoss: cell.loss(best.n, best.d, student), isStarved: student <= cell.fewest + AT_BOUND, starts: best.starts,
  };
}

/** Ln N_T and ln D_T along an edge, and the price of a teacher's token there. */
type Line = (x: number) => readonly [n: number, d: number, price: number];

/** The edges of the box, and the teachers that leave the student its fewest tokens and no more. */
function linesOf(cell: Cell, bounds: Bounds, largest: number): Line[] {
  const [[small, large], [few, many]] = [bounds.params, bounds.tokens];
  const between = (a: number, b: number, x: number) => a + (b - a) * x;
  const [ofSmall, ofLarge, fewest] = [cell.price(small), cell.price(large), Math.exp(few)];
  return [
    (x) => [small, between(few, many, x), ofSmall],
    (x) => [between(small, large, x), many, cell.price(between(small, large, x))],
    (x) => [between(small, large, x), few, cell.price(between(small, large, x))],
    (x) => [large, between(few, many, x), ofLarge],
    (x) => {
      const n = between(small, largest, x);
      const price = cell.price(n);
      const left = cell.compute - cell.perToken(price) * Math.exp(cell.fewest);
      return [n, clip(Math.log(Math.max(left / cell.teacherTraining(price, 0), fewest)), few, many), price];
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
    const [n, d, price] = line(x);
    const loss = cell.atTeacher(n, d, price);
    if (loss < best.loss) best = { n, d, loss, starts: [] };
  });
  return best;
}

/** The best teacher that touches no bound. */
function searchInside(cell: Cell, bounds: Bounds, starts: readonly Start[]): Found {
  let best = NOTHING;
  const found: Start[] = [];
  for (const [first, second] of starts) {
    const isLost = (n: number, odds: number) => isOutside(n, cell.teacherTokens(n, odds), bounds, BEYOND);
    const at = newton((n) => cell.ofOdds(n), first, second, isLost);
    const d = cell.teacherTokens(at.x, at.y);
    if (isOutside(at.x, d, bounds, 0) || !(at.value < Infinity)) continue;
    if (found.every(([n, odds]) => Math.hypot(at.x - n, at.y - odds) > APART)) found.push([at.x, at.y]);
    if (at.value < best.loss) best = { n: at.x, d, loss: at.value, starts: found };
  }
  return best;
}

/** The deepest valleys of a grid over the whole range. */
function gridStarts(cell: Cell, bounds: Bounds, largest: number): Start[] {
  const grid = gridOf(cell.withScouts(), bounds, largest);
  return grid === null ? [] : deepest(grid.loss, grid.rows, ODDS).map((k) => [grid.n[k]!, grid.odds[k]!]);
}

interface Grid {
  rows: number;
  n: Float64Array;
  odds: Float64Array;
  loss: Float64Array;
}

/** Losses on sizes x divisions of the budget; null where no teacher can be paid for. */
function gridOf(cell: Cell, bounds: Bounds, largest: number): Grid | null {
  const low = bounds.params[0];
  const rows = Math.max(6, Math.ceil((largest - low) / SPACING));
  const [n, odds, loss] = [0, 0, Infinity].map((x) => new Float64Array(rows * ODDS).fill(x)) as [
    Float64Array, Float64Array, Float64Array,
  ];
  for (let i = 0; i < rows; i++) {
    const size = low + ((i + 0.5) / rows) * (largest - low);
    n.fill(size, i * ODDS, (i + 1) * ODDS);
    const range = rangeOfOdds(cell, bounds, cell.price(size));
    if (!range) continue;
    const lossOf = cell.ofOdds(size);
    for (let j = 0; j < ODDS; j++) {
      const k = i * ODDS + j;
      odds[k] = range[0] + ((j + 0.5) / ODDS) * (range[1] - range[0]);
      loss[k] = lossOf(odds[k]!);
    }
  }
  return loss.some(Number.isFinite) ? { rows, n, odds, loss } : null;
}

function rangeOfOdds(cell: Cell, bounds: Bounds, price: number): [number, number] | null {
  const least = (Math.exp(cell.fewest) * cell.perToken(price)) / cell.compute; // the student's share, however small
  const most = 1 - least;
  const low = cell.teacherTraining(price, bounds.tokens[0]) / cell.compute;
  const high = Math.min(cell.teacherTraining(price, bounds.tokens[1]) / cell.compute, most);
  // 1 - share of a share near one is rounded to nothing
  const odds = (share: number) => Math.log(share) - Math.log(Math.max(1 - share, least));
  return high > low ? [odds(low), odds(high)] : null;
}

/** Indices of the lowest grid points that are not above any neighbour; then the next best points. */
function deepest(loss: Float64Array, rows: number, columns: number): number[] {
  const lowestFirst = (a: number, b: number) => loss[a]! - loss[b]!;
  const all = Array.from(loss.keys());
  const valleys = all.filter((k) => isValley(loss, rows, columns, k)).sort(lowestFirst);
  if (valleys.length >= VALLEYS) return valleys.slice(0, VALLEYS);
  return [...valleys, ...all.filter((k) => !valleys.includes(k)).sort(lowestFirst)].slice(0, VALLEYS);
}

function isValley(loss: Float64Array, rows: number, columns: number, k: number): boolean {
  const [i, j] = [Math.floor(k / columns), k % columns];
  for (let a = Math.max(i - 1, 0); a <= Math.min(i + 1, rows - 1); a++) {
    for (let b = Math.max(j - 1, 0); b <= Math.min(j + 1, columns - 1); b++) {
      if (loss[a * columns + b]! < loss[k]!) return false;
    }
  }
  return true;
}

const SIZES = 257;

/** Ln N_T of the largest teacher that leaves compute for the fewest tokens: linear between so many sizes. */
function largestPaid(cell: Cell, bounds: Bounds): number {
  const [small, large] = bounds.params;
  const fewest = Math.exp(cell.fewest);
  const each = cell.shares.logits * fewest + cell.teacherTraining(1, bounds.tokens[0]);
  const left = Math.max(cell.compute - cell.training * fewest, 0) / each;
  const size = (i: number) => small + ((large - small) / (SIZES - 1)) * i;
  let [low, high] = [0, SIZES - 1];
  if (left <= cell.price(small)) return small;
  if (left >= cell.price(large)) return large;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (cell.price(size(middle)) <= left) low = middle;
    else high = middle;
  }
  const [from, to] = [size(low), size(high)];
  return interpolate(left, [cell.price(from), cell.price(to)], [from, to]);
}

function isOutside(n: number, d: number, bounds: Bounds, by: number): boolean {
  const [[small, large], [few, many]] = [bounds.params, bounds.tokens];
  return n < small - by || n > large + by || d < few - by || d > many + by;
}

/** Heights along y at one x. */
type Surface = (x: number) => (y: number) => number;

interface Point {
  x: number;
  y: number;
  value: number;
}

const STENCIL = 2e-3;
const STEPS = 60;
const LONGEST = 1;

/** From one start; a step is taken only if it goes down. The value is infinite for a search that left its domain. */
function newton(surface: Surface, x: number, y: number, isLost: (x: number, y: number) => boolean): Point {
  let value = surface(x)(y);
  let radius = LONGEST;
  for (let i = 0; i < STEPS && Number.isFinite(value); i++) {
    const { dx, dy, expected } = step(surface, x, y, radius);
    const there = surface(x + dx)(y + dy);
    const length = Math.hypot(dx, dy);
    if (there < value) {
      x += dx;
      y += dy;
      value = there;
      radius = Math.min(LONGEST, Math.max(radius, 2 * length));
    } else radius = length / 4;
    if (isLost(x, y)) return { x, y, value: Infinity };
    if (expected < 1e-15 * Math.abs(value) || radius < 1e-7) break;
  }
  return { x, y, value };
}

/** The step to the bottom of the quadratic through nine points, no longer than the radius, and what it expects. */
function step(surface: Surface, x: number, y: number, radius: number) {
  const h = STENCIL;
  const f: number[] = [];
  let isWhole = true;
  for (const i of [-1, 0, 1]) {
    const column = surface(x + h * i);
    for (const j of [-1, 0, 1]) {
      const value = column(y + h * j);
      f.push(value);
      isWhole &&= Number.isFinite(value);
    }
  }
  if (!isWhole) return { dx: 0, dy: 0, expected: 0 }; // beside the domain: no slope known
  const at = (i: number, j: number) => f[3 * (i + 1) + j + 1]!;
  const gx = (at(1, 0) - at(-1, 0)) / (2 * h);
  const gy = (at(0, 1) - at(0, -1)) / (2 * h);
  const a = (at(1, 0) - 2 * at(0, 0) + at(-1, 0)) / (h * h);
  const c = (at(0, 1) - 2 * at(0, 0) + at(0, -1)) / (h * h);
  const b = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * h * h);
  const floor = 1e-9 * Math.abs(at(0, 0));
  const angle = 0.5 * Math.atan2(2 * b, a - c);
  const axes = [[Math.cos(angle), Math.sin(angle)], [-Math.sin(angle), Math.cos(angle)]] as const;
  const along = axes.map(([p, q]) => {
    const curvature = a * p * p + 2 * b * p * q + c * q * q;
    return -(gx * p + gy * q) / Math.max(Math.abs(curvature), floor);
  });
  const shrink = Math.min(1, radius / Math.max(Math.hypot(along[0]!, along[1]!), 1e-300));
  let [dx, dy, expected] = [0, 0, 0];
  axes.forEach(([p, q], k) => {
    const length = along[k]! * shrink;
    dx += p * length;
    dy += q * length;
    expected -= ((gx * p + gy * q) * length) / 2;
  });
  return { dx, dy, expected };
}
