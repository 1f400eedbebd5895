/**
 * How much the teacher's size matters for one student. Mirrors `distillaw/planning/teacher_curve.py` and what it needs
 * of `teacher_curve.py`.
 */
import { constants } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { geomspace, lastTrue, linspace, lowest, mean } from "../laws/numerics";
import { formatCount } from "../quantities";
import { effectiveTokens } from "./bills";
import type { Strategy } from "./evidence";
import type { Situation } from "./situation";
import type { Voice } from "./voices";

const POINTS = 257;
const SPAN = [1 / 8, 4096] as const;
const EDGE = 1e-6;

export interface TeacherRange {
  readonly tokensPerParam: number;
  /** Size at the bottom of the mean curve. */
  readonly best: number;
  readonly studentLoss: number;
  readonly atEdge: boolean;
  /** Sizes within `flat` of the loss. */
  readonly lower: number;
  readonly upper: number;
  readonly isOpenBelow: boolean;
  readonly isOpenAbove: boolean;
  readonly sizes: Float64Array;
  /** Mean over the laws, on the user's text. */
  readonly losses: Float64Array;
}

/** Loss of the student by law, nats/token of the law's text, from a teacher of this size on so many tokens per parameter. */
export function lossFromSize(
  ensemble: Ensemble, n: number, d: number, ratio: number, logSize: number,
): number[] {
  return ensemble.map((law) => Math.exp(law.distilled(n, d, law.supervised(logSize, logSize + Math.log(ratio)))));
}

export function teacherRange(s: Situation, voice: Voice, row: Strategy, scale: number): TeacherRange {
  const { params, tokens } = row.teacher ?? { params: null, tokens: null };
  const ratio = params && tokens ? tokens / params : constants().tokens_per_param;
  const n = Math.log(row.studentParams);
  const d = Math.log(effectiveTokens(s, row.studentTokens));
  const curve = (x: number) => mean(lossFromSize(voice.ensemble!, n, d, ratio, x));
  const sizes = geomspace(...SPAN, POINTS).map((x) => x * row.studentParams);
  const [low, high] = [Math.log(sizes[0]!), Math.log(sizes[POINTS - 1]!)];
  const at = lowest(curve, low, high, POINTS);
  const loss = curve(at);
  const [below, above] = [low, high].map((end) => edgeOf(curve, at, end, (1 + constants().flat) * loss));
  const near = EDGE * (high - low);
  return {
    tokensPerParam: ratio, best: Math.exp(at), studentLoss: scale * loss, atEdge: at - low < near || high - at < near,
    lower: Math.exp(below!.at), upper: Math.exp(above!.at), isOpenBelow: below!.isOpen, isOpenAbove: above!.isOpen,
    sizes, losses: sizes.map((x) => scale * curve(Math.log(x))),
  };
}

/** Where the mean leaves the flat range, on one side of the best. */
function edgeOf(curve: (x: number) => number, at: number, end: number, bound: number) {
  const grid = linspace(at, end, POINTS);
  const first = grid.findIndex((x) => curve(x) > bound);
  if (first < 0) return { at: end, isOpen: true };
  return { at: lastTrue((x) => curve(x) <= bound, grid[first - 1]!, grid[first]!), isOpen: false };
}

export function rangeSentence(range: TeacherRange): string {
  const low = range.isOpenBelow ? "the smallest searched" : formatCount(range.lower);
  const high = range.isOpenAbove ? "the largest searched" : formatCount(range.upper);
  return (
    `Teacher size: of teachers trained on ${formatCount(range.tokensPerParam)} tokens per parameter the best has ` +
    `${formatCount(range.best)}${range.atEdge ? " or beyond" : ""}; ${low} to ${high} are within ` +
    `${(100 * constants().flat).toFixed(1)} % of the loss.`
  );
}
