/**
 * The nearest changes of the question that change the answer, one input at a time. Mirrors `distillaw/planning/flips.py`.
 *
 * A generator: every answer is a small plan of its own, and the page stays responsive between two of them.
 */
import { constants } from "../data/bundle";
import { QuestionError, formatCount, formatFlop } from "../quantities";
import { type Sources, consult, optionsOf } from "./consult";
import { type Answer, call, choose } from "./decision";
import { type Evidence, speaks } from "./evidence";
import { type Situation, checkSituation } from "./situation";

const DRAWS = 2000;
const STEPS = [1.25, 2, 4, 10, 30, 100];
const NATS = [0.03, 0.1, 0.2, 0.4];
const HALVINGS = 3;

export interface Flip {
  readonly input: string;
  readonly verdict: Answer;
  readonly distance: number;
  readonly sentence: string;
}

type Search<T> = Generator<void, T>;
type Ask = (s: Situation) => Answer | null;

const THEN: Record<Answer, string> = {
  distil: "distil", pretrain: "pretrain", "too-close": "too close to call",
};

/** Flips in order of distance; empty where nothing in reach changes the answer. */
export function* findFlips(s: Situation, sources: Sources, verdict: Answer, trainsTeacher: boolean): Search<Flip[]> {
  const answer: Ask = (asked) => answerOf(asked, sources);
  yield;
  if (answer(s) !== verdict) return []; // a hair's breadth: every step would flip
  const evidence = sketch(s, sources);
  const scales = new Map(
    evidence.filter((e) => e.scale !== 1).map((e) => [e.source, { ratio: e.scale, isGuess: false }]),
  );
  const onThisText: Ask = (asked) => answerOf(asked, { ...sources, scales });
  const fast = { ...s, mayTrainTeacher: trainsTeacher || !s.teachers.length };
  const found = [
    ...(yield* budget(fast, answer, verdict)),
    ...(yield* teacherLosses(fast, onThisText, verdict)),
    ...(yield* size(fast, answer, verdict)),
    ...(yield* served(s, answer, verdict)),
    ...(yield* scenarios(s, answer, verdict)),
  ];
  return found.sort((a, b) => a.distance - b.distance);
}

function sketch(asked: Situation, sources: Sources): Evidence[] {
  return consult(asked, sources, optionsOf(asked, sources, true), DRAWS);
}

/** What the laws say of a changed question; null where nobody may decide it. */
function answerOf(asked: Situation, sources: Sources): Answer | null {
  try {
    const evidence = sketch(checkSituation(asked), sources);
    if (!evidence.some((e) => speaks(e) && e.isDecisive)) return null;
    return call(choose(evidence, sources.level)).verdict;
  } catch (error) {
    if (error instanceof QuestionError) return null; // no question any more: a budget too small
    throw error;
  }
}

function* budget(s: Situation, answer: Ask, verdict: Answer): Search<Flip[]> {
  const isTokens = s.studentTokens !== null;
  const now = isTokens ? s.studentTokens! : s.compute!;
  const name = isTokens ? "tokens" : "compute";
  const shown = (value: number) => (isTokens ? formatCount(value) : formatFlop(value));
  const asked = (value: number): Situation => ({ ...s, [isTokens ? "studentTokens" : "compute"]: value });
  const hits = yield* bothWays(now, asked, answer, verdict);
  return hits.map((hit) => flip(name, now, hit, `${name} were ${shown(hit.at)} instead of ${shown(now)}`));
}

function* size(s: Situation, answer: Ask, verdict: Answer): Search<Flip[]> {
  const now = s.studentParams;
  if (now === null) return [];
  const asked = (value: number): Situation => ({
    ...s, studentParams: value, maxParams: s.maxParams === null ? null : Math.max(s.maxParams, value),
  });
  const hits = yield* bothWays(now, asked, answer, verdict);
  return hits.map((hit) => flip("student_params", now, hit, `the student had ${formatCount(hit.at)} parameters`));
}

/** All teachers of known loss better or worse together: what a wrong measurement would do. */
function* teacherLosses(s: Situation, answer: Ask, verdict: Answer): Search<Flip[]> {
  if (!s.teachers.length || s.teachers.some((t) => t.loss === null)) return [];
  const best = Math.min(...s.teachers.map((t) => t.loss!));
  const found: Flip[] = [];
  for (const sign of [-1, 1]) {
    const asked = (change: number): Situation => ({
      ...s, teachers: s.teachers.map((t) => ({ ...t, loss: t.loss! + sign * change })),
    });
    const hit = yield* first(NATS, asked, answer, verdict);
    if (hit === null) continue;
    const which =
      s.teachers.length === 1 ? "the teacher's loss was" : "the teachers' losses moved together, the best to";
    const text = `${which} ${(best + sign * hit.at).toFixed(3)} instead of ${best.toFixed(3)} nats/token`;
    found.push({
      input: "teacher_loss", verdict: hit.verdict, distance: Math.exp(10 * hit.at), sentence: then(text, hit.verdict),
    });
  }
  return found;
}

/** More students, or fewer, that share what the teacher costs. */
function* served(s: Situation, answer: Ask, verdict: Answer): Search<Flip[]> {
  const now = s.studentsServed;
  const count = (x: number) => Math.max(1, Math.round(now * Math.exp(x)));
  const found: Flip[] = [];
  for (const sign of now > 1 ? [-1, 1] : [1]) {
    const logs = STEPS.map((step) => sign * Math.log(step));
    const hit = yield* first(logs, (x) => ({ ...s, studentsServed: count(x) }), answer, verdict);
    if (hit === null || count(hit.at) === now) continue;
    const at = count(hit.at);
    const text = `${at} student${at === 1 ? "" : "s"} shared the teacher instead of ${now}`;
    found.push(flip("students_served", now, { at, verdict: hit.verdict }, text));
  }
  return found;
}

function* scenarios(s: Situation, answer: Ask, verdict: Answer): Search<Flip[]> {
  if (s.compute === null) return [];
  const found: Flip[] = [];
  for (const scenario of Object.keys(constants().scenarios)) {
    if (scenario === s.scenario) continue;
    yield;
    const other = answer({ ...s, scenario });
    if (other === null || other === verdict) continue;
    const text = `the cost scenario was ${scenario} instead of ${s.scenario}`;
    found.push({ input: "scenario", verdict: other, distance: Math.E, sentence: then(text, other) });
  }
  return found;
}

interface Hit {
  at: number;
  verdict: Answer;
}

/** The nearest value below and the nearest above at which the verdict is another one. */
function* bothWays(
  now: number, asked: (value: number) => Situation, answer: Ask, verdict: Answer,
): Search<Hit[]> {
  const found: Hit[] = [];
  for (const sign of [-1, 1]) {
    const logs = STEPS.map((step) => sign * Math.log(step));
    const hit = yield* first(logs, (x) => asked(now * Math.exp(x)), answer, verdict);
    if (hit !== null) found.push({ at: now * Math.exp(hit.at), verdict: hit.verdict });
  }
  return found;
}

/** The first step with another verdict, narrowed down towards the last one with the same. */
function* first(
  steps: readonly number[], asked: (x: number) => Situation, answer: Ask, verdict: Answer,
): Search<Hit | null> {
  let same = 0;
  for (const step of steps) {
    yield;
    const other = answer(asked(step));
    if (other === null) return null;
    if (other !== verdict) {
      let hit = { at: step, verdict: other };
      for (let i = 0; i < HALVINGS; i++) {
        yield;
        const middle = (same + hit.at) / 2;
        const found = answer(asked(middle));
        if (found === null || found === verdict) same = middle;
        else hit = { at: middle, verdict: found };
      }
      return hit;
    }
    same = step;
  }
  return null;
}

function flip(input: string, now: number, hit: Hit, text: string): Flip {
  const distance = Math.max(hit.at / now, now / hit.at);
  return { input, verdict: hit.verdict, distance, sentence: then(text, hit.verdict) };
}

function then(text: string, verdict: Answer): string {
  return `${text}: then ${THEN[verdict]}`;
}
