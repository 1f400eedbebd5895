/**
 * Where pretraining catches up with one distillation, as a band. Mirrors `distillaw/planning/crossover.py`.
 */
import { constants } from "../data/bundle";
import { type Ensemble, thinned } from "../laws/law";
import { geomspace, lastTrue, linspace, lowest, mean } from "../laws/numerics";
import { formatSize } from "../quantities";
import { say } from "../words";
import { forwardFlop, studentTokensWorth, tokensOn } from "./bills";
import type { Evidence, Strategy, Voice } from "./evidence";
import { SAME_TEXT, teacherLosses, teacherOnLawText } from "./predictions";
import type { Situation } from "./situation";

export interface Crossover {
  /** Null where an end lies outside the range searched. */
  readonly lower: number | null;
  readonly median: number | null;
  readonly upper: number | null;
  readonly shareNone: number;
  readonly shareBefore: number;
  readonly searched: readonly [number, number];
  readonly source: string;
}

const SPAN = [0.1, 1000] as const;
const POINTS = 81;
const MEMBERS = 40;

interface Asked {
  voice: Voice;
  doubt: number;
  scale: number;
}

/** Bands in tokens (equal tokens) and in FLOP (equal bills); null where no law decides or the bill is unknown. */
export function lawCrossovers(
  s: Situation, voices: readonly Voice[], witnesses: readonly Evidence[], row: Strategy, level: number,
): { tokens: Crossover | null; compute: Crossover | null } {
  const asked = witnesses.flatMap((e): Asked[] => {
    const voice = voices.find((v) => v.source === e.source);
    return voice ? [{ voice, doubt: e.doubt, scale: e.scale.ratio }] : [];
  });
  if (!asked.length || row.teacher === null) return { tokens: null, compute: null };
  const source = asked.map((a) => a.voice.source).join(" and ");
  const tokens = geomspace(...SPAN, POINTS).map((x) => x * row.studentTokens);
  const byTokens = bandOver(s, asked, row, tokens, tokens, tokens, source, level);
  const total = row.compute.total;
  if (total === null) return { tokens: byTokens, compute: null };
  const student = forwardFlop(s, row.studentParams);
  const points = [...geomspace(...SPAN, POINTS)]
    .map((x) => {
      const c = x * total;
      return { c, own: tokensOn(s, c, student, null), taught: tokensOn(s, c, student, row.teacher) };
    })
    .filter((p) => p.own > 0 && p.taught > 0);
  const [c, own, taught] = (["c", "own", "taught"] as const).map((k) => Float64Array.from(points, (p) => p[k]));
  return { tokens: byTokens, compute: bandOver(s, asked, row, c!, own!, taught!, source, level) };
}

function bandOver(
  s: Situation, asked: readonly Asked[], row: Strategy, grid: Float64Array, own: Float64Array, taught: Float64Array,
  source: string, level: number,
): Crossover | null {
  if (grid.length < 2) return null;
  const crossed = asked.map((law) => crossingsOf(s, law, row, grid, own, taught).sort());
  const fewest = Math.min(...crossed.map((c) => c.length));
  // laws count alike, however many members they have
  const alike = crossed.flatMap((c) => Array.from({ length: fewest }, (_, k) => inverted(c, (k + 0.5) / fewest)));
  const all = Float64Array.from(alike).sort();
  const tail = (1 - level) / 2;
  const [lower, median, upper] = [tail, 0.5, 1 - tail].map((q) => {
    const end = inverted(all, q);
    return end > 0 && end < Infinity ? end : null;
  }) as [number | null, number | null, number | null];
  const share = (is: (x: number) => boolean) => all.filter(is).length / all.length;
  return {
    lower, median, upper, shareNone: share((x) => x === Infinity), shareBefore: share((x) => x === 0),
    searched: [grid[0]!, grid[grid.length - 1]!], source,
  };
}

/** numpy's `inverted_cdf` quantile of sorted values. */
function inverted(sorted: Float64Array, q: number): number {
  const at = sorted.length * q - 1;
  const below = Math.floor(at);
  return sorted[Math.max(0, at === below ? below : below + 1)]!;
}

/** First point of the grid where the gain is gone, by member and by quantile of the doubt. */
function crossingsOf(
  s: Situation, law: Asked, row: Strategy, grid: Float64Array, own: Float64Array, taught: Float64Array,
): Float64Array {
  const ensemble = thinned(law.voice.ensemble!, MEMBERS);
  const n = Math.log(row.studentParams);
  const scale = { ...SAME_TEXT, ratio: law.scale };
  const t = teacherLosses(ensemble, s, teacherOnLawText(scale, row.teacher!));
  const alone = own.map((x) => Math.log(studentTokensWorth(s, x, false)));
  const with_ = taught.map((x) => Math.log(studentTokensWorth(s, x, true)));
  const shifts = constants().doubt_quantiles.map((q) => law.doubt * q);
  const x = grid.map(Math.log);
  return Float64Array.from(
    ensemble.flatMap((member, k) => {
      const gain = grid.map(
        (_, i) =>
          law.scale * (Math.exp(member.supervised(n, alone[i]!)) - Math.exp(member.distilled(n, with_[i]!, t[k]!))),
      );
      return shifts.map((shift) => crossing(x, gain.map((g) => g + shift)));
    }),
  );
}

/** First tokens at which a positive gain turns to nothing: infinite where it never does, 0 where there is none. */
function crossing(x: Float64Array, gain: Float64Array): number {
  const start = gain.findIndex((g) => g > 0);
  if (start < 0) return 0;
  for (let i = start; i < gain.length - 1; i++) {
    if (gain[i]! > 0 && gain[i + 1]! <= 0) {
      return Math.exp(x[i]! + ((x[i + 1]! - x[i]!) * gain[i]!) / (gain[i]! - gain[i + 1]!));
    }
  }
  return Infinity;
}

const SIZES = 257;
const SIZE_SPAN = [1 / 8, 4096] as const;
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
function lossFromSize(
  ensemble: Ensemble, n: number, d: number, ratio: number, logSize: number,
): number[] {
  return ensemble.map((law) => Math.exp(law.distilled(n, d, law.supervised(logSize, logSize + Math.log(ratio)))));
}

export function teacherRange(s: Situation, voice: Voice, row: Strategy, scale: number): TeacherRange {
  const { params, tokens } = row.teacher ?? { params: null, tokens: null };
  const ratio = params && tokens ? tokens / params : constants().tokens_per_param;
  const n = Math.log(row.studentParams);
  const d = Math.log(studentTokensWorth(s, row.studentTokens, true));
  const curve = (x: number) => mean(lossFromSize(voice.ensemble!, n, d, ratio, x));
  const sizes = geomspace(...SIZE_SPAN, SIZES).map((x) => x * row.studentParams);
  const [low, high] = [Math.log(sizes[0]!), Math.log(sizes[SIZES - 1]!)];
  const at = lowest(curve, low, high, SIZES);
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
  const grid = linspace(at, end, SIZES);
  const first = grid.findIndex((x) => curve(x) > bound);
  if (first < 0) return { at: end, isOpen: true };
  return { at: lastTrue((x) => curve(x) <= bound, grid[first - 1]!, grid[first]!), isOpen: false };
}

export function rangeSentence(range: TeacherRange): string {
  const { tokensPerParam: ratio, best } = range;
  const low = range.isOpenBelow ? say("smallest searched") : formatSize(range.lower);
  const high = range.isOpenAbove ? say("largest searched") : formatSize(range.upper);
  const edge = range.atEdge ? say("or beyond") : "";
  return say("teacher size", { ratio, best, edge, low, high, flat: 100 * constants().flat });
}
