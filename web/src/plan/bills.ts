/**
 * What each option costs, FLOP by part, and what a budget buys. Mirrors `distillaw/planning/bills.py`.
 *
 *     C = 3 F(N_S) D_S + F(N_T) (delta_Lgt D_S + delta_Pre 3 D_T) + F(N_S) D_serving
 */
import { constants } from "../data/bundle";
import { clip } from "../laws/numerics";
import { QuestionError } from "../quantities";
import { say } from "../words";
import { type CostShares, type Situation, type Teacher, costShares } from "./situation";
import { cutSource, logHeadStart } from "./starts";

/** F(N), FLOP per token: a blend of two families of shapes, smooth in N. */
export function forwardFlop(s: Situation, params: number): number {
  const { between, families } = constants();
  const low = Math.log(between[0]);
  const part = clip((Math.log(params) - low) / (Math.log(between[1]) - low), 0, 1);
  const share = part * part * (3 - 2 * part);
  const root = Math.cbrt(params);
  const [small, large] = families.map((f) => 1 + (f.sigma1 * s.context) / root + (f.sigma2 * s.vocab) / (root * root));
  return 2 * params * small! ** (1 - share) * large! ** share;
}

/** Tokens that a student of this size trained alone can have; not positive where serving takes all. */
export function trainingTokens(s: Situation, params: number): number {
  if (s.studentTokens !== null) return s.studentTokens;
  const forward = forwardFlop(s, params);
  return (s.compute! - forward * s.inferenceTokens) / (constants().training_factor * forward);
}

/** What one student pays of the teacher's logits and of its training. */
export function sharesOf(s: Situation, teacher: Teacher | null): CostShares {
  if (teacher === null) return { logits: 0, training: 0 };
  const shares = costShares(s);
  const logits = shares.logits / (s.logits === "stored" ? s.studentsServed : 1);
  return { logits, training: (teacher.exists ? shares.training : 1) / s.studentsServed };
}

/** True where this student pays for a teacher whose price nobody knows: its size, or the tokens of its training. */
function hidesCost(s: Situation, teacher: Teacher | null): boolean {
  if (teacher === null) return false;
  const shares = sharesOf(s, teacher);
  if (teacher.params === null) return Math.max(shares.logits, shares.training) > 0;
  return teacher.tokens === null && shares.training > 0;
}

/**
 * Tokens that a student of this size can have from a teacher: given, or bought; null where it buys none. Where tokens are
 * given nobody pays for training a teacher: none that this student would have to pay for.
 */
export function tokensFor(s: Situation, params: number, teacher: Teacher | null): number | null {
  if (s.studentTokens !== null) return sharesOf(s, teacher).training === 0 ? s.studentTokens : null;
  const tokens = tokensBought(s, params, teacher);
  return tokens > constants().smallest_ratio * params ? tokens : null;
}

/** The same as a number: 0 where the teacher's size is unknown, negative where it costs too much. */
export function tokensBought(s: Situation, params: number, teacher: Teacher | null): number {
  if (hidesCost(s, teacher)) return 0;
  return tokensOn(s, s.compute!, forwardFlop(s, params), teacher);
}

/** D = (C - serving - teacher training) / (3 F(N_S) + delta_Lgt F(N_T)). */
export function tokensOn(s: Situation, compute: number, student: number, teacher: Teacher | null): number {
  const factor = constants().training_factor;
  let left = compute - student * s.inferenceTokens;
  let each = factor * student;
  if (teacher !== null && teacher.params !== null) {
    const forward = forwardFlop(s, teacher.params);
    const shares = sharesOf(s, teacher);
    left -= shares.training * factor * forward * (teacher.tokens ?? 0);
    each += shares.logits * forward;
  }
  return left / each;
}

/** FLOP by part at full cost; `total` counts the shares that this student pays. Null where a size is unknown. */
export interface Bill {
  student_training: number;
  teacher_logits: number | null;
  teacher_training: number | null;
  serving?: number;
  total: number | null;
}

export function bill(s: Situation, params: number, tokens: number, teacher: Teacher | null, taught = 1): Bill {
  const factor = constants().training_factor;
  const student = forwardFlop(s, params);
  const serving = student * s.inferenceTokens;
  const own = factor * student * tokens + serving;
  const parts = { student_training: factor * student * tokens, ...(s.inferenceTokens ? { serving } : {}) };
  if (teacher === null) return { ...parts, teacher_logits: 0, teacher_training: 0, total: own };
  if (teacher.params === null) {
    return { ...parts, teacher_logits: null, teacher_training: null, total: hidesCost(s, teacher) ? null : own };
  }
  const forward = forwardFlop(s, teacher.params);
  const shares = sharesOf(s, teacher);
  const logits = forward * tokens * taught;
  const training = factor * forward * (teacher.tokens ?? 0);
  const total = hidesCost(s, teacher) ? null : own + shares.logits * logits + shares.training * training;
  return { ...parts, teacher_logits: logits, teacher_training: teacher.tokens === null ? null : training, total };
}

/** Fresh tokens that these are worth where the data must be repeated (Muennighoff et al. 2023). */
export function effectiveTokens(s: Situation, tokens: number): number {
  if (s.uniqueTokens === null || tokens <= s.uniqueTokens) return tokens;
  return effective(tokens, s.uniqueTokens, constants().repeat_scale);
}

/** Fresh tokens after which a random start stands where this student does: repeats count less, a cut begins ahead. */
export function studentTokensWorth(s: Situation, tokens: number, isTaught: boolean): number {
  const worth = effectiveTokens(s, tokens);
  const source = s.start === "pruned" ? cutSource(s) : null;
  if (source === null) return worth;
  return worth + Math.exp(logHeadStart(s, source, isTaught) + s.startShift * constants().start_law.spread);
}

export interface Limit {
  readonly params: number;
  readonly text: string;
}

interface Serving {
  /** Bytes. */
  readonly memory: number | null;
  /** Seconds per generated token, and the bytes per second that the device reads. */
  readonly latency: number | null;
  readonly bandwidth: number | null;
  readonly weightBytes: number;
  readonly context: number;
  readonly vocab: number;
}

const STEPS = 60;

export function largestServed(asked: Serving): Limit {
  const { memory, latency, bandwidth, weightBytes: bytes, vocab } = asked;
  const given = { "serve-memory": memory, "serve-latency": latency, "serve-bandwidth": bandwidth, "weight-bytes": bytes };
  for (const [option, value] of Object.entries(given)) {
    if (value !== null && !(value > 0 && value < Infinity)) throw new QuestionError(say("limit positive", { option, value }));
  }
  if (latency !== null && bandwidth === null) throw new QuestionError(say("needs bandwidth"));
  const limits: Limit[] = [];
  const add = (room: number, sequences: number, text: string) => limits.push({ params: largest(asked, room, sequences), text });
  if (memory !== null) add(memory, 1, say("memory", { memory }));
  if (latency !== null) add(latency * bandwidth!, 0, say("latency", { ms: 1000 * latency }));
  const { params, text: why } = limits.reduce((a, b) => (b.params < a.params ? b : a));
  if (params <= constants().served.smallest) throw new QuestionError(say("holds none", { why, vocab, bytes }));
  return { params, text: say("limit", { why, bytes }) };
}

/** Bisection in ln N of the bytes that a model of the fixed-aspect family takes. */
function largest(asked: Serving, room: number, sequences: number): number {
  let { smallest: low, largest: high } = constants().served;
  for (let i = 0; i < STEPS; i++) {
    const middle = Math.sqrt(low * high);
    if (bytesOf(asked, middle, sequences) <= room) low = middle;
    else high = middle;
  }
  return low;
}

function bytesOf(asked: Serving, params: number, sequences: number): number {
  const { aspect, omega, head_dim, cache_bytes } = constants().served;
  const weights = (params + asked.vocab * Math.cbrt(aspect / omega) * Math.cbrt(params)) * asked.weightBytes;
  if (!sequences) return weights;
  const layers = Math.max(1, Math.round(Math.cbrt(params / (aspect * aspect * omega))));
  const heads = Math.max(1, Math.round(Math.sqrt(params / (layers * omega)) / head_dim));
  return weights + sequences * 2 * layers * heads * head_dim * asked.context * cache_bytes;
}

export function effective(tokens: number, unique: number, repeatScale: number): number {
  const useful = Math.min(unique, tokens);
  return useful - useful * repeatScale * Math.expm1(-(tokens / useful - 1) / repeatScale);
}
