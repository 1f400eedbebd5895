/**
 * The nearest changes of the question that change the answer, one input at a time. Mirrors `distillaw/planning/sensitivity.py`.
 *
 * A generator: every answer is a small plan of its own, and the page stays responsive between two of them.
 */
import { type Answer, constants, data } from "../data/bundle";
import { formatCount, formatFlop, parseCount, QuestionError } from "../quantities";
import { say } from "../words";
import { type Sources, judge } from "./judging";
import { type Situation, called } from "./situation";

const STEPS = [1.25, 2, 4, 10, 30, 100];
const NATS = [0.03, 0.1, 0.2, 0.4];
const HALVINGS = 3;
/** Where the question is asked in full: shares of the way from the edge that the sketch found to the step beyond it. */
const ONWARDS = [0, 0.25, 0.5, 1];

/** Asked with `then` instead of `now`, the answer is `verdict`. */
export interface Flip {
  readonly input: string;
  readonly now: number | string;
  readonly then: number | string;
  readonly verdict: Answer;
  readonly distance: number;
  readonly sentence: string;
  /** Whose loss, where that is the input. */
  readonly teacher: string | null;
}

/** One number of the question that can be moved. */
interface Input {
  readonly name: string;
  readonly now: number;
  /** The question with another value. */
  readonly asked: (value: number) => Situation;
  readonly text: (value: number) => string;
  /** The value with the digits that are printed. */
  readonly printed: (value: number) => number;
  /** The value so many steps away. */
  readonly at: (step: number) => number;
  readonly steps: readonly number[];
  readonly distance: (then: number) => number;
  readonly teacher: string | null;
}

type Steps<T> = Generator<void, T>;

/** Flips in order of distance; empty where nothing in reach changes the answer. */
export function* findFlips(s: Situation, given: Sources, verdict: Answer, trainsTeacher: boolean): Steps<Flip[]> {
  const search = new Search(heard(given), verdict);
  yield;
  if (search.sketch(s) !== verdict) return []; // a hair's breadth: every step would flip
  const withTraining = s.mayTrainTeacher && (trainsTeacher || !s.teachers.length);
  const found: Flip[] = [];
  for (const one of inputs(s)) {
    const flip = yield* search.nearest(one, withTraining);
    if (flip !== null) found.push(flip);
  }
  found.push(...(yield* search.scenarios(s)), ...(yield* search.singleTeachers(s)));
  return found.sort((a, b) => a.distance - b.distance);
}

/** Without the laws that never decide and never choose what is free, where there are others. */
function heard(sources: Sources): Sources {
  if (sources.voices.every((v) => v.ensemble === null || v.is_refused)) return sources;
  return { ...sources, voices: sources.voices.map((v) => (v.is_refused ? { ...v, ensemble: null } : v)) };
}

class Search {
  constructor(
    private readonly sources: Sources,
    private readonly verdict: Answer,
  ) {}

  /** Roughly and fast; null where nobody may decide it or it is no question any more. */
  sketch(asked: Situation): Answer | null {
    return this.answer(asked, true);
  }

  /** Another verdict than the one that was given: of the sketch, and then as the page itself gives it. */
  private other(asked: Situation, isSketched = false): Answer | null {
    if (!isSketched) {
      const sketched = this.sketch(asked);
      if (sketched === null || sketched === this.verdict) return null;
    }
    const then = this.answer(asked, false);
    return then === this.verdict ? null : then;
  }

  private answer(asked: Situation, isSketch: boolean): Answer | null {
    try {
      const judged = judge(asked, this.sources, { isSketch });
      return judged.headline.isDecisive ? judged.call.verdict : null;
    } catch (error) {
      if (error instanceof QuestionError) return null; // a budget too small, a loss below the floor
      throw error;
    }
  }

  /** The nearest value, in one direction, at which the whole answer is another one. */
  *nearest(moved: Input, withTraining: boolean): Steps<Flip | null> {
    const sketched = (step: number) => {
      const asked = moved.asked(moved.at(step));
      return this.sketch(moved.name === "students_served" ? asked : { ...asked, mayTrainTeacher: withTraining });
    };
    for (const step of yield* this.candidates(sketched, moved.steps)) {
      yield;
      const at = moved.printed(moved.at(step));
      const verdict = at === moved.now ? null : this.other(moved.asked(at), true);
      if (verdict === null) continue;
      return {
        input: moved.name, now: moved.now, then: at, verdict, distance: moved.distance(at),
        sentence: then(moved.text(at), verdict), teacher: moved.teacher,
      };
    }
    return null;
  }

  /** Steps at which the sketch has another answer: its edge first, then on to the step tried beyond it. */
  private *candidates(sketched: (step: number) => Answer | null, steps: readonly number[]): Steps<number[]> {
    let same = 0;
    for (const step of steps) {
      yield;
      const found = sketched(step);
      if (found === null) return [];
      if (found !== this.verdict) {
        const edge = yield* this.edge(sketched, same, step);
        return ONWARDS.map((share) => edge + share * (step - edge));
      }
      same = step;
    }
    return [];
  }

  private *edge(sketched: (step: number) => Answer | null, from: number, to: number): Steps<number> {
    let [same, other] = [from, to];
    for (let i = 0; i < HALVINGS; i++) {
      yield;
      const middle = (same + other) / 2;
      const found = sketched(middle);
      if (found === null || found === this.verdict) same = middle;
      else other = middle;
    }
    return other;
  }

  /** The other cost scenarios. */
  *scenarios(s: Situation): Steps<Flip[]> {
    const found: Flip[] = [];
    for (const scenario of Object.keys(constants().scenarios)) {
      if (scenario === s.scenario) continue;
      yield;
      const verdict = this.other({ ...s, scenario });
      if (verdict === null) continue;
      const text = say("scenario was", { then: scenario, now: s.scenario });
      found.push({
        input: "scenario", now: s.scenario, then: scenario, verdict, distance: Math.E, sentence: then(text, verdict),
        teacher: null,
      });
    }
    return found;
  }

  /** Each teacher alone, where several were named. */
  *singleTeachers(s: Situation): Steps<Flip[]> {
    const names = s.teachers.map((t) => t.name);
    if (names.length < 2 || new Set(names).size < names.length) return [];
    const found: Flip[] = [];
    for (const teacher of s.teachers) {
      yield;
      const verdict = this.other({ ...s, teachers: [teacher] });
      if (verdict === null) continue;
      found.push({
        input: "teacher", now: names.join(", "), then: teacher.name, verdict, distance: Math.E,
        sentence: then(say("only", { teacher: called(teacher) }), verdict), teacher: null,
      });
    }
    return found;
  }
}

/** Everything that is moved, in both directions. */
function inputs(s: Situation): Input[] {
  return [-1, 1].flatMap((sign) => [...sizes(s, sign), ...losses(s, sign)]);
}

/** Budget, student and students served: by factors. */
function sizes(s: Situation, sign: number): Input[] {
  const moved = (given: Pick<Input, "name" | "now" | "asked" | "text"> & Partial<Input>): Input => ({
    printed: (x) => parseCount(formatCount(x), given.name), at: (x) => given.now * Math.exp(x),
    steps: STEPS.map((step) => sign * Math.log(step)),
    distance: (then) => Math.max(then / given.now, given.now / then), teacher: null, ...given,
  });
  const { studentTokens: tokens, compute, studentParams: params, studentsServed: students } = s;
  const found: Input[] = [];
  if (tokens !== null) {
    found.push(moved({
      name: "tokens", now: tokens, asked: (x) => ({ ...s, studentTokens: x }),
      text: (x) => say("tokens were", { then: x, now: tokens }),
    }));
  } else if (compute !== null) {
    found.push(moved({
      name: "compute", now: compute, asked: (x) => ({ ...s, compute: x, budgetText: "" }),
      text: (x) => say("compute were", { then: x, now: compute }),
      printed: (x) => parseCount(formatFlop(x).replace(" FLOP", ""), "compute"),
    }));
  }
  if (params !== null) {
    found.push(moved({
      name: "student_params", now: params, asked: (x) => ({ ...s, studentParams: x }),
      text: (x) => say("student had", { then: x }),
    }));
  }
  if (sign > 0 || students > 1) {
    const count = (x: number) => Math.max(1, roundHalfEven(x));
    found.push(moved({
      name: "students_served", now: students, asked: (x) => ({ ...s, studentsServed: count(x) }), printed: count,
      text: (x) => say("students shared", { then: x, now: students }),
    }));
  }
  return found;
}

/** As Python rounds. */
function roundHalfEven(x: number): number {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

/** The loss of each teacher for which one was given: what a wrong measurement would do. */
function losses(s: Situation, sign: number): Input[] {
  return s.teachers.flatMap((teacher, j) => {
    const now = teacher.loss;
    if (now === null) return [];
    const whose = s.teachers.length === 1 ? say("the teacher's") : `${called(teacher)}'s`;
    return [{
      name: "teacher_loss", now, teacher: teacher.name,
      asked: (loss: number) => ({ ...s, teachers: s.teachers.map((t, k) => (k === j ? { ...t, loss } : t)) }),
      text: (x: number) => say("teacher's loss was", { whose, then: x, now }),
      printed: (x: number) => Number(x.toFixed(3)), at: (x: number) => now + x, steps: NATS.map((nats) => sign * nats),
      distance: (then: number) => Math.exp(10 * Math.abs(then - now)),
    }];
  });
}

function then(text: string, verdict: Answer): string {
  return say("then", { text, words: data().words[verdict].then });
}
