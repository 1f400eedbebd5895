/** From a question as it was asked to the call, the one path of every answer. Mirrors `distillaw/planning/judging.py`. */
import { constants } from "../data/bundle";
import { thinned } from "../laws/law";
import { argMin } from "../laws/numerics";
import { QuestionError } from "../quantities";
import { say } from "../words";
import { bill, sharesOf, trainingTokens } from "./bills";
import { type Call, call, choose } from "./decision";
import { type Evidence, type Voice, best, efoldsOutside } from "./evidence";
import { lawEvidence } from "./lawEvidence";
import { type Option, findOptions } from "./options";
import { type TextScale, teacherOnLawText, textScale } from "./predictions";
import { type Situation, type Teacher, called, checkSituation, costShares, lawError, studentText, teacher } from "./situation";

/** A question with its evidence and its call. */
export interface Judged {
  /** As it was judged: at equal FLOP where tokens are the budget and no teacher is at hand. */
  readonly situation: Situation;
  readonly evidence: readonly Evidence[];
  readonly headline: Evidence;
  readonly call: Call;
  /** The same question with the teachers at hand, where none is. */
  readonly supposed: Judged | null;
}

interface How {
  /** Free sizes roughly, and no strategies that no law describes. */
  readonly isSketch?: boolean;
  /** Whether to say what a teacher would be worth where none is named. */
  readonly withSupposed?: boolean;
}

/** The call on a question. */
export function judge(asked: Situation, sources: Sources, how: How = {}): Judged {
  const judged = (s: Situation): Judged => {
    const evidence = consult(s, sources, optionsOf(s, sources, how.isSketch));
    const headline = choose(evidence, sources.level);
    return { situation: s, evidence, headline, call: call(headline), supposed: null };
  };
  const s = checkSituation(asked);
  checkTeacherLosses(s, floorOf(sources));
  if (s.studentTokens === null || s.teachers.some((t) => isAtHand(s, t))) return judged(s);
  if (!s.teachers.length && !how.withSupposed) return judged(onTheBill(s, null));
  const there = suppose(s);
  const supposed = judged(there);
  const found = s.teachers.find((_, j) => there.teachers[j] === best(supposed.headline).teacher) ?? null;
  return { ...judged(onTheBill(s, found)), supposed };
}

/** True where its training is no cost of this student. */
function isAtHand(s: Situation, t: Teacher): boolean {
  return sharesOf(s, t).training === 0;
}

/** The same with all teachers at hand, or with a ladder of them. */
function suppose(s: Situation): Situation {
  const size = s.studentParams ?? s.maxParams!;
  const { ladder, ladder_ratio } = constants();
  const teachers = s.teachers.length
    ? s.teachers
    : ladder.map((k) =>
        teacher({ name: say("sized teacher", { params: k * size }), params: k * size, tokens: ladder_ratio * k * size }),
      );
  return {
    ...s, teachers: teachers.map((t) => ({ ...t, exists: true, estimateError: lawError(t) })),
    shares: { ...costShares(s), training: 0 },
  };
}

/** The question at equal FLOP: those of the student alone, or of training a teacher and distilling from it. */
function onTheBill(s: Situation, t: Teacher | null): Situation {
  const size = s.studentParams ?? s.maxParams!;
  if (t !== null && (t.params === null || t.tokens === null)) {
    throw new QuestionError(say("teacher unpriced", { teacher: called(t) }));
  }
  const compute = bill(s, size, s.studentTokens!, t).total!;
  const fixed = { ...s, studentParams: size };
  const teacher = t === null ? "" : called(t);
  const budgetText = say(t === null ? "bill alone" : "bill with", { student: studentText(fixed), compute, teacher });
  return checkSituation({ ...fixed, studentTokens: null, compute, budgetText });
}

/** Refuse teacher losses that no model on this text can have. */
function checkTeacherLosses(s: Situation, floor: number): void {
  for (const { loss } of s.teachers) {
    if (loss !== null && loss > Math.log(s.vocab)) {
      throw new QuestionError(say("worse than guessing", { loss, vocab: s.vocab, most: Math.log(s.vocab) }));
    }
    if (loss !== null && loss <= floor) {
      throw new QuestionError(say("below the floor", { loss, floor }));
    }
  }
}

export interface Sources {
  readonly voices: readonly Voice[];
  readonly level: number;
  /** Names of the laws that the user asked for. */
  readonly asked: readonly string[];
  /** Text scales by source that are known already. */
  readonly scales: ReadonlyMap<string, TextScale>;
}

/** Lowest irreducible loss of the laws, nats/token. */
function floorOf(sources: Sources): number {
  const floors = sources.voices.flatMap((v) => v.ensemble?.map((law) => Math.exp(law.plain.log_E)) ?? []);
  return floors.length ? Math.min(...floors) : 0;
}

/** The law that chooses what is free, thinned: the first that reaches this student, else the nearest. */
export function leadOf(s: Situation, sources: Sources): Voice {
  const able = sources.voices.filter((v) => v.ensemble !== null);
  const trusted = able.filter((v) => !v.is_refused);
  const speaking = trusted.length ? trusted : able;
  if (!speaking.length) throw new QuestionError(say("no law", { said: sources.voices.map(({ source, status, note }) => `${source}: ${status}: ${note}`).join("; ") }));
  const away = speaking.map((v) => distance(s, v));
  const within = speaking.find((v, i) => away[i]! <= v.doubt.reach && v.may_decide);
  const voice = within ?? speaking[argMin(away)]!;
  return { ...voice, ensemble: thinned(voice.ensemble!, constants().lead_members) };
}

/** E-folds of the student outside a law's range; nothing is known of one of free size. */
function distance(s: Situation, voice: Voice): number {
  const size = s.studentParams;
  if (size === null) return 0;
  const at = { student_params: [size], student_tokens: [trainingTokens(s, size)] };
  return Math.max(0, ...Object.values(efoldsOutside(voice.range, at)));
}

/** What could be done; what is free is chosen by the lead. */
export function optionsOf(s: Situation, sources: Sources, isSketch = false): Option[] {
  const lead = leadOf(s, sources);
  const isSmall = lead.kind === "fitted" && !s.inferenceTokens;
  const scale = sources.scales.get(lead.source) ?? textScale(lead, s, null);
  const scaled = { ...s, teachers: s.teachers.map((t) => teacherOnLawText(scale, t)) };
  const prior = isSmall ? constants().size_prior : 0;
  const options = findOptions(scaled, lead.ensemble!, isSketch, prior).map((o) => {
    const given = (t: Teacher | null) => (t && s.teachers[scaled.teachers.indexOf(t)]) ?? t;
    return { ...o, teacher: given(o.teacher), cutOf: given(o.cutOf) };
  });
  if (options.every((o) => o.teacher === null)) {
    throw new QuestionError(say("pays for none", { compute: s.compute! }));
  }
  return options;
}

/** Every voice in order of trust, silent ones included. */
export function consult(
  s: Situation, sources: Sources, options: readonly Option[],
): Evidence[] {
  const found: Evidence[] = [];
  for (const voice of sources.voices) {
    const knows = found.find((e) => e.kind === "fitted" && e.isDecisive);
    const scale = sources.scales.get(voice.source) ?? null;
    const asked = { s, options, level: sources.level };
    found.push(lawEvidence(asked, voice, knows?.pretrain?.loss.mean ?? null, scale));
  }
  return found;
}
