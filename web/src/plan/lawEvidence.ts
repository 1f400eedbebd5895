/** What one voice says of all options: losses, and gains with their doubt. Mirrors `distillaw/planning/law_evidence.py`. */
import { constants, coordinateNames } from "../data/bundle";
import { argMin, mean } from "../laws/numerics";
import { times } from "../quantities";
import { say } from "../words";
import { bill, studentTokensWorth } from "./bills";
import { type Interval, beliefOfLaw, difference, drawnGains, drawnLosses, intervalOf } from "./draws";
import { type Evidence, type Strategy, type Voice, doubtAt, efoldsOutside, silent, withGains } from "./evidence";
import { countedGain, keptShare, learntDoubt, leftOf, readingsOf, tiled } from "./learnt";
import { type Option, optionName } from "./options";
import {
  type OptionLoss, type TextScale, isImplausible, movedScale, onLawText, onUserText, optionLoss, textScale,
} from "./predictions";
import type { Situation } from "./situation";
import { beginsFrom, startProblem } from "./starts";

type Coords = Record<string, number[]>;

/** Who is asked about what, and how. */
export interface Asked {
  readonly s: Situation;
  readonly options: readonly Option[];
  readonly level: number;
}

export function lawEvidence(
  asked: Asked, voice: Voice, ownLoss: number | null, given: TextScale | null,
): Evidence {
  const { s, options } = asked;
  if (voice.line !== null) return lineEvidence(s, voice, voice.line);
  if (voice.ensemble === null || options.length < 2) {
    const [status, note] = voice.ensemble ? ["NO_TEACHER", say("no teacher")] : [voice.status, voice.note];
    return silent({ source: voice.source, kind: voice.kind, status, note, warnings: voice.warnings });
  }
  const { ensemble } = voice;
  const own = ownLoss === null ? null : { option: options[0]!, loss: ownLoss };
  const scale = given ?? textScale(voice, s, own);
  const atHome = options.map((o) => optionLoss(ensemble, s, onLawText(scale, o)));
  const twins = options.map((o) => twinOf(asked, voice, o, atHome[0]!, scale));
  const places = options.map((_, j) => efoldsOutside(voice.range, coordsOfBoth(s, options, atHome, j)));
  const whole = taughtOf(options);
  const ofTaught = whole.map((j) => mean(counted(s, voice, options[j]!, atHome[j]!, twins[j]!, atHome[0]!, places[j]!).loss));
  const taught = whole[argMin(ofTaught)]!;
  const like = options.map((_, j) => likeOf(options, j, taught));
  const [coords, outside] = [coordsOfBoth(s, options, atHome, taught), places[taught]!];
  const reach = scale.isGuess ? Math.min(voice.doubt.reach, constants().far) : voice.doubt.reach;
  const perParam = Math.min(...[options[0]!, options[taught]!].map((o) => o.studentTokens / o.studentParams));
  const isShort = voice.learnt !== null && perParam < constants().fewest_per_param;
  const isFar = isShort || Math.max(0, ...Object.values(outside)) > reach;
  const isApart = !isFar && isImplausible(scale, options, atHome);
  const lines = complaints(s, voice, options, atHome, scale.ratio);
  const uncovered = startProblem(s);
  const doubts = new Map(whole.map((j) => [j, scale.ratio * doubtOf(asked, voice, atHome, twins, places[j]!, scale, j)]));
  const common = like.map((j) => doubts.get(j)!);
  const kept = keptShare(s, voice.learnt, outside);
  const isUnsaid = readingsOf(s, voice.learnt).length > 1 && mean(twins[taught]!) < mean(atHome[taught]!.loss);
  const short = isShort ? `; ${say("too short", { per_param: perParam, least: constants().fewest_per_param })}` : "";
  const predicted = atHome.map((p, j) => {
    const found = counted(s, voice, options[j]!, p, twins[j]!, atHome[0]!, places[like[j]!]!);
    return onUserText(scale, farBegun(s, voice, options[j]!, found));
  });
  const alone = predicted[0]!.loss;
  return {
    source: voice.source, kind: voice.kind, hasNumbers: true,
    ...draw(asked, predicted, common, voice.learnt?.common ?? constants().common),
    status: uncovered ? "NO_START_LAW" : isApart ? "OTHER_TEXT" : statusOf(voice, outside, isFar),
    note: uncovered ? say(uncovered) : isApart ? say("texts apart") : noteOf(voice, outside, isFar) + short,
    isDecisive: voice.may_decide && !isFar && !isApart && !uncovered, insideRange: !Object.keys(outside).length,
    beliefs: predicted.slice(1).map((p, j) =>
      beliefOfLaw(p.loss.map((x, k) => alone[k]! - x), Math.hypot(common[j + 1]!, p.doubt)),
    ),
    warnings: [...voice.warnings, ...lines], farOutside: isFar,
    isShort: isShort && !uncovered && Math.max(0, ...Object.values(outside)) <= reach, unsaid: isUnsaid, outside, doubt: common[taught]!, kept, scale, coords,
    sources: null,
  };
}

/** Losses of an option's student without its teacher: where tokens are equal, those of pretraining. */
function twinOf({ s, options }: Asked, voice: Voice, o: Option, alone: OptionLoss, scale: TextScale): Float64Array {
  const own = options[0]!;
  const same = o.studentParams === own.studentParams && o.studentTokens === own.studentTokens;
  if (same || o.teacher === null || voice.learnt === null || o.isSpeculative) return alone.loss;
  const twin = { ...own, studentParams: o.studentParams, studentTokens: o.studentTokens };
  return optionLoss(voice.ensemble!, s, onLawText(scale, twin)).loss;
}

/** An option with what outcomes leave of its gain. */
function counted(
  s: Situation, { learnt }: Voice, o: Option, p: OptionLoss, twin: Float64Array, alone: OptionLoss,
  outside: Record<string, number>,
): OptionLoss {
  const whole = tiled(alone.loss, readingsOf(s, learnt));
  if (learnt === null || o.teacher === null || (o.cutOf !== null && o.isSpeculative)) {
    return { ...p, loss: tiled(p.loss, readingsOf(s, learnt)) };
  }
  const gain = countedGain(s, learnt, outside, alone.loss, twin, p.loss, o.studentTokens, mean(p.teacherLoss!));
  return { ...p, loss: difference(whole, gain), doubt: keptShare(s, learnt, outside) * p.doubt };
}

/** Standard deviation of a gain that the ensemble does not show, nats/token of the law's text. */
function doubtOf(
  asked: Asked, voice: Voice, predicted: readonly OptionLoss[], twins: readonly Float64Array[],
  outside: Record<string, number>, scale: TextScale, j: number,
): number {
  const [taught, alone] = [asked.options[j]!, predicted[0]!.loss];
  let share = voice.learnt === null
    ? doubtAt(voice.doubt, outside)
    : learntDoubt(asked.s, voice.learnt, outside, alone, twins[j]!, predicted[j]!.loss, taught.studentTokens);
  if (scale.isGuess) share = Math.hypot(share, constants().other_text_doubt);
  const at = (z: number) => mean(optionLoss(voice.ensemble!, asked.s, onLawText(movedScale(scale, z), taught)).loss);
  const strong = () => mean(predicted[j]!.teacherLoss!) < mean(alone);
  const gains = () => Float64Array.of(-1, 1).map((z) => (mean(twins[j]!) - at(z)) / mean(alone));
  const ends = () => leftOf(asked.s, voice.learnt, outside, gains(), strong());
  const apart = (both: Float64Array) => {
    const [a, b] = [0, 1].map((end) => mean(both.filter((_, i) => i % 2 === end)));
    return (mean(alone) * Math.abs(a! - b!)) / 2;
  };
  const text = scale.sd && taught.teacher !== null ? apart(ends()) : 0;
  return Math.hypot(share * mean(predicted[0]!.loss), text, startDoubt(asked, voice, taught, scale));
}

/** Standard deviation of a gain between students of one cut, whose head start nobody knows exactly. */
function startDoubt({ s, options }: Asked, voice: Voice, taught: Option, scale: TextScale): number {
  if (s.start !== "pruned" || taught.teacher === null) return 0;
  const gainAt = (startShift: number) => {
    const at = (o: Option) => mean(optionLoss(voice.ensemble!, { ...s, startShift }, onLawText(scale, o)).loss);
    return at(options[0]!) - at(taught);
  };
  return Math.abs(gainAt(-1) - gainAt(1)) / 2;
}

/** A cut beside random starts, whose head start may lead beyond the law's range: with the doubt of that. */
function farBegun(s: Situation, voice: Voice, o: Option, p: OptionLoss): OptionLoss {
  if (o.cutOf === null || !o.isSpeculative) return p;
  const coords = coordsOf(beginsFrom(s, o.cutOf, o.studentParams), o, p);
  const doubt = doubtAt(voice.doubt, efoldsOutside(voice.range, coords)) * mean(p.loss);
  return { ...p, doubt: Math.hypot(p.doubt, doubt) };
}

/** Indices of the distillations that laws describe; 0, pretraining, where there is none. */
function taughtOf(options: readonly Option[]): number[] {
  const taught = options.flatMap((o, j) => (o.teacher !== null && !o.isSpeculative ? [j] : []));
  return taught.length ? taught : [0];
}

/** Which of them says what is counted of an option and how far it is off: itself, else that from its teacher. */
function likeOf(options: readonly Option[], j: number, best: number): number {
  const taught = taughtOf(options);
  if (taught.includes(j)) return j;
  const teacher = options[j]!.teacher ?? options[j]!.cutOf;
  return taught.find((k) => teacher !== null && options[k]!.teacher === teacher) ?? best;
}

/** All options as draws: pretraining, and what each gains over it. */
function draw(asked: Asked, predicted: readonly OptionLoss[], common: readonly number[], together: number) {
  const { s, options, level } = asked;
  const alone = predicted[0]!.loss;
  const first = drawnLosses(alone, common[0]!);
  const gains = predicted.slice(1).map(({ loss, doubt }, j) =>
    drawnGains(difference(alone, loss), common[j + 1]!, doubt, j, options[j + 1]!.teacher === null ? null : together),
  );
  const rows = gains.map((gain, j) => rowOf(s, options[j + 1]!, predicted[j + 1]!, intervalOf(difference(first, gain), level)));
  return {
    pretrain: rowOf(s, options[0]!, predicted[0]!, intervalOf(first, level)), gains,
    alternatives: withGains(rows, gains, level),
  };
}

function rowOf(s: Situation, o: Option, predicted: OptionLoss, loss: Interval): Strategy {
  return {
    name: optionName(o), kind: o.kind, teacher: o.teacher, studentParams: o.studentParams,
    studentTokens: o.studentTokens, teacherLoss: predicted.teacherLoss && mean(predicted.teacherLoss),
    compute: bill(s, o.studentParams, o.studentTokens, o.teacher, o.taught), loss, taught: o.taught, cutOf: o.cutOf,
    isSpeculative: o.isSpeculative, gain: null, shareBest: null,
  };
}

function coordsOf(s: Situation, o: Option, predicted: OptionLoss): Coords {
  return {
    student_params: [o.studentParams], student_tokens: [studentTokensWorth(s, o.studentTokens, o.teacher !== null)],
    teacher_loss: predicted.teacherLoss === null ? [] : [mean(predicted.teacherLoss)],
    tokens_per_param: [o.studentTokens / o.studentParams],
  };
}

/** Where the pretrained student and a distilled one lie. */
function coordsOfBoth(s: Situation, options: readonly Option[], predicted: readonly OptionLoss[], j: number): Coords {
  const [own, taught] = [0, j].map((k) => coordsOf(s, options[k]!, predicted[k]!));
  return Object.fromEntries(Object.keys(own!).map((name) => [name, [...own![name]!, ...taught![name]!]]));
}

/** One line per coordinate outside the range, over all options that a law describes; a teacher's loss on both texts. */
function complaints(
  s: Situation, voice: Voice, options: readonly Option[], predicted: readonly OptionLoss[], ratio: number,
): string[] {
  const merged: Coords = {};
  options.forEach((o, j) => {
    if (o.isSpeculative) return;
    for (const [name, values] of Object.entries(coordsOf(s, o, predicted[j]!))) (merged[name] ??= []).push(...values);
  });
  const { student_params: n = [], student_tokens: d = [] } = merged;
  merged.compute = n.map((size, i) => 6 * size * d[i]!);
  return voice.range.flatMap(([name, low, high]) => {
    const values = merged[name] ?? [];
    if (!values.length) return [];
    const [smallest, largest] = [Math.min(...values), Math.max(...values)];
    const found: string[] = [];
    const add = (side: string, value: number, off: number) => {
      const line = say(`${side} range`, { what: coordinateNames()[name] ?? name, value, low, high, off: times(off) });
      found.push(name === "teacher_loss" && ratio !== 1 ? say("on your text", { line, loss: value * ratio }) : line);
    };
    if (smallest < low * (1 - constants().edge)) add("below", smallest, low / smallest);
    if (largest > high * (1 + constants().edge)) add("above", largest, largest / high);
    return found;
  });
}

function statusOf(voice: Voice, outside: Record<string, number>, isFar: boolean): string {
  if (voice.is_refused) return "REFUSED";
  if (isFar) return "OUT_OF_RANGE";
  if (voice.kind === "fitted") return voice.status;
  return Object.keys(outside).length ? "NEAR_RANGE" : "IN_RANGE";
}

function noteOf(voice: Voice, outside: Record<string, number>, isFar: boolean): string {
  if (voice.is_refused) return voice.note;
  const within = Object.keys(outside).length ? outsideWords(outside) : say("inside");
  const where = isFar ? say("guess", { where: within }) : within;
  return voice.note ? `${voice.note}, ${where}` : where;
}

/** What is how far outside, worst first. */
function outsideWords(outside: Record<string, number>): string {
  const worst = Object.keys(outside).sort((a, b) => outside[b]! - outside[a]!);
  const far = worst.map((name) => {
    const factor = Math.exp(outside[name]! / (constants().efold_weight[name] ?? 1));
    return say("far", { coordinate: coordinateNames()[name]!, factor });
  });
  return say("outside", { far: far.join(", ") });
}

/** A line speaks of teacher sizes only: what it would choose, for people to compare. */
function lineEvidence(s: Situation, voice: Voice, line: NonNullable<Voice["line"]>): Evidence {
  const n = s.studentParams;
  let note: string;
  if (n === null) note = say("line free size");
  else if (line.smallest_student > n) note = say("line too small", { smallest: line.smallest_student });
  else {
    const arm = voice.kind === "fitted" ? "" : say("line pruned");
    note = say("line chooses", { best: ((line.slope * n) / 1e6 + line.intercept) * 1e6, arm });
  }
  return silent({ source: voice.source, kind: voice.kind, status: "TEACHER_SIZE", note });
}
