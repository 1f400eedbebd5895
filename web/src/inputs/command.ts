/** The question as `distillaw plan` is asked it, and as a TOML file: both give the same answer. */
import { type CellData, data } from "../data/bundle";
import { DEFAULTS, type Question } from "./question";

type Words = [name: string, values: readonly string[]];

/** Options of the command, defaults left out. */
function optionsOf(q: Question): Words[] {
  const found: Words[] = [];
  const add = (name: string, ...values: string[]) => found.push([name, values.map((v) => v.trim())]);
  const given = (name: string, value: string, usual = "") => {
    if (value.trim() && value.trim() !== usual) add(name, value);
  };
  if (q.student !== null) add("student", q.student);
  given("max-student", q.maxStudent);
  given("serve-memory", q.serveMemory);
  given("serve-latency", q.serveLatency);
  if (q.serveLatency.trim()) given("serve-bandwidth", q.serveBandwidth);
  if (q.serveMemory.trim() || q.serveLatency.trim()) given("weight-bytes", q.weightBytes, DEFAULTS.weightBytes);
  add(q.budgetKind, q.budget);
  const isBought = q.budgetKind === "device-hours" || q.budgetKind === "money";
  if (isBought) {
    given("device", q.device, DEFAULTS.device);
    given("mfu", q.mfu);
    if (q.budgetKind === "money") given("price", q.price);
  }
  given("unique-tokens", q.uniqueTokens);
  given("inference-tokens", q.inferenceTokens);
  if (q.named.length) add("teacher", ...q.named);
  const own = q.own.filter((t) => t.params.trim() || t.tokens.trim() || t.loss.trim());
  for (const key of ["params", "tokens", "loss"] as const) {
    if (own.some((t) => t[key].trim())) add(`teacher-${key}`, ...own.map((t) => t[key]));
  }
  if (own.length && q.trainOwn) add("train-teacher");
  if (q.onlyExisting) add("only-existing");
  given("scenario", q.scenario, DEFAULTS.scenario);
  given("logits", q.logits, DEFAULTS.logits);
  // the command refuses it where no bill is shared: as planning/question.py
  const mayTrain = !q.onlyExisting && !((q.named.length || own.length) && q.budgetKind === "tokens");
  const isShared = q.logits === "stored" || q.scenario.startsWith("pretraining") || (own.length && q.trainOwn);
  if (isShared || mayTrain) given("students-served", q.studentsServed, DEFAULTS.studentsServed);
  given("law", q.law);
  given("level", q.level, DEFAULTS.level);
  given("vocab", q.vocab, DEFAULTS.vocab);
  given("context", q.context, DEFAULTS.context);
  return found;
}

/** Words of the command after `distillaw`. */
export function argumentsOf(q: Question): string[] {
  return ["plan", ...optionsOf(q).flatMap(([name, values]) => [`--${name}`, ...values])];
}

/** The command for a shell. */
export function commandOf(q: Question): string {
  const quoted = (word: string) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
  return ["distillaw", ...argumentsOf(q)].map(quoted).join(" ");
}

/** The same as TOML, the names of the options as keys. */
export function tomlOf(q: Question, comment: readonly string[]): string {
  return tomlLines(optionsOf(q), comment);
}

/** The question of one measured cell, to be answered by the study's runs. */
export function tomlOfCell(cell: CellData, comment: readonly string[]): string {
  const asked = { study: data().study!.folder, student: String(cell.params), tokens: String(cell.tokens) };
  return tomlLines(Object.entries(asked).map(([name, value]) => [name, [value]]), comment);
}

function tomlLines(options: readonly Words[], comment: readonly string[]): string {
  const text = (value: string) => JSON.stringify(value);
  const several = ["teacher", "teacher-params", "teacher-tokens", "teacher-loss", "law"];
  const lines = options.map(([name, values]) => {
    if (!values.length) return `${name} = true`;
    return `${name} = ${several.includes(name) ? `[${values.map(text).join(", ")}]` : text(values[0]!)}`;
  });
  return [...comment.map((line) => `# ${line}`), "[plan]", ...lines, ""].join("\n");
}
