/** What the user has: a student, tokens or compute, teachers, and who pays. Mirrors `distillaw/planning/situation.py`. */
import { constants } from "../data/bundle";
import { QuestionError, budgetText, formatCount, formatFlop, general } from "../quantities";
import { trainingTokens } from "./bills";

export interface Teacher {
  readonly name: string;
  readonly params: number | null;
  readonly tokens: number | null;
  /** Nats/token on the user's text; null lets each law estimate it. */
  readonly loss: number | null;
  readonly lossSe: number;
  /** How far its loss strays from what a law makes of its size and tokens, a share; null: what is usual. */
  readonly estimateError: number | null;
  readonly exists: boolean;
  readonly tokenizer: string | null;
}

/** Its name within a sentence: the 8B, the 300M teacher, the teacher, but my-teacher. */
export function called(teacher: Teacher): string {
  return /^(\d|teacher$)/.test(teacher.name) ? `the ${teacher.name}` : teacher.name;
}

export function teacher(given: Partial<Teacher> & { name: string }): Teacher {
  return {
    params: null, tokens: null, loss: null, lossSe: 0, estimateError: null, exists: true, tokenizer: null, ...given,
  };
}

/** `estimateError`, or what is usual. */
export function lawError(t: Teacher): number {
  const { own_text, other_text } = constants().law_errors;
  return t.estimateError ?? (t.loss !== null && t.exists ? other_text : own_text);
}

export interface CostShares {
  readonly logits: number;
  readonly training: number;
}

export interface Situation {
  /** N_S, non-embedding; null leaves the size free. */
  readonly studentParams: number | null;
  readonly studentTokens: number | null;
  readonly compute: number | null;
  readonly budgetText: string;
  readonly maxParams: number | null;
  readonly limitText: string;
  readonly teachers: readonly Teacher[];
  readonly mayTrainTeacher: boolean;
  readonly scenario: string;
  /** Shares of the teacher's costs that replace those of the scenario. */
  readonly shares: CostShares | null;
  readonly studentsServed: number;
  readonly logits: "online" | "stored";
  readonly uniqueTokens: number | null;
  readonly inferenceTokens: number;
  readonly vocab: number;
  readonly context: number;
}

const UNITS: [keyof Situation, string, string][] = [
  ["studentParams", "student_params", "parameters"], ["studentTokens", "student_tokens", "tokens"],
  ["compute", "compute", "FLOP"], ["maxParams", "max_params", "parameters"],
  ["uniqueTokens", "unique_tokens", "tokens"], ["inferenceTokens", "inference_tokens", "tokens"],
];

function checkPlausible(what: string, value: number | null, unit: string): void {
  const largest = constants().largest[unit]!;
  if (value !== null && value > largest) {
    throw new QuestionError(
      `${what} = ${general(value)}: more than ${general(largest)} ${unit} is not planned with; is it a slip of the pen?`,
    );
  }
}

/** Refuse what cannot be planned. */
export function checkSituation(s: Situation): Situation {
  if ((s.studentTokens === null) === (s.compute === null)) {
    throw new QuestionError("give one budget: tokens, compute, device-hours or money");
  }
  for (const [key, name, unit] of UNITS) checkPlausible(name, s[key] as number | null, unit);
  for (const t of s.teachers) checkTeacher(t);
  if (s.vocab < 1 || s.context < 1) throw new QuestionError("vocabulary and context are positive whole numbers");
  if (s.studentsServed < 1) throw new QuestionError("students served: at least the one being planned");
  checkSize(s);
  const named = new Set(s.teachers.map((t) => t.tokenizer).filter((t) => t !== null));
  if (named.size > 1) {
    throw new QuestionError(
      `teachers with ${named.size} tokenizers (${[...named].sort().join(", ")}): nats/token of one are not those of ` +
        "another, and logits can be distilled only into the teacher's own vocabulary. Choose those of one tokenizer",
    );
  }
  return s;
}

function checkTeacher(t: Teacher): void {
  checkPlausible(`${t.name}: parameters`, t.params, "parameters");
  checkPlausible(`${t.name}: tokens`, t.tokens, "tokens");
  if (t.loss === null && (t.params === null || t.tokens === null)) {
    throw new QuestionError(
      `teacher '${t.name}': a law needs its loss, or its size and tokens to estimate the loss`,
    );
  }
  if (t.loss !== null && !(t.lossSe >= 0 && t.lossSe < t.loss)) {
    throw new QuestionError(`teacher '${t.name}': a standard error is at least 0 and below the loss it belongs to`);
  }
}

function checkSize(s: Situation): void {
  const size = s.studentParams ?? s.maxParams;
  if (size === null && s.studentTokens !== null) {
    throw new QuestionError(
      "with tokens given and the size free, the largest student is always best: fix the student's size, or give the " +
        "largest one you can serve",
    );
  }
  if (size !== null && size < constants().smallest_student) {
    throw new QuestionError(`student of ${general(size)} parameters: write 300M for 300 million`);
  }
  if (s.studentParams === null) {
    if (s.studentTokens !== null && size !== null) checkRatio(s, s.studentTokens, size);
    return;
  }
  if (s.maxParams !== null && s.maxParams < s.studentParams) {
    throw new QuestionError(
      `the student (${formatCount(s.studentParams)}) is larger than the largest that can be served ` +
        `(${formatCount(s.maxParams)}); lower its size or raise the limit`,
    );
  }
  checkRatio(s, trainingTokens(s, s.studentParams), s.studentParams);
}

function checkRatio(s: Situation, tokens: number, params: number): void {
  const least = constants().smallest_ratio;
  if (tokens >= least * params) return;
  if (tokens <= 0) {
    throw new QuestionError(
      `compute ${formatFlop(s.compute!)} is less than serving ${formatCount(s.inferenceTokens)} tokens with a ` +
        `${formatCount(params)} student costs by itself: nothing is left to train on. Raise the budget, or take a smaller ` +
        "student or fewer serving tokens",
    );
  }
  const given = s.compute === null ? `${formatCount(tokens)} tokens` : `compute ${formatFlop(s.compute)}`;
  throw new QuestionError(
    `${given} for a ${formatCount(params)} student is ${general(tokens / params, 2)} tokens per parameter; below ` +
      `${least} nothing is learnt that a law or a study describes. Use a smaller student or a larger budget`,
  );
}

/** The student's size in words. */
export function sizeText(s: Situation): string {
  const n = s.studentParams;
  if (n === null) return s.maxParams === null ? "free-size" : `free-size (up to ${formatCount(s.maxParams)})`;
  return n >= 0.9995e5 && n < 0.9995e6 ? `${general(n / 1e6, 3)}M` : formatCount(n);
}

/** `a 0.1M student on 0.5M tokens` or `... within 1e21 FLOP`. */
export function studentText(s: Situation): string {
  if (s.studentTokens !== null) return `a ${sizeText(s)} student on ${budgetText(s.studentTokens)} tokens`;
  return `a ${sizeText(s)} student within ${formatFlop(s.compute!)}`;
}

export function costShares(s: Situation): CostShares {
  if (s.shares !== null) return s.shares;
  const [logits, training] = constants().scenarios[s.scenario]!;
  return { logits, training };
}

export function comparison(s: Situation): string {
  return s.studentTokens !== null ? "equal-tokens" : "equal-compute";
}
