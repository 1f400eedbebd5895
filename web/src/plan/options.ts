/** What could be done with the budget. Mirrors `distillaw/planning/options.py`, which says what each kind means. */
import { constants } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { argMin, linspace, mean, valley } from "../laws/numerics";
import { QuestionError } from "../quantities";
import { say } from "../words";
import { effectiveTokens, forwardFlop, sharesOf, tokensBought, tokensFor } from "./bills";
import { type Bounds, type Start, bestTeacher, bestTeacherNear, Cell } from "./optimum";
import { handedOver, optionLoss, teacherLosses } from "./predictions";
import { type Situation, type Teacher, called, teacher, teacher as makeTeacher } from "./situation";
import { cutProblem, cutSource } from "./starts";

interface Choice {
  readonly s: Situation;
  readonly ensemble: Ensemble;
  readonly sizePrior: number;
  /** Ever finer grids over sizes. */
  readonly zooms: number;
}

/** Points of every grid over sizes. */
const GRID = 33;
/** Sizes of teachers considered, over the student's. */
const TEACHERS = [0.1, 1e4] as const;

/** 1 + w ln(D / 20 N)^2, towards the usual ratio of tokens to parameters. */
function pull(choice: Choice, params: number, tokens: number): number {
  return 1 + choice.sizePrior * Math.log(tokens / (constants().usual_ratio * params)) ** 2;
}

/** The size that the budget trains on the fewest tokens per parameter: 6 N^2 ratio = C. */
function largestAffordable(s: Situation): number {
  const { smallest_ratio, smallest_student } = constants();
  return Math.max(Math.sqrt(s.compute! / (6 * smallest_ratio)), 2 * smallest_student);
}

/** One student on what serving leaves of the bill, with the teachers allowed to a range of students. */
function cellOf(choice: Choice, size: number, smallest: number, largest: number): [Cell, Bounds] {
  const { s, ensemble } = choice;
  const shares = sharesOf(s, teacher({ name: "", params: 1, tokens: 1, exists: false }));
  const left = Math.max(s.compute! - forwardFlop(s, size) * s.inferenceTokens, 1);
  const repeated = (d: number) => (s.uniqueTokens === null ? d : Math.log(effectiveTokens(s, Math.exp(d))));
  const cell = new Cell(
    ensemble, Math.log(size), left, shares, Math.log(constants().smallest_ratio * smallest),
    (params) => forwardFlop(s, params), repeated,
  );
  const bounds: Bounds = {
    params: [Math.log(TEACHERS[0] * smallest), Math.log(TEACHERS[1] * largest)],
    tokens: [Math.log(smallest), Math.log(TEACHERS[1] ** 2 * largest)],
  };
  return [cell, bounds];
}

export type Kind =
  | "pretrain" | "pretrain-larger" | "distil" | "train-teacher" | "distil-then-pretrain"
  | "prune-and-distil" | "prune-and-pretrain";

export interface Option {
  readonly kind: Kind;
  readonly studentParams: number;
  readonly studentTokens: number;
  readonly teacher: Teacher | null;
  /** Share of the tokens that come with the teacher's targets. */
  readonly taught: number;
  /** What the student is cut out of; null begins from random weights. */
  readonly cutOf: Teacher | null;
  /** May not carry the verdict: an estimate, or another start than the one asked about. */
  readonly isSpeculative: boolean;
}

const ZOOMS = 5;
const SKETCH_ZOOMS = 2;

export function optionName(o: Option): string {
  const { name = "" } = o.teacher ?? {};
  const teacher = o.teacher === null ? "" : called(o.teacher);
  const source = o.cutOf === null ? "" : called(o.cutOf);
  const kind = o.kind === "prune-and-distil" && o.cutOf !== o.teacher ? "prune-and-distil-from" : o.kind;
  return say(`option ${kind}`, { name, teacher, source, params: o.studentParams, taught: 100 * o.taught });
}

/** All options, pretraining first; only that where no teacher can be paid for. */
export function findOptions(s: Situation, ensemble: Ensemble, isSketch: boolean, sizePrior: number): Option[] {
  const choice: Choice = { s, ensemble, sizePrior, zooms: isSketch ? SKETCH_ZOOMS : ZOOMS };
  const own = pretrain(choice);
  const source = s.start === "pruned" ? cutSource(s) : null;
  if (source !== null) {
    const taught = inOrder(s.teachers).map((t) => sized(choice, t, "distil")).filter((o) => o !== null);
    return [own, ...taught].map((o) => cut(o, source));
  }
  const found = [own, ...larger(choice, own)];
  const distilled = inOrder(s.teachers).map((t) => sized(choice, t, "distil")).filter((o) => o !== null);
  found.push(...distilled, ...trainTeacher(choice));
  const existing = distilled.filter((o) => o.teacher!.exists);
  if (existing.length && !isSketch) {
    const losses = existing.map((o) => mean(optionLoss(ensemble, s, o).loss));
    found.push(...distilThenPretrain(s, ensemble, existing[argMin(losses)]!));
    found.push(...cuts(s, own, existing));
  }
  return found;
}

/** By size, tokens and loss: draws go by place, and no answer hangs on the order in which teachers were named. */
function inOrder(teachers: readonly Teacher[]): Teacher[] {
  const by = (a: number | null, b: number | null) => (a ?? 0) - (b ?? 0);
  return [...teachers].sort((a, b) => by(a.params, b.params) || by(a.tokens, b.tokens) || by(a.loss, b.loss));
}

/** The same strategy from a cut. */
function cut(o: Option, cutOf: Teacher): Option {
  return { ...o, kind: o.teacher === null ? "prune-and-pretrain" : "prune-and-distil", cutOf };
}

/** Cuts of the teachers at hand, shown beside random starts. */
function cuts(s: Situation, alone: Option, existing: readonly Option[]): Option[] {
  const size = alone.studentParams;
  const reached = existing.filter((o) => !cutProblem(o.teacher!, size, s) && o.studentParams === size);
  const source = cutSource({ ...s, studentParams: size, teachers: reached.map((o) => o.teacher!) });
  const found = [...reached.map((o) => cut(o, o.teacher!)), ...(source === null ? [] : [cut(alone, source)])];
  return found.map((o) => ({ ...o, isSpeculative: true }));
}

/** Expected loss of a student of this size on the whole bill; infinite where it does not pay for training. */
function lossAt(choice: Choice, size: number, teacher: Teacher | null): number {
  const { s, ensemble } = choice;
  const tokens = tokensBought(s, size, teacher);
  if (!(tokens > constants().smallest_ratio * size)) return Infinity;
  const [n, d] = [Math.log(size), Math.log(effectiveTokens(s, tokens))];
  const t = teacher && teacherLosses(ensemble, s, teacher);
  const losses = ensemble.map((law, k) => Math.exp(t ? law.distilled(n, d, t[k]!) : law.supervised(n, d)));
  return mean(losses) * pull(choice, size, tokens);
}

function pretrain(choice: Choice): Option {
  const option = sized(choice, null, "pretrain");
  if (option !== null) return option;
  const { compute, inferenceTokens } = choice.s;
  const serving = inferenceTokens ? say("after serving", { tokens: inferenceTokens }) : "";
  throw new QuestionError(say("trains none", { compute: compute ?? 0, serving, least: constants().smallest_ratio }));
}

/** A larger student on the same bill, where one can be served and the budget is FLOP. */
function larger(choice: Choice, own: Option): Option[] {
  const { s } = choice;
  if (s.studentParams === null || s.compute === null || s.maxParams === null) return [];
  const free = { ...choice, s: { ...s, studentParams: null, teachers: [] } };
  const option = sized(free, null, "pretrain-larger", constants().larger * own.studentParams);
  return option === null ? [] : [option];
}

/** The option at the student's size, or at the best size where that is free; null where nothing is affordable. */
function sized(
  choice: Choice, teacher: Teacher | null, kind: Kind, least = constants().smallest_student,
): Option | null {
  const { s } = choice;
  const at = (size: number): Option | null => {
    const tokens = tokensFor(s, size, teacher);
    if (tokens === null) return null;
    return { kind, teacher, studentParams: size, studentTokens: tokens, taught: 1, cutOf: null, isSpeculative: false };
  };
  if (s.studentParams !== null) return at(s.studentParams);
  if (s.studentTokens !== null) return at(s.maxParams!); // more parameters on the same tokens are always better
  const high = s.maxParams ?? largestAffordable(s);
  if (!(least < high)) return null;
  const curve = (sizes: Float64Array) => sizes.map((x) => lossAt(choice, Math.exp(x), teacher));
  return at(Math.exp(zoomedLowest(curve, Math.log(least), Math.log(high), choice.zooms)));
}

/** The lowest point of a curve with several valleys: a grid, then ever finer grids around its best point. */
function zoomedLowest(
  curve: (grid: Float64Array) => Float64Array, low: number, high: number, zooms: number,
): number {
  let best = low;
  for (let zoom = 0; zoom < zooms; zoom++) {
    const grid = linspace(low, high, GRID);
    const i = argMin(curve(grid));
    best = grid[i]!;
    [low, high] = [grid[Math.max(i - 1, 0)]!, grid[Math.min(i + 1, GRID - 1)]!];
  }
  return best;
}

/** The best teacher that could be trained for this bill, and the student that it leaves money for. */
function trainTeacher(choice: Choice): Option[] {
  const { s } = choice;
  if (s.compute === null || !s.mayTrainTeacher) return [];
  const size = s.studentParams ?? bestSizeWithTeacher(choice);
  const best = bestTeacher(...cellOf(choice, size, size, size));
  if (best === null || best.isStarved) return [];
  const { teacherParams: params, teacherTokens: tokens } = best;
  const name = say("trained teacher", { params, tokens });
  const teacher = makeTeacher({ name, params, tokens, exists: false });
  const option = { teacher, studentParams: size, studentTokens: best.studentTokens, taught: 1 };
  return [{ ...option, kind: "train-teacher", cutOf: null, isSpeculative: false }];
}

/** The best share to be taught, on the same bill; nothing where an end of the range is best. */
function distilThenPretrain(s: Situation, ensemble: Ensemble, pure: Option): Option[] {
  const t = teacherLosses(ensemble, s, pure.teacher!);
  const curve = (shares: Float64Array) =>
    shares.map((share) => mean(handedOver(ensemble, s, pure, t, tokensAtShare(s, pure, share), share).after));
  const share = zoomedLowest(curve, 0.02, 0.98, ZOOMS);
  if (!(share > 0.03 && share < 0.97)) return [];
  const tokens = tokensAtShare(s, pure, share);
  return [{ ...pure, kind: "distil-then-pretrain", studentTokens: tokens, taught: share, isSpeculative: true }];
}

/** Tokens in all when only a share of them needs the teacher, on the bill of `pure`. */
function tokensAtShare(s: Situation, pure: Option, taught: number): number {
  if (s.studentTokens !== null) return s.studentTokens;
  if (pure.teacher!.params === null) return pure.studentTokens;
  const own = constants().training_factor * forwardFlop(s, pure.studentParams);
  const logits = sharesOf(s, pure.teacher).logits * forwardFlop(s, pure.teacher!.params);
  return (pure.studentTokens * (own + logits)) / (own + taught * logits);
}

/** Sizes whose bound lies within this share below the best are searched: the bound is taken on a grid. */
const SLACK = 0.01;
function bestSizeWithTeacher(choice: Choice): number {
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
