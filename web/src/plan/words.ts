/** What is said of a verdict: its sentence, reasons, what it takes for granted and what to be careful of. */
import { type Answer, type CellData, constants, data } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { mean } from "../laws/numerics";
import { formatCount } from "../quantities";
import { intervalText, percent, say } from "../words";
import { effectiveTokens, sharesOf } from "./bills";
import type { Crossover } from "./crossover";
import { type Call, type StartCall, disagreement, leadsDistilling } from "./decision";
import { type Interval, intervalOf } from "./draws";
import { type Evidence, type Strategy, best, bestPretrain, deciding, gainDraws, isInformative, speaks } from "./evidence";
import type { Flip } from "./flips";
import type { Sources } from "./judging";
import { readingsOf, repeated, repeatsDoubt } from "./learnt";
import type { Option } from "./options";
import type { EqualCompute, Supposed, Verdict } from "./plan";
import { type TextScale, deviation, optionLoss, teacherOnLawText } from "./predictions";
import { type Situation, type Teacher, called, comparison, studentText } from "./situation";
import { beginsFrom, logHeadStart } from "./starts";

/** The verdict in a word or two; where no law reaches there is nothing to call. */
export function titleOf(verdict: Verdict, measured: CellData | null): string {
  const answer = measured?.verdict ?? (verdict.headline.isDecisive ? verdict.call.verdict : null);
  return answer === null ? "Unknown" : titleText(answer);
}

export function titleText(answer: Answer): string {
  const title = data().words[answer].title;
  return title[0]! + title.slice(1).toLowerCase();
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

/** `0.253 nats/token [0.236, 0.270] (90 % interval)`. */
function stated(gain: Interval, level: number): string {
  const [value, ...band] = intervalText(gain).split(" ");
  return say("stated", { value: value!, band: band.join(" "), level: 100 * level });
}

/** The verdict in one sentence, with probability and interval, and what nobody should read it without. */
export function sentenceOf(
  s: Situation, headline: Evidence, answer: Call, equal: EqualCompute | null, supposed: Supposed | null, level: number,
): string {
  return main(s, headline, answer, level) + but(answer, headline, equal) + hadOne(supposed);
}

function main(s: Situation, headline: Evidence, answer: Call, level: number): string {
  const gain = intervalOf(gainDraws(headline), level);
  const [alone, distilled] = [bestPretrain(headline), best(headline)];
  const hangs = headline.unsaid && headline.isDecisive && answer.verdict === "too-close";
  const by = headline.kind !== "surrogate" ? "" : say(hangs ? "by unsaid" : "by"); // made-up sets are all there is
  const slots = { ...answer, by, student: studentText(s), gain: stated(gain, level) };
  if (answer.verdict === "distil") return say("distil", { ...slots, option: distilled.name });
  if (answer.verdict === "pretrain") {
    const flipped = { mean: -gain.mean, lower: -gain.upper, upper: -gain.lower };
    const option = alone.kind === "pretrain-larger" ? alone.name : say("alone");
    return say("pretrain", { ...slots, option, gain: stated(flipped, level) });
  }
  if (!headline.isDecisive) return say("unknown", { ...slots, source: headline.source, note: headline.note });
  return say("too close", { ...slots, leading: (leadsDistilling(headline, answer) ? distilled : alone).name });
}

/** The same FLOP would give another answer, or one that nobody knows. */
function but(answer: Call, headline: Evidence, equal: EqualCompute | null): string {
  if (equal === null) return "";
  if (equal.call !== null) {
    const { verdict } = equal.call;
    return verdict === answer.verdict ? "" : say("at equal FLOP", { words: data().words[verdict].at_equal_flop });
  }
  const alone = bestPretrain(headline).compute.total;
  return answer.verdict === "distil" && alone ? say("more FLOP", { ratio: equal.compute / alone }) : "";
}

/** What a teacher at hand would be worth, where one has to be trained. */
function hadOne(supposed: Supposed | null): string {
  if (supposed === null) return "";
  return supposed.call.verdict === "distil" ? say("with one", { distil: supposed.call.distil }) : say("nor with one");
}

export function reasonsOf(
  evidence: readonly Evidence[], headline: Evidence, crossover: Crossover | null, equal: EqualCompute | null,
  supposed: Supposed | null, start: StartCall | null, level: number,
): string[] {
  const taken = best(headline);
  const { source, note } = headline;
  const found = [say(headline.isDecisive ? "decided by" : "shown", { source, note })];
  if (supposed !== null) {
    const { tokens } = supposed.row.teacher!;
    const trained = tokens === null ? "" : say("trained on", { tokens });
    found.push(say("supposed", { teacher: called(supposed.row.teacher!), trained, gain: supposed.gain }));
  }
  if (!isInformative(headline)) return found;
  found.push(say("losses", { distilled: taken.loss.mean, teacher: teacherText(taken), alone: bestPretrain(headline).loss.mean }));
  const judged = headline.alternatives.filter((row) => row.teacher !== null && !row.isSpeculative);
  if (taken.shareBest !== null && judged.length > 1) found.push(say("best of", { count: judged.length, share: taken.shareBest }));
  if (equal !== null) found.push(equalSentence(equal));
  if (headline.isDecisive && crossover !== null) found.push(crossoverSentence(crossover, level));
  const others = evidence.filter((e) => e.source !== source && speaks(e) && e.isDecisive);
  found.push(...others.map((e) => say("put the gain", { source: e.source, gain: intervalOf(gainDraws(e), level) })));
  if (start === null) return found;
  const { row, other, gain, pruned: share } = start;
  return [...found, say("better start", { option: row.name, other: other.name, gain, share })];
}

function teacherText(row: Strategy): string {
  const teacher = called(row.teacher!);
  return row.teacherLoss === null ? teacher : say("teacher of loss", { teacher, loss: row.teacherLoss });
}

function equalSentence(equal: EqualCompute): string {
  const slots = { compute: equal.compute, tokens: equal.pretrainTokens, basis: equal.basis };
  if (equal.call === null || equal.gain === null) return say("equal unknown", slots);
  return say("equal compute", { ...slots, still: data().words[equal.call.verdict].still, gain: equal.gain });
}

function crossoverSentence(band: Crossover, level: number): string {
  const { median, lower, upper, shareBefore, shareNone, source, searched: [from, to] } = band;
  if (median === null) {
    // the middle of the draws lies outside the budgets searched: on which side, and how often
    return shareBefore > shareNone
      ? say("ahead from", { tokens: from, share: shareBefore, source })
      : say("not before", { tokens: to, share: shareNone, source });
  }
  const low = lower !== null ? formatCount(lower) : say("before", { tokens: from });
  const high = upper !== null ? formatCount(upper) : say("beyond", { tokens: to });
  const none = shareNone > 0.005 ? say("none in", { share: shareNone }) : "";
  return say("catching up", { caught_up: say("caught up", { median, low, high, level: 100 * level, none, source }) });
}

/** The nearest changes of input that change the answer. */
export function flipsIf(headline: Evidence, answer: Call, equal: EqualCompute | null, searched: readonly Flip[]): string[] {
  if (!headline.isDecisive) return [say("measured")];
  const found = searched.map((flip) => flip.sentence);
  if (equal?.call && equal.call.verdict !== answer.verdict) {
    const words = data().words[equal.call.verdict].then;
    found.push(say("same FLOP", { tokens: equal.pretrainTokens, words, gain: equal.gain! }));
  }
  if (answer.verdict !== "too-close") {
    found.push(say("did not matter", { gain: Math.abs(mean(gainDraws(headline))), margin: answer.margin }));
  }
  return found;
}

/** Sentences on what the comparison is and how it was counted. */
export function assumptions(s: Situation, evidence: readonly Evidence[], headline: Evidence, sources: Sources): string[] {
  const count = s.studentsServed;
  const found = [
    say("about loss"),
    say("compared at", {
      comparison: comparison(s).replaceAll("-", " "), paid: say("pays", { scenario: s.scenario, words: constants().paid[s.scenario]! }),
    }),
  ];
  if (s.budgetText) found.push(say("budget is", { budget: s.budgetText }));
  if (s.maxParams !== null) found.push(say("largest student", { params: s.maxParams, why: s.limitText }));
  if (headline.alternatives.some((row) => row.teacher !== null && !row.teacher.exists)) found.push(say("must be trained", { count }));
  if (s.logits === "stored") found.push(say("stored", { count }));
  if (s.inferenceTokens) found.push(say("serving", { tokens: s.inferenceTokens }));
  found.push(say("FLOP counted", { vocab: s.vocab, context: s.context }));
  found.push(...measuredTeachers(s, evidence, headline, sources), ...publishedGains(s, headline, sources));
  return [...found, ...repeats(s, headline), ...estimates(s, headline)];
}

/** What outcomes leave of a gain by published laws, where those speak. */
function publishedGains(s: Situation, headline: Evidence, sources: Sources): string[] {
  const law = sources.voices.find((v) => v.learnt !== null && deciding(headline).includes(v.source));
  if (!law?.learnt) return [];
  const found = headline.kept === 1 ? [] : [say("counted", { share: 100 * headline.kept, sd: 100 * law.learnt.per_gain })];
  const { compute, begun } = law.learnt;
  const readings = readingsOf(s, law.learnt);
  if (readings.length > 1) found.push(say(`recipe unsaid ${s.start}`, { share: 100 * mean(Float64Array.from(readings)) }));
  const often = repeated(s, best(headline).studentTokens);
  if (often) {
    const sd = 100 * repeatsDoubt(law.learnt, often);
    found.push(say("repeated gain", { share: 100 * often * law.learnt.repeated, sd }));
  }
  if (comparison(s) === "equal-compute") found.push(say("compute gain", { share: 100 * compute }));
  if (s.start === "pruned") found.push(say("begun gain", { share: 100 * begun }));
  return found;
}

/** What the losses that were given for teachers did: how much was put down to the text, how much to the teacher. */
function measuredTeachers(s: Situation, evidence: readonly Evidence[], headline: Evidence, sources: Sources): string[] {
  const named = [...deciding(headline), headline.source];
  const lead = evidence.find((e) => speaks(e) && (e.kind === "published" || e.kind === "surrogate") && named.includes(e.source));
  if (!lead || s.teachers.every((t) => t.loss === null)) return [];
  const { scale, source } = lead;
  if (scale.isGuess) return [say("text unknown")];
  const { ensemble } = sources.voices.find((v) => v.source === source)!;
  if (!scale.sd || ensemble === null) return [];
  const text = Math.log(scale.ratio);
  const found = s.teachers
    .filter((t) => t.loss !== null && t.params !== null && t.tokens !== null)
    .map((t) => {
      const d = deviation(ensemble, s, t);
      return say("text and teacher", {
        teacher: called(t), loss: t.loss!, off: perCent(d, "above", "below"), source, text: perCent(text, "harder", "easier"),
        sd: 100 * scale.sd, judged: perCent(d - text, "worse", "better"),
      });
    });
  return found.length ? [...found, say("tell apart"), ...whichWay(s, headline, ensemble, scale)] : [];
}

/** Whether a lower loss of the best teacher would be for the better: beyond the capacity gap it is not. */
function whichWay(s: Situation, headline: Evidence, ensemble: Ensemble, scale: TextScale): string[] {
  const { teacher: given, studentParams, studentTokens } = best(headline);
  const teacher = teacherOnLawText(scale, given);
  if (teacher === null || teacher.loss === null) return [];
  const { loss } = teacher;
  const option: Option = {
    kind: "distil", studentParams, studentTokens, teacher, taught: 1, cutOf: null, isSpeculative: false,
  };
  const at = (f: number) => mean(optionLoss(ensemble, s, { ...option, teacher: { ...teacher, loss: f * loss } }).loss);
  return [say(at(0.99) < at(1.01) ? "stronger" : "weaker", { teacher: called(teacher) })];
}

/** `3.2 % harder`: what it is above or below is the whole, so nothing is more than 100 % below. */
function perCent(log: number, above: string, below: string): string {
  return say(log > 0 ? above : below, { share: 100 * Math.abs(Math.expm1(log)) });
}

function repeats(s: Situation, headline: Evidence): string[] {
  const tokens = Math.max(...[headline.pretrain!, ...headline.alternatives].map((row) => row.studentTokens));
  const unique = s.uniqueTokens;
  if (unique === null || tokens <= unique) return [];
  return [say("repeats", { tokens, passes: tokens / unique, unique, worth: effectiveTokens(s, tokens) })];
}

/** What a hand-over and a cut rest on. */
function estimates(s: Situation, headline: Evidence): string[] {
  const rows = [headline.pretrain!, ...headline.alternatives];
  const found = rows.filter((row) => row.kind === "distil-then-pretrain").map((row) => say(`estimate ${row.kind}`));
  const row = rows.find(({ kind }) => kind === "prune-and-pretrain");
  if (!row) return found;
  const { studentParams } = row;
  const source = row.cutOf!;
  const [alone, taught] = [false, true].map((is) => Math.exp(logHeadStart(beginsFrom(s, source, studentParams), source, is)));
  const said = { source: called(source), alone: alone!, taught: taught!, factor: Math.exp(constants().start_law.spread) };
  const kept = (100 * studentParams) / source.params!;
  return [...found, say(row.isSpeculative ? "cuts beside" : "begins as a cut", { ...said, kept })];
}

/** Warnings, the gravest first. */
export function caveats(s: Situation, evidence: readonly Evidence[], headline: Evidence, sources: Sources): string[] {
  const found = [...unbelieved(evidence, headline, sources), ...headline.warnings];
  const conflict = disagreement(evidence, sources.level);
  if (conflict !== null) found.unshift(conflict);
  for (const row of [headline.pretrain!, ...headline.alternatives.filter((r) => !r.isSpeculative)]) {
    found.push(...odd(row, s, headline));
  }
  const judged = new Set(headline.alternatives.map((row) => row.teacher?.name));
  for (const t of s.teachers) {
    // nobody should think that they were judged
    if (!judged.has(t.name)) found.push(say("left out", { teacher: called(t), why: say(whyLeftOut(s, t)) }));
  }
  if (s.studentParams === null && s.compute !== null) found.push(say("chosen size"));
  for (const { source, status, note, kind, hasNumbers } of evidence) {
    const isQuiet = hasNumbers || ["NOT_FITTED", "TEACHER_SIZE"].includes(status);
    if (source !== headline.source && kind === "fitted" && !isQuiet) found.push(say("silent", { source, status, note }));
  }
  return [...new Set(found)];
}

function whyLeftOut(s: Situation, t: Teacher): string {
  const isTrainedHere = sharesOf(s, t).training > 0;
  if (s.compute === null) return isTrainedHere ? "must train beside" : "loss unknown";
  if (t.params === null) return "size unknown";
  return t.tokens === null && isTrainedHere ? "tokens unknown" : "bill too high";
}

/** Laws that were asked for and may not decide, and headlines that may not. */
function unbelieved(evidence: readonly Evidence[], headline: Evidence, sources: Sources): string[] {
  const found = evidence
    .filter((e) => sources.asked.includes(e.source) && !e.isDecisive && e.status !== "TEACHER_SIZE" && e.source !== headline.source)
    .map(({ source, status, note }) => say("asked for", { source, status, note }));
  if (headline.isDecisive) return found;
  return [say(headline.status === "REFUSED" ? "refused" : "not believed", { source: headline.source }), ...found];
}

/** A teacher that cannot help, and a student that hardly trains. */
function odd(row: Strategy, s: Situation, headline: Evidence): string[] {
  const found: string[] = [];
  const { name: option, teacher, teacherLoss: loss, compute: { total } } = row;
  const ratio = row.studentTokens / row.studentParams;
  if (ratio < constants().few_tokens) found.push(say("few tokens", { option, ratio }));
  if (teacher === null) return found;
  const own = headline.pretrain!.loss.mean;
  if (loss !== null && loss >= own) found.push(say("no better", { teacher: called(teacher), loss, own }));
  if (teacher.loss === null && teacher.exists) found.push(say("loss of the law", { teacher: called(teacher), loss: loss! }));
  if (teacher.params && teacher.params < row.studentParams / 1.25) found.push(say("smaller teacher", { option }));
  if (s.compute !== null && total !== null && total > 1.01 * s.compute) found.push(say("over budget", { option, total }));
  return found;
}
