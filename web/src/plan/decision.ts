/**
 * From evidence to a verdict. Mirrors `distillaw/planning/decision.py`.
 *
 *     gain   = loss of pretraining - loss of the best distillation, nats/token, as draws
 *     distil if P(gain > margin) is at least `sure`, pretrain if P(-gain > margin) is, else too close to call
 */
import { type Answer, constants } from "../data/bundle";
import { mean } from "../laws/numerics";
import { say } from "../words";
import { type Interval, agreedDraws, intervalOf } from "./draws";
import { type Evidence, type Strategy, bestIndex, gainDraws, speaks, withGains } from "./evidence";
import type { Teacher } from "./situation";

export interface Call {
  readonly verdict: Answer;
  readonly probability: number;
  readonly distil: number;
  readonly pretrain: number;
  readonly margin: number;
}

/** Turn the draws of one source into a choice. */
export function call(evidence: Evidence): Call {
  const margin = constants().margin * evidence.pretrain!.loss.mean;
  if (!evidence.isDecisive) {
    return { verdict: "too-close", probability: 0.5, distil: 0.5, pretrain: 0.5, margin };
  }
  const gain = gainDraws(evidence);
  let [above, below] = [0, 0];
  for (const x of gain) {
    if (x > margin) above++;
    else if (x < -margin) below++;
  }
  // (k + 1/2) / (R + 1): a finite number of draws never proves certainty
  const said = (count: number) => tempered(evidence, (count + 0.5) / (gain.length + 1));
  const [distil, pretrain] = [said(above), said(below)];
  const lead = Math.max(distil, pretrain);
  let verdict: Answer = "too-close";
  if (lead >= constants().sure) verdict = distil > pretrain ? "distil" : "pretrain";
  return { verdict, probability: lead, distil, pretrain, margin };
}

/** A probability by published laws alone, with what they say nothing of; any other as it is. */
function tempered({ kind }: Evidence, probability: number): number {
  const { surprise, published } = constants();
  return published.includes(kind) ? (1 - surprise) * probability + surprise / 2 : probability;
}

/** Whether a cut is the better start, where the verdict is on random ones. */
export interface StartCall {
  /** The best strategy that begins as a cut, and the best one that begins from random weights. */
  readonly row: Strategy;
  readonly other: Strategy;
  /** Of the first over the second. */
  readonly gain: Interval;
  /** P(gain > margin), and P(-gain > margin). */
  readonly pruned: number;
  readonly random: number;
}

/** The call between the best cut and the best random start; null where no cut is judged. */
export function betterStart(e: Evidence, answer: Call, level: number): StartCall | null {
  if (!e.isDecisive && !e.isShort) return null;
  const best = (js: readonly number[]) => js.reduce((a, b) => (mean(e.gains[b]!) > mean(e.gains[a]!) ? b : a));
  const of = (isCut: boolean) =>
    e.alternatives.flatMap((row, j) => (isCut ? row.cutOf !== null && row.isSpeculative : !row.isSpeculative) ? [j] : []);
  if (!of(true).length) return null;
  const cut = best(of(true));
  const other = best(of(false));
  const isAlone = mean(e.gains[other]!) <= 0;
  const over = e.gains[other]!;
  const gains = e.gains[cut]!.map((x, i) => x - (isAlone ? 0 : over[i]!));
  const share = (sign: number) =>
    tempered(e, (gains.filter((x) => sign * x > answer.margin).length + 0.5) / (gains.length + 1));
  return {
    row: e.alternatives[cut]!, other: isAlone ? e.pretrain! : e.alternatives[other]!, gain: intervalOf(gains, level),
    pruned: share(1), random: share(-1),
  };
}

/** The same as verdicts are called. */
export function startText({ pruned, random }: StartCall): string {
  if (Math.max(pruned, random) < constants().sure) return "too-close";
  return pruned > random ? "pruned" : "random";
}

/** What is lost, nats/token, if the choice turns out wrong. */
export function regret(evidence: Evidence, answer: Call, level: number): Interval {
  const gain = gainDraws(evidence);
  const distils =
    answer.verdict === "too-close" ? leadsDistilling(evidence, answer) : answer.verdict === "distil";
  const lost = new Float64Array(gain.length);
  let count = 0;
  for (let i = 0; i < gain.length; i++) {
    const loss = distils ? -gain[i]! : gain[i]!;
    if (loss > 0) lost[count++] = loss;
  }
  return count ? intervalOf(lost.subarray(0, count), level) : { mean: 0, lower: 0, upper: 0 };
}

/** What to do if one must choose: a teacher that should gain what matters; else the cheaper way, without one. */
export function leadsDistilling(evidence: Evidence, answer: Call): boolean {
  return mean(gainDraws(evidence)) > answer.margin;
}

/** What carries the verdict: the witnesses that may decide, put together; else the first that has numbers. */
export function choose(evidence: readonly Evidence[], level: number): Evidence {
  const found = witnesses(evidence);
  if (!found.length) return evidence.find(speaks)!;
  return found.length === 1 ? found[0]! : agree(found, level);
}

/** At most one deciding source of each kind, in order of trust. */
export function witnesses(evidence: readonly Evidence[]): Evidence[] {
  const found = new Map<string, Evidence>();
  for (const one of evidence) {
    const kind = one.kind === "surrogate" ? "published" : one.kind;
    if (speaks(one) && one.isDecisive && !found.has(kind)) found.set(kind, one);
  }
  return [...found.values()];
}

const ids = new WeakMap<Teacher, number>();
let count = 0;

/** What makes two rows the same strategy: the name and the teacher. */
function keyOf(row: Strategy): string {
  if (row.teacher === null) return row.name;
  let id = ids.get(row.teacher);
  if (id === undefined) ids.set(row.teacher, (id = count++));
  return `${row.name}\u0000${id}`;
}

/** Several sources as one: gains multiplied as densities, all else from the first, which is trusted most. */
function agree(sources: readonly Evidence[], level: number): Evidence {
  const lead = sources[0]!;
  const places = sources.map((e) => new Map(e.alternatives.map((row, j) => [keyOf(row), j])));
  const keys = [...new Set(places.flatMap((at) => [...at.keys()]))];
  const rows: Strategy[] = [];
  const gains: Float64Array[] = [];
  for (const key of keys) {
    const those = sources.flatMap((e, i) => (places[i]!.has(key) ? [{ e, j: places[i]!.get(key)! }] : []));
    const first = those[0]!;
    const order = first.e.gains[first.j]!;
    const weights = those.map(({ e }) =>
      e.kind === "published" || e.kind === "surrogate" ? constants().other_text_weight : 1,
    );
    gains.push(those.length > 1 ? agreedDraws(those.map(({ e, j }) => e.beliefs[j]!), order, weights) : order);
    rows.push({ ...first.e.alternatives[first.j]!, gain: null });
  }
  const found = withGains(rows, gains, level).map((row) => moved(row, lead.pretrain!));
  const together: Evidence = {
    ...lead, hasNumbers: true,
    source: say("consensus", { sources: sources.map((e) => e.source).join(" and ") }),
    kind: "consensus",
    note: say("first", { source: lead.source, note: lead.note }),
    alternatives: found,
    gains,
    beliefs: [],
    warnings: [...new Set(sources.flatMap((e) => e.warnings))],
    sources: sources.map((e) => e.source),
  };
  const best = keys[bestIndex(together)]!; // the lead may not know it: then the range is that of the first who does
  return { ...together, insideRange: sources[places.findIndex((at) => at.has(best))]!.insideRange };
}

/** A row with its loss shifted to fit the gain agreed on. */
function moved(row: Strategy, pretrain: Strategy): Strategy {
  const shift = pretrain.loss.mean - row.gain!.mean - row.loss.mean;
  return { ...row, loss: { mean: row.loss.mean + shift, lower: row.loss.lower + shift, upper: row.loss.upper + shift } };
}

/** A sentence where two sources that may decide put the gain into intervals that do not meet. */
export function disagreement(evidence: readonly Evidence[], level: number): string | null {
  const bands = evidence
    .filter((e) => speaks(e) && e.isDecisive)
    .map((e) => ({ source: e.source, band: intervalOf(gainDraws(e), level) }));
  for (let i = 0; i < bands.length; i++) {
    for (const { source, band } of bands.slice(i + 1)) {
      const { source: one, band: a } = bands[i]!;
      if (Math.max(a.lower, band.lower) <= Math.min(a.upper, band.upper)) continue;
      const shown = ({ lower, upper }: Interval) => say("ends", { lower, upper });
      return say("disagree", { one, other: source, a: shown(a), b: shown(band) });
    }
  }
  return null;
}

