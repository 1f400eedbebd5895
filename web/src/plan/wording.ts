/** The words of a verdict. Mirrors `distillaw/planning/wording.py`: the page says what the command says. */
import type { CellData } from "../data/bundle";
import { formatCount, formatFlop, times } from "../quantities";
import type { Crossover } from "./crossover";
import { type Answer, type Call, leadsDistilling } from "./decision";
import {
  type Evidence, type Strategy, best, bestPretrain, gainDraws, isInformative, speaks,
} from "./evidence";
import { type Flip, THEN } from "./flips";
import { type Interval, intervalOf } from "./draws";
import { mean } from "../laws/numerics";
import type { EqualCompute, Supposed, Verdict } from "./plan";
import { type Situation, called, studentText } from "./situation";

export const TITLES: Record<Answer, string> = {
  distil: "Distil", pretrain: "Pretrain", "too-close": "Too close to call",
};

/** A probability as people say it; never 0 or 100 %. */
export function percent(probability: number): string {
  if (probability > 0.995) return "over 99 %";
  if (probability < 0.005) return "under 1 %";
  return `${(100 * probability).toFixed(0)} %`;
}

/** How sure the call is, beside its title. */
export function chance(v: Verdict): string {
  if (v.call.verdict !== "too-close") return `${percent(v.call.probability)} likely`;
  if (!v.headline.isDecisive) return "no law reaches this question";
  return `distilling ${percent(v.call.distil)}, pretraining ${percent(v.call.pretrain)}`;
}

/** The same of a verdict that the user's own runs gave. */
export function ofRuns(cell: CellData): string {
  return cell.verdict === "too-close" ? "by your own paired runs" : `${percent(cell.probability)} likely, by your own paired runs`;
}

/** A loss or gain with the digits its noise supports: three, or four where they mean something. */
export function nats(value: number, noise: number | null = null): string {
  return value.toFixed(noise !== null && noise < 0.002 ? 4 : 3);
}

/** `0.253 [0.236, 0.270]`. */
export function intervalText(value: Interval): string {
  const half = (value.upper - value.lower) / 2;
  return `${nats(value.mean, half)} [${nats(value.lower, half)}, ${nats(value.upper, half)}]`;
}

/** `0.253 nats/token [0.236, 0.270] (90 % interval)`. */
export function stated(value: Interval, level: number): string {
  const [shown, ...band] = intervalText(value).split(" ");
  return `${shown} nats/token ${band.join(" ")} (${(100 * level).toFixed(0)} % interval)`;
}

function capital(text: string): string {
  return text[0]!.toUpperCase() + text.slice(1);
}

/** The verdict in one sentence, with probability and interval. */
export function sentenceOf(
  s: Situation, headline: Evidence, answer: Call, equal: EqualCompute | null, supposed: Supposed | null, level: number,
): string {
  return main(s, headline, answer, level) + but(answer, headline, equal) + hadOne(supposed);
}

function main(s: Situation, headline: Evidence, answer: Call, level: number): string {
  const gain = intervalOf(gainDraws(headline), level);
  const margin = `${nats(answer.margin)} nats/token`;
  if (answer.verdict === "distil") {
    return (
      `${capital(best(headline).name)}: ${percent(answer.probability)} likely to beat pretraining by more than ` +
      `${margin} for ${studentText(s)}; gain ${stated(gain, level)}`
    );
  }
  if (answer.verdict === "pretrain") {
    const alone = bestPretrain(headline);
    const how = alone.kind === "pretrain-larger" ? capital(alone.name) : "Pretrain without a teacher";
    const flipped = { mean: -gain.mean, lower: -gain.upper, upper: -gain.lower };
    return (
      `${how}: ${percent(answer.probability)} likely to beat the best teacher considered by more than ${margin} for ` +
      `${studentText(s)}; gain ${stated(flipped, level)} over the best of them`
    );
  }
  if (!headline.isDecisive) {
    return (
      `Unknown for ${studentText(s)}: no evidence reaches it. ${capital(headline.source)} are all there is: ` +
      headline.note
    );
  }
  const leading = leadsDistilling(headline, answer) ? best(headline) : bestPretrain(headline);
  return (
    `Too close to call for ${studentText(s)}: ${percent(answer.distil)} that distilling is better by more than ${margin}, ` +
    `${percent(answer.pretrain)} that pretraining is; the gain of the best teacher is ${stated(gain, level)}. ` +
    `If you must choose now: ${leading.name}`
  );
}

/** Nobody should read the verdict without it: the same FLOP would give another answer, or one that nobody knows. */
function but(answer: Call, headline: Evidence, equal: EqualCompute | null): string {
  if (equal === null) return "";
  if (equal.call === null) {
    const alone = bestPretrain(headline).compute.total;
    if (answer.verdict !== "distil" || !alone) return "";
    return `; it takes ${times(equal.compute / alone)} times the FLOP, for which nobody knows what pretraining gives`;
  }
  if (equal.call.verdict === answer.verdict) return "";
  const words: Record<Answer, string> = {
    distil: "distilling is better", pretrain: "pretraining is better", "too-close": "it is too close to call",
  };
  return `; at equal FLOP ${words[equal.call.verdict]}`;
}

/** Nobody should read a verdict on a teacher that has to be trained without what one at hand would be worth. */
function hadOne(supposed: Supposed | null): string {
  if (supposed === null) return "";
  if (supposed.call.verdict !== "distil") return "; nor is it clear with a teacher already trained, at equal tokens";
  return `; with a teacher already trained, at equal tokens, ${percent(supposed.call.distil)} that distilling is better`;
}

function supposedSentence(supposed: Supposed): string {
  const teacher = supposed.row.teacher!;
  const trained = teacher.tokens === null ? "" : ` on ${formatCount(teacher.tokens)} tokens`;
  return (
    `Were ${called(teacher)}${trained} already trained, at no cost of this student, the gain of distilling from it at ` +
    `equal tokens would be ${intervalText(supposed.gain)} (--teacher names one that you have).`
  );
}

export function reasonsOf(
  evidence: readonly Evidence[], headline: Evidence, crossover: Crossover | null, equal: EqualCompute | null,
  supposed: Supposed | null, level: number,
): string[] {
  const taken = best(headline);
  const how = headline.isDecisive ? "Decided by" : "Shown, not believed:";
  const found = [`${how} ${headline.source}: ${headline.note}.`];
  if (supposed !== null) found.push(supposedSentence(supposed));
  if (!isInformative(headline)) return found;
  found.push(
    `Student loss ${nats(taken.loss.mean)} nats/token from ${teacherText(taken)}, ` +
      `${nats(bestPretrain(headline).loss.mean)} without a teacher.`,
  );
  const judged = headline.alternatives.filter((row) => row.teacher !== null && !row.isSpeculative);
  if (taken.shareBest !== null && judged.length > 1) {
    found.push(`Best of ${judged.length} teachers with probability ${percent(taken.shareBest)}.`);
  }
  if (equal !== null) found.push(equalSentence(equal));
  if (headline.isDecisive && crossover !== null) {
    found.push(crossover.median === null ? noCrossover(crossover) : crossoverSentence(crossover, level));
  }
  return found.concat(
    evidence
      .filter((e) => e.source !== headline.source && speaks(e) && e.isDecisive)
      .map((e) => `${capital(e.source)} put the gain at ${intervalText(intervalOf(gainDraws(e), level))}.`),
  );
}

function teacherText(row: Strategy): string {
  return row.teacherLoss === null ? called(row.teacher!) : `${called(row.teacher!)} (loss ${nats(row.teacherLoss)})`;
}

function equalSentence(equal: EqualCompute): string {
  const tokens = formatCount(equal.pretrainTokens);
  const spent = `At equal compute (${formatFlop(equal.compute)}; pretraining then gets ${tokens} tokens)`;
  if (equal.call === null || equal.gain === null) return `${spent} nobody knows: ${equal.basis}.`;
  const words: Record<Answer, string> = {
    distil: "distilling is still better", pretrain: "pretraining is better", "too-close": "it is too close",
  };
  return `${spent} ${words[equal.call.verdict]}: gain of distilling ${intervalText(equal.gain)} (${equal.basis}).`;
}

/** The nearest changes of input that change the answer. */
export function flipsIf(
  headline: Evidence, answer: Call, equal: EqualCompute | null, searched: readonly Flip[],
): string[] {
  if (!headline.isDecisive) {
    return ["the student was measured: a pair of runs with and without a teacher outweighs everything said here"];
  }
  const found = searched.map((flip) => flip.sentence);
  if (equal?.call && equal.call.verdict !== answer.verdict) {
    found.push(
      `pretraining may spend the same FLOP, that is ${formatCount(equal.pretrainTokens)} tokens: then ` +
        `${THEN[equal.call.verdict]} (gain of distilling ${intervalText(equal.gain!)})`,
    );
  }
  if (answer.verdict !== "too-close") {
    found.push(
      `a difference of ${nats(Math.abs(mean(gainDraws(headline))))} nats/token did not matter to you (this verdict ` +
        `asks for more than ${nats(answer.margin)})`,
    );
  }
  return found;
}

/** The middle of the draws lies outside the budgets searched: on which side, and how often. */
function noCrossover(band: Crossover): string {
  if (band.shareBefore > band.shareNone) {
    return (
      `Training without a teacher is ahead from ${formatCount(band.searched[0])} tokens on, where the search begins, ` +
      `in ${percent(band.shareBefore)} of the draws (${band.source}).`
    );
  }
  return (
    `Training without a teacher does not catch up before ${formatCount(band.searched[1])} tokens in ` +
    `${percent(band.shareNone)} of the draws (${band.source}).`
  );
}

function crossoverSentence(band: Crossover, level: number): string {
  const low = band.lower !== null ? formatCount(band.lower) : `before ${formatCount(band.searched[0])}`;
  const high = band.upper !== null ? formatCount(band.upper) : `beyond ${formatCount(band.searched[1])}`;
  const none = band.shareNone > 0.005 ? `; none in ${percent(band.shareNone)} of the draws` : "";
  return (
    `Catching up: at ${formatCount(band.median!)} tokens [${low} to ${high}, ${(100 * level).toFixed(0)} % band], where ` +
    `training without a teacher catches up${none} (${band.source}).`
  );
}
