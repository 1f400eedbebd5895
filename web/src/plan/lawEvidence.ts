/** What one voice says of all options: losses, and gains with their doubt. Mirrors `distillaw/planning/law_evidence.py`. */
import { constants, coordinateNames } from "../data/bundle";
import { argMin, mean } from "../laws/numerics";
import { times } from "../quantities";
import { say } from "../words";
import { bill, effectiveTokens } from "./bills";
import { type Interval, beliefOfLaw, difference, drawnGains, drawnLosses, intervalOf } from "./draws";
import { type Evidence, type Strategy, type Voice, doubtAt, efoldsOutside, silent, withGains } from "./evidence";
import { type Option, isSpeculative, optionName } from "./options";
import {
  type OptionLoss, type TextScale, isImplausible, movedScale, onLawText, onUserText, optionLoss, textScale,
} from "./predictions";
import type { Situation } from "./situation";

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
  const coords = coordsOfBoth(s, options, atHome);
  const outside = efoldsOutside(voice.range, coords);
  const isFar = Math.max(0, ...Object.values(outside)) > voice.doubt.reach;
  const isApart = !isFar && isImplausible(scale, options, atHome);
  const lines = complaints(s, voice, options, atHome, scale.ratio);
  const common = scale.ratio * doubtOf(asked, voice, atHome, outside, scale);
  const predicted = atHome.map((p) => onUserText(scale, p));
  const alone = predicted[0]!.loss;
  return {
    source: voice.source, kind: voice.kind, hasNumbers: true,
    ...draw(asked, predicted, common),
    status: isApart ? "OTHER_TEXT" : statusOf(voice, outside, isFar),
    note: isApart ? say("texts apart") : noteOf(voice, outside, isFar),
    isDecisive: voice.may_decide && !isFar && !isApart, insideRange: !Object.keys(outside).length,
    beliefs: predicted.slice(1).map((p) =>
      beliefOfLaw(p.loss.map((x, k) => alone[k]! - x), Math.hypot(common, p.doubt)),
    ),
    warnings: [...voice.warnings, ...lines], farOutside: isFar, outside, doubt: common, scale, coords,
    sources: null,
  };
}

/** Standard deviation of a gain that the ensemble does not show, nats/token of the law's text. */
function doubtOf(
  asked: Asked, voice: Voice, predicted: readonly OptionLoss[], outside: Record<string, number>, scale: TextScale,
): number {
  let share = doubtAt(voice.doubt, outside);
  if (scale.isGuess) share = Math.hypot(share, constants().other_text_doubt);
  const taught = asked.options[bestTaught(asked.options, predicted)]!;
  const at = (z: number) => mean(optionLoss(voice.ensemble!, asked.s, onLawText(movedScale(scale, z), taught)).loss);
  const text = scale.sd && taught.teacher !== null ? Math.abs(at(-1) - at(1)) / 2 : 0;
  return Math.hypot(share * mean(predicted[0]!.loss), text);
}

/** Index of the best distillation that laws describe; 0, pretraining, where there is none. */
function bestTaught(options: readonly Option[], predicted: readonly OptionLoss[]): number {
  const taught = options.flatMap((o, j) => (o.teacher !== null && !isSpeculative(o) ? [j] : []));
  return taught.length ? taught[argMin(taught.map((j) => mean(predicted[j]!.loss)))]! : 0;
}

/** All options as draws: pretraining, and what each gains over it. */
function draw(asked: Asked, predicted: readonly OptionLoss[], common: number) {
  const { s, options, level } = asked;
  const alone = predicted[0]!.loss;
  const first = drawnLosses(alone, common);
  const gains = predicted.slice(1).map(({ loss, doubt }, j) =>
    drawnGains(difference(alone, loss), common, doubt, j, options[j + 1]!.teacher !== null),
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
    compute: bill(s, o.studentParams, o.studentTokens, o.teacher, o.taught), loss, taught: o.taught,
    isSpeculative: isSpeculative(o), gain: null, shareBest: null,
  };
}

function coordsOf(s: Situation, o: Option, predicted: OptionLoss): Coords {
  return {
    student_params: [o.studentParams], student_tokens: [effectiveTokens(s, o.studentTokens)],
    teacher_loss: predicted.teacherLoss === null ? [] : [mean(predicted.teacherLoss)],
    tokens_per_param: [o.studentTokens / o.studentParams],
  };
}

/** Where the pretrained student and the best distilled one lie. */
function coordsOfBoth(s: Situation, options: readonly Option[], predicted: readonly OptionLoss[]): Coords {
  const [own, taught] = [0, bestTaught(options, predicted)].map((j) => coordsOf(s, options[j]!, predicted[j]!));
  return Object.fromEntries(Object.keys(own!).map((name) => [name, [...own![name]!, ...taught![name]!]]));
}

/** One line per coordinate outside the range, over all options that a law describes; a teacher's loss on both texts. */
function complaints(
  s: Situation, voice: Voice, options: readonly Option[], predicted: readonly OptionLoss[], ratio: number,
): string[] {
  const merged: Coords = {};
  options.forEach((o, j) => {
    if (isSpeculative(o)) return;
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
