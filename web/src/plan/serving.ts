/**
 * The largest student that memory or latency allow. Mirrors `largest_served` of `distillaw/planning/budget.py`.
 *
 *     weights and the keys and values of one sequence fit the memory; reading the weights once a token keeps the latency
 */
import { constants } from "../data/bundle";
import { QuestionError } from "../quantities";
import { say } from "../words";

export interface Limit {
  readonly params: number;
  readonly text: string;
}

export interface Serving {
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
