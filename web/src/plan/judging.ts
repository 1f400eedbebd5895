/** From a question as it was asked to the call, the one path of every answer. Mirrors `distillaw/planning/judging.py`. */
import { constants } from "../data/bundle";
import { QuestionError } from "../quantities";
import { say } from "../words";
import { bill, sharesOf } from "./bills";
import { type Sources, consult, floorOf, optionsOf } from "./consult";
import { type Call, call, choose } from "./decision";
import { type Evidence, best } from "./evidence";
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
