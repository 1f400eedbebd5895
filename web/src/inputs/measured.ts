/** Where a question meets a cell that the embedded study measured in pairs: then the runs answer, not the laws. */
import { type CellData, data } from "../data/bundle";
import type { Situation } from "../plan/situation";
import { type Question, firstQuestion } from "./question";

/** Inputs that may differ from the study's own question: the cell is about these, or they change no verdict of runs. */
const FREE: readonly (keyof Question)[] = ["student", "budget", "law", "device"];

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
