/** The words of a verdict. Mirrors `distillaw/planning/wording.py`: the page says what the command says. */
import type { CellData } from "../data/bundle";
import { budgetText, formatCount, formatFlop, times } from "../quantities";
import type { Crossover } from "./crossover";
import { type Answer, type Call, leadsDistilling } from "./decision";
import {
  type Evidence, type Strategy, best, bestPretrain, gainDraws, isInformative, speaks,
} from "./evidence";
import type { Flip } from "./flips";
import { type Interval, intervalOf } from "./intervals";
import { mean } from "../laws/numerics";
import type { EqualCompute, Verdict } from "./plan";
import { type Situation, called, sizeText } from "./situation";

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

/** `a 0.1M student on 0.5M tokens` or `... within 1e21 FLOP`. */
function student(s: Situation): string {
  if (s.studentTokens !== null) return `a ${sizeText(s)} student on ${budgetText(s.studentTokens)} tokens`;
  return `a ${sizeText(s)} student within ${formatFlop(s.compute!)}`;
}

/** The verdict in one sentence, with probability and interval. */
export function sentenceOf(
  s: Situation, headline: Evidence, answer: Call, equal: EqualCompute | null, level: number,
): string {
  return main(s, headline, answer, level) + but(answer, headline, equal);
}

function main(s: Situation, headline: Evidence, answer: Call, level: number): string {
  const gain = intervalOf(gainDraws(headline), level);
  const margin = `${nats(answer.margin)} nats/token`;
  if (answer.verdict === "distil") {
    return (
      `${capital(best(headline).name)}: ${percent(answer.probability)} likely to beat pretraining by more than ` +
      `${margin} for ${student(s)}; gain ${stated(gain, level)}`
    );
  }
  if (answer.verdict === "pretrain") {
    const alone = bestPretrain(headline);
    const how = alone.kind === "pretrain-larger" ? capital(alone.name) : "Pretrain without a teacher";
    const flipped = { mean: -gain.mean, lower: -gain.upper, upper: -gain.lower };
    return (
      `${how}: ${percent(answer.probability)} likely to beat the best teacher considered by more than ${margin} for ` +
      `${student(s)}; gain ${stated(flipped, level)} over the best of them`
    );
  }
  if (!headline.isDecisive) {
    return (
      `Unknown for ${student(s)}: no evidence reaches it. ${capital(headline.source)} are all there is: ` +
      headline.note
    );
  }
  const leading = leadsDistilling(headline, answer) ? best(headline) : bestPretrain(headline);
  return (
    `Too close to call for ${student(s)}: ${percent(answer.distil)} that distilling is better by more than ${margin}, ` +
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

export function reasonsOf(
  evidence: readonly Evidence[], headline: Evidence, crossover: Crossover | null, equal: EqualCompute | null,
  level: number,
): string[] {
  const taken = best(headline);
  const how = headline.isDecisive ? "Decided by" : "Shown, not believed:";
  const found = [`${how} ${headline.source}: ${headline.note}.`];
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
  if (headline.isDecisive && crossover !== null && crossover.median === null) found.push(noCrossover(crossover));
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
  headline: Evidence, crossover: Crossover | null, answer: Call, equal: EqualCompute | null,
  searched: readonly Flip[], level: number,
): string[] {
  if (!headline.isDecisive) {
    return ["the student was measured: a pair of runs with and without a teacher outweighs everything said here"];
  }
  const found: string[] = [];
  if (crossover !== null && crossover.median !== null && answer.verdict === "distil") {
    found.push(crossoverSentence(crossover, level));
  }
  found.push(...searched.map((flip) => flip.sentence));
  if (equal?.call && equal.call.verdict !== answer.verdict) {
    found.push(
      `pretraining may spend the same FLOP, that is ${formatCount(equal.pretrainTokens)} tokens: then ` +
        `${equal.call.verdict} (gain of distilling ${intervalText(equal.gain!)})`,
    );
  }
  if (answer.verdict === "distil") found.push(...distilFlips(headline, answer));
  if (answer.verdict !== "too-close") {
    found.push(
      `a difference of ${nats(Math.abs(mean(gainDraws(headline))))} nats/token did not matter to you (this verdict ` +
        `asks for more than ${nats(answer.margin)})`,
    );
  }
  return found;
}

/** What would take the gain of distilling away. */
function distilFlips(headline: Evidence, answer: Call): string[] {
  const judged = headline.alternatives.filter((row) => row.teacher !== null && !row.isSpeculative);
  const worst = judged.reduce((a, b) => (b.gain!.mean < a.gain!.mean ? b : a));
  if (judged.length < 2 || worst.gain!.mean >= answer.margin) return [];
  return [`only ${called(worst.teacher!)} was at hand: gain ${intervalText(worst.gain!)}`];
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
    `the student saw more than ${formatCount(band.median!)} tokens [${low} to ${high}, ${(100 * level).toFixed(0)} % ` +
    `band], where training without a teacher catches up${none} (${band.source})`
  );
}

