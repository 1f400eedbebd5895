/** By what free sizes are chosen, and what every search for them shares. Mirrors `_Choice` of `distillaw/planning/options.py`. */
import { constants } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { effectiveTokens, forwardFlop, sharesOf } from "./bills";
import { type Bounds, Cell } from "./optimum";
import { type Situation, teacher } from "./situation";

export interface Choice {
  readonly s: Situation;
  readonly ensemble: Ensemble;
  readonly sizePrior: number;
  /** Ever finer grids over sizes. */
  readonly zooms: number;
}

/** Points of every grid over sizes. */
export const GRID = 33;
/** Sizes of teachers considered, over the student's. */
const TEACHERS = [0.1, 1e4] as const;

/** 1 + w ln(D / 20 N)^2, towards the usual ratio of tokens to parameters. */
export function pull(choice: Choice, params: number, tokens: number): number {
  return 1 + choice.sizePrior * Math.log(tokens / (constants().usual_ratio * params)) ** 2;
}

/** The size that the budget trains on the fewest tokens per parameter: 6 N^2 ratio = C. */
export function largestAffordable(s: Situation): number {
  const { smallest_ratio, smallest_student } = constants();
  return Math.max(Math.sqrt(s.compute! / (6 * smallest_ratio)), 2 * smallest_student);
}

/** One student on what serving leaves of the bill, with the teachers allowed to a range of students. */
export function cellOf(choice: Choice, size: number, smallest: number, largest: number): [Cell, Bounds] {
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
