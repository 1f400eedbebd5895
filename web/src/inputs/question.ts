/** What the user typed, as text, and the situation it stands for. Mirrors `distillaw/planning/question.py`. */
import { type HardwareData, data } from "../data/bundle";
import { type Limit, largestServed } from "../plan/serving";
import { type Situation, type Teacher, teacher } from "../plan/situation";
import { QuestionError, formatCount, formatFlop, general, parseCount, withCommas } from "../quantities";

export const BUDGETS = ["tokens", "compute", "device-hours", "money"] as const;
export type BudgetKind = (typeof BUDGETS)[number];
/** What a budget of a kind is where nobody has said how much. */
export const USUAL_BUDGET: Record<BudgetKind, string> = { tokens: "20B", compute: "1e21", "device-hours": "500", money: "2000" };

/** A teacher given by numbers. */
export interface OwnTeacher {
  params: string;
  tokens: string;
  loss: string;
}

export interface Question {
  /** Null: free, the best size is searched. */
  student: string | null;
  maxStudent: string;
  /** Bytes for weights and the cache of one sequence. */
  serveMemory: string;
  /** Seconds per generated token, at so many bytes per second read. */
  serveLatency: string;
  serveBandwidth: string;
  weightBytes: string;
  budgetKind: BudgetKind;
  budget: string;
  device: string;
  mfu: string;
  price: string;
  uniqueTokens: string;
  inferenceTokens: string;
  /** Names of real models. */
  named: string[];
  own: OwnTeacher[];
  /** The teachers given by numbers do not exist yet. */
  trainOwn: boolean;
  /** Do not consider training a teacher of the best size. */
  onlyExisting: boolean;
  scenario: string;
  logits: "online" | "stored";
  studentsServed: string;
  vocab: string;
  context: string;
  level: string;
  /** A law to consult first; empty for the published ones alone. */
  law: string;
}

export const DEFAULTS: Readonly<Question> = {
  student: "1B", maxStudent: "", serveMemory: "", serveLatency: "", serveBandwidth: "", weightBytes: "2", budgetKind: "tokens", budget: "20B", device: "h100-sxm", mfu: "", price: "",
  uniqueTokens: "", inferenceTokens: "", named: [], own: [{ params: "8B", tokens: "2T", loss: "" }], trainOwn: false,
  onlyExisting: false, scenario: "inference", logits: "online", studentsServed: "1", vocab: "32768", context: "4096",
  level: "0.9", law: "",
};

/** What the page asks when it is opened: the defaults, or what the embedded study was made for. */
export function firstQuestion(): Question {
  return { ...structuredClone(DEFAULTS as Question), ...structuredClone(data().study?.question ?? {}) };
}

function optional(text: string, name: string): number | null {
  return text.trim() === "" ? null : parseCount(text, name);
}

export function fraction(text: string, name: string): number | null {
  if (text.trim() === "") return null;
  const value = Number(text);
  if (!Number.isFinite(value)) throw new QuestionError(`${name}: cannot read '${text}'; write a number such as 0.4`);
  return value;
}

function whole(text: string, name: string): number {
  const value = parseCount(text, name);
  if (!Number.isInteger(value)) throw new QuestionError(`${name}: got '${text}'; it must be a whole number`);
  return value;
}

/** A whole number as the command reads it: digits alone. */
export function digits(text: string, name: string): number {
  if (!/^\s*\d+\s*$/.test(text)) throw new QuestionError(`${name}: got '${text}'; write a whole number in digits`);
  return whole(text, name);
}

export function levelOf(q: Question): number {
  return fraction(q.level, "level") ?? 0.9;
}

export function deviceOf(q: Question): HardwareData {
  return data().hardware.find((h) => h.name === q.device)!;
}

/** The question in numbers; refused where it is none. */
export function situationOf(q: Question): Situation {
  const tokens = q.budgetKind === "tokens" ? parseCount(q.budget, "tokens") : null;
  const bought = q.budgetKind === "tokens" ? null : computeOf(q);
  const params = q.student === null ? null : parseCount(q.student, "student");
  const limit = limitOf(q);
  const listed = teachersOf(q);
  if (q.onlyExisting && !listed.length) {
    throw new QuestionError("no teacher is left: name one that exists, or allow training one");
  }
  return {
    studentParams: params, studentTokens: tokens, compute: bought?.flop ?? null, budgetText: bought?.text ?? "",
    maxParams: limit?.params ?? null, limitText: limit?.text ?? "as given",
    teachers: listed, mayTrainTeacher: !q.onlyExisting, scenario: q.scenario, shares: null,
    studentsServed: digits(q.studentsServed, "students served"),    logits: q.logits, uniqueTokens: optional(q.uniqueTokens, "unique tokens"),
    inferenceTokens: optional(q.inferenceTokens, "serving tokens") ?? 0, vocab: digits(q.vocab, "vocabulary"),
    context: digits(q.context, "context"),
  };
}

/** The tightest limit on the student's size; null where there is none. */
export function limitOf(q: Question): Limit | null {
  const given = optional(q.maxStudent, "largest student");
  const served = q.serveMemory.trim() || q.serveLatency.trim()
    ? largestServed({
        memory: optional(q.serveMemory, "serving memory"), latency: fraction(q.serveLatency, "latency"),
        bandwidth: optional(q.serveBandwidth, "bandwidth"), weightBytes: fraction(q.weightBytes, "bytes per weight") ?? 2,
        context: digits(q.context, "context"), vocab: digits(q.vocab, "vocabulary"),
      })
    : null;
  if (given === null || (served && served.params < given)) return served;
  return { params: given, text: "as given" };
}

function teachersOf(q: Question): Teacher[] {
  const named = q.named.map((name) => {
    const found = data().teachers.find((t) => t.name === name);
    if (!found) throw new QuestionError(`no teacher is called '${name}'`);
    return teacher({
      name: found.name, params: found.params, tokens: found.tokens, tokenizer: found.tokenizer,
      estimateError: found.estimate_error,
    });
  });
  const own = q.own.filter((t) => t.params.trim() || t.tokens.trim() || t.loss.trim());
  for (const key of ["params", "tokens", "loss"] as const) {
    const given = own.filter((t) => t[key].trim()).length;
    if (given && given < own.length) {
      const what = { params: "size", tokens: "tokens", loss: "loss" }[key];
      throw new QuestionError(`give the ${what} of all teachers entered by numbers, or of none`);
    }
  }
  return [...named, ...own.map((t) => ownTeacher(t, !q.trainOwn))];
}

/** A size as the embedded study calls it, where it is one of its teachers. */
function labelOf(params: number): string {
  return data().study?.runs.find((run) => run.role === "teacher" && run.params === params)?.label ?? formatCount(params);
}

function ownTeacher(given: OwnTeacher, exists: boolean): Teacher {
  const params = optional(given.params, "teacher's size");
  const loss = fraction(given.loss, "teacher's loss");
  if (loss !== null && !(loss > 0)) throw new QuestionError(`teacher loss = ${loss}: it must be positive and finite`);
  const name = params !== null ? `${labelOf(params)} teacher` : `teacher of loss ${general(loss ?? 0)}`;
  return teacher({ name, params, loss, tokens: optional(given.tokens, "teacher's tokens"), exists });
}

/** FLOP that a budget buys, and the sentence that says how. Mirrors `distillaw/planning/budget.py`. */
function computeOf(q: Question): { flop: number; text: string } {
  if (q.budgetKind === "compute") return { flop: parseCount(q.budget, "compute"), text: "" };
  const preset = deviceOf(q);
  const mfu = fraction(q.mfu, "utilisation");
  const used = mfu ?? preset.mfu;
  if (!(used > 0 && used <= 1)) {
    throw new QuestionError(`mfu = ${general(used)}: utilisation is a fraction of peak in (0, 1], e.g. 0.4`);
  }
  const given = fraction(q.budget, q.budgetKind);
  let hours = given ?? 0;
  let how = `${general(hours)} device-hours`;
  if (q.budgetKind === "money") {
    const price = fraction(q.price, "price") ?? preset.price_per_hour;
    if (price === null) {
      throw new QuestionError(`no price is known for ${preset.name}; give one, US dollars per device-hour`);
    }
    if (!(price > 0)) throw new QuestionError(`price = ${general(price)}: US dollars per device-hour, positive, e.g. 2.5`);
    how = `${withCommas(hours)} $ at ${general(price)} $ per device-hour`;
    hours /= price;
  }
  if (!(hours > 0 && hours < Infinity)) throw new QuestionError(`${how}: a budget must be positive and finite`);
  const flop = hours * 3600 * preset.peak_flop_per_second * used;
  const span = mfu !== null ? "" : ` (${general(preset.mfu_low)} to ${general(preset.mfu_high)} are seen)`;
  const share = (100 * used).toFixed(0);
  return { flop, text: `${how} of ${preset.name} at ${share} % of peak${span}: ${formatFlop(flop)}` };
}
