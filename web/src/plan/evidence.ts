/** What one source says: losses of every strategy and draws of the gains. Mirrors `distillaw/planning/evidence.py`. */
import { type DoubtData, type VoiceData, constants, data, lawsOf } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { argMax } from "../laws/numerics";
import type { Bill } from "./bills";
import { type Belief, type Interval, intervalOf } from "./draws";
import type { Kind } from "./options";
import { type TextScale, SAME_TEXT } from "./predictions";
import type { Teacher } from "./situation";

export interface Strategy {
  readonly name: string;
  readonly kind: Kind;
  readonly teacher: Teacher | null;
  readonly studentParams: number;
  readonly studentTokens: number;
  readonly compute: Bill;
  readonly loss: Interval;
  readonly teacherLoss: number | null;
  /** Over pretraining alone; null for pretraining. */
  readonly gain: Interval | null;
  /** Probability that this teacher is the best of those considered. */
  readonly shareBest: number | null;
  readonly taught: number;
  readonly cutOf: Teacher | null;
  readonly isSpeculative: boolean;
}

export interface Evidence {
  readonly source: string;
  readonly kind: string;
  readonly status: string;
  readonly note: string;
  readonly isDecisive: boolean;
  readonly insideRange: boolean;
  /** False for a source that has no losses to give. */
  readonly hasNumbers: boolean;
  readonly pretrain: Strategy | null;
  readonly alternatives: readonly Strategy[];
  /** Draws of the gain over pretraining, one array per alternative. */
  readonly gains: readonly Float64Array[];
  readonly beliefs: readonly Belief[];
  readonly warnings: readonly string[];
  readonly farOutside: boolean;
  /** Too short to judge a teacher, and nothing else keeps it from deciding: cuts are judged all the same. */
  readonly isShort: boolean;
  /** By the law the teacher does harm, and no weight of its term was said. */
  readonly unsaid: boolean;
  /** E-folds outside the fitted range, by coordinate. */
  readonly outside: Readonly<Record<string, number>>;
  /** Standard deviation of a gain that the ensemble does not show. */
  readonly doubt: number;
  /** Share of a positive gain by a published law that is counted. */
  readonly kept: number;
  /** The user's losses over the law's. */
  readonly scale: TextScale;
  /** Where the question lies, by coordinate of the fitted range. */
  readonly coords: Readonly<Record<string, readonly number[]>>;
  /** The sources behind a consensus. */
  readonly sources: readonly string[] | null;
}

/** A source without numbers. */
export function silent(
  given: Pick<Evidence, "source" | "kind" | "status" | "note"> & { warnings?: readonly string[] },
): Evidence {
  return {
    isDecisive: false, insideRange: false, hasNumbers: false, pretrain: null, alternatives: [], gains: [], beliefs: [], warnings: [],
    farOutside: false, isShort: false, unsaid: false, outside: {}, doubt: 0, kept: 1, scale: SAME_TEXT, coords: {}, sources: null, ...given,
  };
}

export function speaks(e: Evidence): boolean {
  return e.hasNumbers;
}

/** False where the numbers are so far out of range that showing them would only mislead. */
export function isInformative(e: Evidence): boolean {
  return speaks(e) && e.status !== "OUT_OF_RANGE" && !e.farOutside;
}

/** The sources behind it; none where it may not decide. */
export function deciding(e: Evidence): readonly string[] {
  return e.isDecisive ? (e.sources ?? [e.source]) : [];
}

/** Column of the distillation with the highest mean gain that is more than an estimate. */
export function bestIndex(e: Evidence): number {
  const means = e.alternatives.map((row) =>
    row.teacher !== null && !row.isSpeculative ? row.gain!.mean : -Infinity,
  );
  return argMax(means);
}

export function best(e: Evidence): Strategy {
  return e.alternatives[bestIndex(e)]!;
}

/** Column of a larger student that is better than the student itself, trained alone; -1 where there is none. */
function largerIndex(e: Evidence): number {
  return e.alternatives.findIndex((row) => row.teacher === null && !row.isSpeculative && row.gain!.mean > 0);
}

/** Pretraining at the student's size, or a larger student where that is better. */
export function bestPretrain(e: Evidence): Strategy {
  const j = largerIndex(e);
  return j < 0 ? e.pretrain! : e.alternatives[j]!;
}

/** Draws of the best distillation's gain over the best pretraining. */
export function gainDraws(e: Evidence): Float64Array {
  const taught = e.gains[bestIndex(e)]!;
  const j = largerIndex(e);
  if (j < 0) return taught;
  const larger = e.gains[j]!;
  return taught.map((gain, i) => gain - larger[i]!);
}

/** Rows with the gains of their columns (where they have none yet), and how often each teacher is the best of those that a law describes. */
export function withGains(rows: readonly Strategy[], gains: readonly Float64Array[], level: number): Strategy[] {
  const judged = rows.flatMap((row, j) => (row.teacher !== null && !row.isSpeculative ? [j] : []));
  const wins = new Map(judged.map((j) => [j, 0]));
  const count = gains[0]?.length ?? 0;
  for (let i = 0; i < count && judged.length; i++) {
    let winner = judged[0]!;
    for (const j of judged) if (gains[j]![i]! > gains[winner]![i]!) winner = j;
    wins.set(winner, wins.get(winner)! + 1);
  }
  return rows.map((row, j) => ({
    ...row,
    gain: row.gain ?? intervalOf(gains[j]!, level),
    shareBest: wins.has(j) ? wins.get(j)! / count : null,
  }));
}

export interface Voice extends Omit<VoiceData, "ensemble"> {
  readonly ensemble: Ensemble | null;
}

const made = new Map<VoiceData, Voice>();

function voiceOf(given: VoiceData): Voice {
  let found = made.get(given);
  if (!found) made.set(given, (found = { ...given, ensemble: given.ensemble && lawsOf(given.ensemble) }));
  return found;
}

/** Voices in order of trust: the laws asked for by name, then the published ones. */
export function findVoices(asked: readonly string[]): Voice[] {
  const first = asked.map((name) => voiceOf(data().asked.find((one) => one.name === name)!.voice));
  const sources = new Set(first.map((v) => v.source));
  const found = [...first, ...data().published.map(voiceOf).filter((v) => !sources.has(v.source))];
  if (!found.some((v) => v.kind === "fitted" && v.ensemble !== null)) return found;
  // beside fits of the user's own the recipe is theirs: the teacher's term alone
  return found.map((v) => (v.learnt === null ? v : { ...v, learnt: { ...v.learnt, alone: 1, alone_of_cuts: 1 } }));
}

/** Standard deviation, as a share of the loss, at e-folds outside by coordinate. */
export function doubtAt(doubt: DoubtData, outside: Readonly<Record<string, number>>): number {
  return Math.hypot(
    doubt.at_home,
    doubt.per_efold * (outside.student_params ?? 0),
    doubt.per_efold * (outside.student_tokens ?? 0),
    doubt.per_loss * (outside.teacher_loss ?? 0),
  );
}

/** How many e-folds the farthest of some points lies outside a range, by coordinate; inside is left out. */
export function efoldsOutside(
  range: VoiceData["range"], coords: Readonly<Record<string, readonly number[]>>,
): Record<string, number> {
  const found: Record<string, number> = {};
  for (const [name, low, high] of range) {
    const weight = constants().efold_weight[name] ?? 1;
    const away = (coords[name] ?? []).map((v) => weight * Math.max(Math.log(low / v), Math.log(v / high)));
    const worst = Math.max(0, ...away);
    if (worst > weight * constants().edge) found[name] = worst;
  }
  return found;
}
