/** What the user has: a student, tokens or compute, teachers, and who pays. Mirrors `distillaw/planning/situation.py`. */
import { constants } from "../data/bundle";
import { QuestionError, formatSize } from "../quantities";
import { say } from "../words";
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
  /** What students begin from: `random` weights, `pruned` out of a teacher, or a model `pretrained` before. */
  readonly start: string;
  /** Standard deviations by which ln of the head start is moved: to see what its doubt does. */
  readonly startShift: number;
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

const UNITS: readonly (readonly [key: keyof Situation, name: string, unit: string])[] = [
  ["studentParams", "student_params", "parameters"], ["studentTokens", "student_tokens", "tokens"],
  ["compute", "compute", "FLOP"], ["maxParams", "max_params", "parameters"],
  ["uniqueTokens", "unique_tokens", "tokens"], ["inferenceTokens", "inference_tokens", "tokens"],
];

function refuse(name: string, slots: Parameters<typeof say>[1] = {}): never {
  throw new QuestionError(say(name, slots));
}

function checkPlausible(what: string, value: number | null, unit: string): void {
  const largest = constants().largest[unit]!;
  if (value !== null && value > largest) refuse("slip", { what, value, largest, unit });
}

/** Refuse what cannot be planned. */
export function checkSituation(s: Situation): Situation {
  const { vocab, context } = s;
  if ((s.studentTokens === null) === (s.compute === null)) refuse("one budget");
  for (const [key, name, unit] of UNITS) checkPlausible(name, s[key] as number | null, unit);
  for (const t of s.teachers) checkTeacher(t);
  if (vocab < 1 || context < 1) refuse("vocab", { vocab, context });
  if (s.studentsServed < 1) refuse("students served", { count: s.studentsServed });
  checkSize(s);
  const named = [...new Set(s.teachers.map((t) => t.tokenizer).filter((t) => t !== null))].sort();
  if (named.length > 1) refuse("tokenizers", { count: named.length, names: named.join(", ") });
  return s;
}

function checkTeacher(t: Teacher): void {
  checkPlausible(`${t.name}: parameters`, t.params, "parameters");
  checkPlausible(`${t.name}: tokens`, t.tokens, "tokens");
  if (t.loss === null && (t.params === null || t.tokens === null)) refuse("teacher needs", { name: t.name });
}

function checkSize(s: Situation): void {
  const size = s.studentParams ?? s.maxParams;
  if (size === null) {
    if (s.studentTokens !== null) refuse("largest is best");
    return;
  }
  if (size < constants().smallest_student) refuse("tiny model", { who: "student", params: size });
  if (s.studentParams !== null && s.maxParams !== null && s.maxParams < size) refuse("over the limit", { params: size, limit: s.maxParams });
  if (s.studentParams !== null || s.studentTokens !== null) checkRatio(s, trainingTokens(s, size), size);
}

function checkRatio(s: Situation, tokens: number, params: number): void {
  const { smallest_ratio: least } = constants();
  const compute = s.compute ?? 0;
  if (tokens <= 0) refuse("serving takes all", { compute, served: s.inferenceTokens, params });
  const given = s.compute === null ? say("given tokens", { tokens }) : say("given compute", { compute });
  if (tokens < least * params) refuse("few per parameter", { given, who: "student", params, ratio: tokens / params, least });
}

/** The student's size in words. */
export function sizeText(s: Situation): string {
  const n = s.studentParams;
  if (n === null) return s.maxParams === null ? say("free size") : say("free size up to", { limit: s.maxParams });
  return formatSize(n);
}

/** `a 0.1M student on 0.5M tokens` or `... within 1e21 FLOP`. */
export function studentText(s: Situation): string {
  const size = sizeText(s);
  if (s.studentTokens !== null) return say("student on tokens", { size, tokens: s.studentTokens });
  return say("student within", { size, compute: s.compute! });
}

export function costShares(s: Situation): CostShares {
  if (s.shares !== null) return s.shares;
  const [logits, training] = constants().scenarios[s.scenario]!;
  return { logits, training };
}

export function comparison(s: Situation): string {
  return s.studentTokens !== null ? "equal-tokens" : "equal-compute";
}
