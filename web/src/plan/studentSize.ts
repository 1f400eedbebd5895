/**
 * The student's size that is best with the best teacher trained for it: the lowest point of the same finer and finer
 * grids as in `distillaw/planning/options.py`, of which only what can matter is evaluated.
 *
 * Every size costs a search for its teacher. A bound from below says which sizes need none: the teacher's training paid,
 * its logits free, its size the best for its compute. Around the best size the grids only refine one smooth valley, so
 * its bottom is sought instead, with teachers near those known, and the nearest point of the finest grid is taken.
 */
import { constants } from "../data/bundle";
import { linspace, valley } from "../laws/numerics";
import { type Choice, GRID, cellOf, largestAffordable, pull } from "./choice";
import { type Cell, type Start, bestTeacherNear } from "./optimum";

/** Sizes whose bound lies within this share below the best are searched: the bound is taken on a grid. */
const SLACK = 0.01;
export function bestSizeWithTeacher(choice: Choice): number {
  const low = Math.log(constants().smallest_student);
  const high = Math.log(choice.s.maxParams ?? largestAffordable(choice.s));
  const sizes = linspace(low, high, GRID);
  const { best, starts } = searchSizes(choice, sizes);
  return Math.exp(refined(choice, sizes, best, starts));
}

/** Loss with the best teacher, as sizes are compared; infinite where no teacher can be paid for. */
function lossOf(choice: Choice, x: number, found: { studentLoss: number; studentTokens: number } | null): number {
  return found === null ? Infinity : found.studentLoss * pull(choice, Math.exp(x), found.studentTokens);
}

/**
 * Index of the best size of the whole range, and starts for searches beside it; none if a bound was best.
 *
 * The first size, of the lowest bound, is searched for all valleys; those of the others are the same, moved a little.
 */
function searchSizes(choice: Choice, sizes: Float64Array): { best: number; starts: readonly Start[] } {
  const [smallest, largest] = [Math.exp(sizes[0]!), Math.exp(sizes[GRID - 1]!)];
  const cells = Array.from(sizes, (x) => cellOf(choice, Math.exp(x), smallest, largest));
  const bounds = boundsBelow(cells.map(([cell]) => cell), cells[0]![1].params);
  const order = Array.from(bounds.keys()).sort((a, b) => bounds[a]! - bounds[b]!);
  let found: { best: number; starts: readonly Start[] } = { best: order[0]!, starts: [] };
  let lowest = Infinity;
  let starts: readonly Start[] = [];
  for (const i of order) {
    if (!((1 - SLACK) * bounds[i]! < lowest)) break;
    const teacher = bestTeacherNear(...cells[i]!, starts);
    if (!starts.length) starts = teacher?.starts ?? [];
    const loss = lossOf(choice, sizes[i]!, teacher);
    if (loss < lowest) [found, lowest] = [{ best: i, starts: teacher!.starts }, loss];
  }
  return found;
}

/**
 * The point of the finest grid around a point of the coarsest.
 *
 * One bottom serves all grids while the best teacher touches no bound. Bounds follow the grid, so where it touches one
 * every grid has a bottom of its own.
 */
function refined(choice: Choice, sizes: Float64Array, best: number, starts: readonly Start[]): number {
  let [grid, i] = [sizes, best];
  let bottom: number | null = null;
  for (let zoom = 1; zoom < choice.zooms; zoom++) {
    const [low, high] = [grid[Math.max(i - 1, 0)]!, grid[Math.min(i + 1, GRID - 1)]!];
    const [smallest, largest] = [Math.exp(low), Math.exp(high)];
    const taught = (x: number) => bestTeacherNear(...cellOf(choice, Math.exp(x), smallest, largest), starts);
    if (bottom === null || !taught(bottom)?.starts.length) {
      bottom = bottomOf((x) => lossOf(choice, x, taught(x)), grid[i]!, low, high);
    }
    grid = linspace(low, high, GRID);
    i = Math.round(((bottom - low) / (high - low)) * (GRID - 1));
  }
  return grid[i]!;
}

/** The bottom of a valley; an end of the range that is best is known by one look beside it. */
function bottomOf(curve: (x: number) => number, best: number, low: number, high: number): number {
  const beside = best + (best === high ? -1 : 1) * 1e-6 * (high - low);
  if ((best === low || best === high) && curve(best) < curve(beside)) return best;
  return valley(curve, low, high);
}

/** Odds of teacher training in the budget at which the bound is taken. */
const ODDS = linspace(-14, 4, 45);
const SPACING = 0.35;

/** For each student what no teacher that is paid for beats, up to the coarseness of the grids. */
function boundsBelow(cells: readonly Cell[], params: readonly [number, number]): number[] {
  const whole = Math.max(...cells.map((cell) => cell.compute));
  const spent = ODDS.map((odds) => whole / (1 + Math.exp(-odds)));
  const losses = cells[0]!.teacherLosses(spent, linspace(...params, Math.ceil((params[1] - params[0]) / SPACING) + 1));
  return cells.map((cell) => cell.boundBelow(spent, losses));
}
