/** What the user typed, as text, and the situation it stands for. Mirrors `distillaw/planning/question.py`. */
import { type BudgetKind, type CellData, type HardwareData, constants, data } from "../data/bundle";
import { type Limit, largestServed } from "../plan/bills";
import { type Situation, type Teacher, teacher } from "../plan/situation";
import { parseCount, QuestionError } from "../quantities";
import { say } from "../words";

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
  /** Random weights, a cut of a teacher, or a model pretrained before. */
  start: string;
  scenario: string;
  logits: "online" | "stored";
  studentsServed: string;
  vocab: string;
  context: string;
  level: string;
  /** A law to consult first; empty for the published ones alone. */
  law: string;
}

/** Key of the page's question for an option of the command: `max-student` is `maxStudent`. */
export function keyOf(option: string): keyof Question {
  return option.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase()) as keyof Question;
}

/** The usual values of all fields, and an example of a budget and a teacher. */
export function usualQuestion(): Question {
  const usual = Object.fromEntries(data().fields.map((field) => [keyOf(field.option), field.usual]));
  const example = { budgetKind: "tokens", budget: data().budgets.tokens.usual, named: [], trainOwn: false };
  return { ...example, own: [{ params: "8B", tokens: "2T", loss: "" }], ...usual } as unknown as Question;
}

/** What the page asks when it is opened: the defaults, or what the embedded study was made for. */
export function firstQuestion(): Question {
  return { ...usualQuestion(), ...structuredClone(data().study?.question ?? {}) };
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
  if (q.start === "pruned" && params === null) throw new QuestionError(say("start needs size"));
  if (q.onlyExisting && !listed.length) {
    throw new QuestionError(say("no teacher left"));
  }
  return {
    studentParams: params, studentTokens: tokens, compute: bought?.flop ?? null, budgetText: bought?.text ?? "",
    maxParams: limit?.params ?? null, limitText: limit?.text ?? say("as given"),
    teachers: listed, start: q.start, startShift: 0, mayTrainTeacher: !q.onlyExisting, scenario: q.scenario, shares: null,
    studentsServed: digits(q.studentsServed, "students served"),
    logits: q.logits, uniqueTokens: optional(q.uniqueTokens, "unique tokens"),
    inferenceTokens: optional(q.inferenceTokens, "serving tokens") ?? 0, vocab: vocabularyOf(q),
    context: digits(q.context, "context"),
  };
}

/** What a student needs to learn from the named teachers, padding included; else as given, or the papers'. */
function vocabularyOf(q: Question): number {
  const asked = q.vocab.trim() ? digits(q.vocab, "vocabulary") : null;
  const named = data().teachers.filter((t) => q.named.includes(t.name));
  for (const t of named) {
    if (asked !== null && (asked < t.tokenizer_size || asked > t.vocab)) {
      throw new QuestionError(say("other vocab", { vocab: asked, teacher: t.name, own: t.vocab }));
    }
  }
  return asked ?? (named.length ? Math.max(...named.map((t) => t.vocab)) : constants().vocab);
}

/** The tightest limit on the student's size; null where there is none. */
export function limitOf(q: Question): Limit | null {
  const given = optional(q.maxStudent, "largest student");
  const served = q.serveMemory.trim() || q.serveLatency.trim()
    ? largestServed({
        memory: optional(q.serveMemory, "serving memory"), latency: fraction(q.serveLatency, "latency"),
        bandwidth: optional(q.serveBandwidth, "bandwidth"), weightBytes: fraction(q.weightBytes, "bytes per weight") ?? 2,
        context: digits(q.context, "context"), vocab: vocabularyOf(q),
      })
    : null;
  if (given === null || (served && served.params < given)) return served;
  return { params: given, text: say("as given") };
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
  const known = data().study?.runs.find((run) => run.role === "teacher" && run.params === params);
  return known ? `${known.label} teacher` : say("sized teacher", { params });
}

function ownTeacher(given: OwnTeacher, exists: boolean): Teacher {
  const params = optional(given.params, "teacher's size");
  const loss = fraction(given.loss, "teacher's loss");
  if (loss !== null && !(loss > 0)) throw new QuestionError(say("positive", { what: "teacher loss", value: loss }));
  const name = params !== null ? labelOf(params) : say("teacher by loss", { loss: loss ?? 0 });
  return teacher({ name, params, loss, tokens: optional(given.tokens, "teacher's tokens"), exists });
}

/** FLOP that a budget buys, and the sentence that says how. Mirrors `distillaw/planning/bills.py`. */
function computeOf(q: Question): { flop: number; text: string } {
  if (q.budgetKind === "compute") return { flop: parseCount(q.budget, "compute"), text: "" };
  const preset = deviceOf(q);
  const given = fraction(q.mfu, "utilisation");
  const mfu = given ?? preset.mfu;
  if (!(mfu > 0 && mfu <= 1)) throw new QuestionError(say("mfu", { mfu }));
  let hours = fraction(q.budget, q.budgetKind) ?? 0;
  let how = say("hours", { hours });
  if (q.budgetKind === "money") {
    const price = fraction(q.price, "price") ?? preset.price_per_hour;
    if (price === null) throw new QuestionError(say("no price", { device: preset.name }));
    if (!(price > 0)) throw new QuestionError(say("price", { price }));
    how = say("dollars", { money: hours, price });
    hours /= price;
  }
  if (!(hours > 0 && hours < Infinity)) throw new QuestionError(say("budget positive", { how }));
  const flop = hours * 3600 * preset.peak_flop_per_second * mfu;
  const span = given !== null ? "" : say("utilisation seen", { low: preset.mfu_low, high: preset.mfu_high });
  return { flop, text: say("budget buys", { how, device: preset.name, share: 100 * mfu, span, flop }) };
}

/** Inputs that may differ from the study's own question: the cell is about these, or they change no verdict of runs. */
const FREE: readonly (keyof Question)[] = ["student", "budget", "law", "device", "mfu", "price"];

function isNear(a: number, b: number, within: number): boolean {
  return Math.abs(Math.log(a / b)) < Math.log1p(within);
}

/** The question that a cell answers: the study's own, but for what changes no verdict of runs. */
export function questionOf(cell: CellData, now: Question): Question {
  return { ...firstQuestion(), law: now.law, device: now.device, student: String(cell.params), budget: String(cell.tokens) };
}

/** The cell of this student and these tokens; null where there is none, or where the question is another in other ways. */
export function measuredCell(q: Question, s: Situation): CellData | null {
  const { study } = data();
  if (!study || s.studentParams === null || s.studentTokens === null) return null;
  const usual = firstQuestion();
  const differs = (Object.keys(usual) as (keyof Question)[]).some(
    (key) => !FREE.includes(key) && JSON.stringify(q[key]) !== JSON.stringify(usual[key]),
  );
  if (differs) return null;
  const found = study.cells.filter((c) => isNear(c.tokens, s.studentTokens!, 0.01) && isNear(c.params, s.studentParams!, 0.25));
  const away = (c: CellData) => Math.abs(Math.log(c.params / s.studentParams!));
  return found.sort((a, b) => away(a) - away(b))[0] ?? null;
}
