/** The question as `distillaw plan` is asked it, and as a TOML file: both give the same answer. */
import { type CellData, data } from "../data/bundle";
import { type OwnTeacher, type Question, keyOf } from "./question";

type Words = [name: string, values: readonly string[]];

/** Whether an option can act beside the others: the command refuses those that cannot (`distillaw/planning/question.py`). */
function acts(option: string, q: Question): boolean {
  const [memory, latency] = [q.serveMemory.trim(), q.serveLatency.trim()];
  const named = q.named.length + given(q.own).length > 0;
  switch (option) {
    case "serve-bandwidth": return latency !== "";
    case "weight-bytes": return memory !== "" || latency !== "";
    case "students-served": {
      const mayTrain = !q.onlyExisting && !(named && q.budgetKind === "tokens");
      return mayTrain || q.logits === "stored" || q.scenario.startsWith("pretraining") || (q.trainOwn && given(q.own).length > 0);
    }
    default: return true;
  }
}

function given(own: readonly OwnTeacher[]): OwnTeacher[] {
  return own.filter((t) => t.params.trim() || t.tokens.trim() || t.loss.trim());
}

/** Options of the command, defaults left out. */
function optionsOf(q: Question): Words[] {
  const found: Words[] = q.student === null ? [] : [["student", [q.student.trim()]]];
  found.push([q.budgetKind, [q.budget.trim()]]);
  for (const { option, usual } of data().fields) {
    const value = q[keyOf(option)];
    if (option === "student" || !acts(option, q)) continue;
    if (value === true) found.push([option, []]);
    else if (typeof value === "string" && value.trim() && value.trim() !== usual) found.push([option, [value.trim()]]);
  }
  if (q.named.length) found.push(["teacher", q.named]);
  const own = given(q.own);
  for (const key of ["params", "tokens", "loss"] as const) {
    if (own.some((t) => t[key].trim())) found.push([`teacher-${key}`, own.map((t) => t[key].trim())]);
  }
  if (own.length && q.trainOwn) found.push(["train-teacher", []]);
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
