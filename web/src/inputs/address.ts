/** The question in the address of the page, so that a link is an answer. */
import { type BudgetKind, type FieldData, constants, data } from "../data/bundle";
import { QuestionError, formatCount, parseCount } from "../quantities";
import { type OwnTeacher, type Question, digits, firstQuestion, fraction, keyOf } from "./question";

/** A student of free size in an address. */
const FREE = "";
/** Teachers of an address beyond these are left out. */
const MOST_TEACHERS = 20;

/** Teachers by numbers where an address gives none: beside a named one the example would be one too many. */
function usualOwn(named: readonly string[]): OwnTeacher[] {
  return named.length ? [] : firstQuestion().own;
}

function usualBudget(kind: BudgetKind): string {
  const first = firstQuestion();
  return kind === first.budgetKind ? first.budget : data().budgets[kind].usual;
}

/** What differs from the defaults, as the part of the address after `#`. */
export function toHash(q: Question): string {
  const found = new URLSearchParams();
  for (const [key, usual] of Object.entries(firstQuestion())) {
    const value = q[key as keyof Question];
    if (key === "named") {
      for (const name of q.named) found.append("teacher", name);
    } else if (key === "own") {
      if (JSON.stringify(q.own) === JSON.stringify(usualOwn(q.named))) continue;
      found.append("own", q.own.map((t) => [t.params, t.tokens, t.loss].map((x) => x.trim()).join("~")).join("_"));
    } else if (key === "student") {
      const isEmptied = q.student === ""; // no question yet
      if (q.student !== usual && !isEmptied) found.append(key, q.student ?? FREE);
    } else if (value !== (key === "budget" ? usualBudget(q.budgetKind) : usual)) found.append(key, String(value));
  }
  return found.toString();
}

/** A question, and what of its address could not be used, in one line; empty where all was. */
interface Opened {
  readonly question: Question;
  readonly note: string;
}

/** The question of an address. What cannot be read is named, and keeps its default; so does all of a question that has
 * no answer.
 * @param answer - throws where the question has none. */
export function fromHash(hash: string, answer: (q: Question) => unknown): Opened {
  const unread: string[] = [];
  const question = read(new URLSearchParams(hash.replace(/^#/, "")), unread);
  const note = unread.length ? `Of the address these are not used, their usual values are: ${unread.join("; ")}.` : "";
  try {
    answer(question);
    return { question, note };
  } catch (error) {
    const why = error instanceof QuestionError ? error.message : "no law here can be asked that";
    return { question: firstQuestion(), note: `The address asks what cannot be answered, so this is the first question: ${why}.` };
  }
}

function read(given: URLSearchParams, unread: string[]): Question {
  const q = firstQuestion();
  const use = (key: string, text: string, reading: () => void) => {
    try {
      reading();
    } catch (error) {
      if (!(error instanceof QuestionError)) throw error;
      unread.push(`${shown(key)} = ${shown(text)} (${error.message})`);
    }
  };
  for (const [key, text] of given) {
    if (["teacher", "own", "budget", "student"].includes(key)) continue;
    use(key, text, () => Object.assign(q, { [key]: single(key, text) }));
  }
  const student = given.get("student");
  if (student === FREE) q.student = null;
  else if (student !== null) use("student", student, () => (q.student = count(student)));
  const kindIsRead = given.get("budgetKind") === null || given.get("budgetKind") === q.budgetKind;
  q.budget = usualBudget(q.budgetKind);
  const budget = given.get("budget");
  if (budget !== null && kindIsRead) use("budget", budget, () => (q.budget = isCounted(q.budgetKind) ? count(budget) : positive(budget)));
  for (const name of given.getAll("teacher")) use("teacher", name, () => addNamed(q.named, name));
  const own = given.get("own");
  q.own = [];
  for (const one of own ? own.split("_") : []) use("own", one, () => q.own.push(ownTeacher(one, q.own.length)));
  if (own !== "" && !q.own.length) q.own = usualOwn(q.named); // none given, or none that can be read
  return q;
}

function isCounted(kind: BudgetKind): boolean {
  return kind === "tokens" || kind === "compute";
}

/** What was typed, short enough for a line and without what would not be seen. */
function shown(text: string): string {
  const plain = text.replace(/[\p{C}\s]+/gu, " ").trim();
  return `'${[...plain].length > 30 ? `${[...plain].slice(0, 30).join("")}…` : plain}'`;
}

function count(text: string): string {
  parseCount(text, "value");
  return text;
}

function positive(text: string): string {
  if (!(fraction(text, "value")! > 0)) throw new QuestionError("it must be a number above zero");
  return text;
}

function wholeNumber(text: string): string {
  if (digits(text, "value") > constants().largest.tokens!) throw new QuestionError("it is too large");
  return text;
}

function oneOf(known: readonly string[], text: string): string {
  if (!known.includes(text)) throw new QuestionError(`it is one of ${known.map((name) => name || "nothing").join(", ")}`);
  return text;
}

function yesOrNo(text: string): boolean {
  return oneOf(["true", "false"], text) === "true";
}

const optional = (reader: (text: string) => string) => (text: string) => (text.trim() === "" ? "" : reader(text));

/** A value of a field, as an address gives it. */
function valueOf({ kind, choices, between, usual }: FieldData, text: string): string | boolean {
  if (kind === "flag") return yesOrNo(text);
  if (kind === "choice") return oneOf(choices!, text);
  if (kind === "whole") return wholeNumber(text);
  if (text.trim() === "" && (usual === "" || kind === "positive")) return "";
  if (kind !== "fraction") return kind === "count" ? count(text) : positive(text);
  const [low, high] = between!;
  const value = fraction(text, "value");
  if (value === null || !(value >= low && value <= high)) throw new QuestionError(`it lies between ${low} and ${high}`);
  return text;
}

/** A value of an input of one value; refused where there is no such input. */
function single(key: string, text: string): string | boolean {
  if (key === "budgetKind") return oneOf(Object.keys(data().budgets), text);
  if (key === "trainOwn") return yesOrNo(text);
  const field = data().fields.find((one) => keyOf(one.option) === key);
  if (!field) throw new QuestionError("there is no such input");
  return valueOf(field, text);
}

function addNamed(named: string[], name: string): void {
  const key = (text: string) => text.toLowerCase().replace(/[-_\s]/g, "");
  const found = data().teachers.find((t) => key(t.name) === key(name));
  if (!found) throw new QuestionError("no real model of that name is in the list");
  checkRoom(named.length);
  if (!named.includes(found.name)) named.push(found.name);
}

function checkRoom(taken: number): void {
  if (taken >= MOST_TEACHERS) throw new QuestionError(`${formatCount(MOST_TEACHERS)} teachers are enough`);
}

function ownTeacher(text: string, taken: number): OwnTeacher {
  checkRoom(taken);
  const [params = "", tokens = "", loss = ""] = text.split("~");
  return { params: optional(count)(params), tokens: optional(count)(tokens), loss: optional(positive)(loss) };
}
