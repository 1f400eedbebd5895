/** Numbers at full precision for a spreadsheet. */
import type { Verdict } from "../plan/plan";
import { linspace } from "../laws/numerics";
import type { LossPoint } from "../plots/curves";
import { COLUMNS, type Field, ROWS } from "../plots/field";

type Cell = string | number | boolean | null;

function csv(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const cell = (x: Cell) => {
    const shown = x === null ? "" : String(x);
    const text = typeof x === "string" && /^\s*[=+\-@]/.test(shown) ? `'${shown}` : shown; // no formula for a spreadsheet
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

export function strategiesCsv(v: Verdict): string {
  const head = [
    "strategy", "kind", "student_params", "student_tokens", "teacher_params", "teacher_tokens", "teacher_loss", "loss_mean",
    "loss_lower", "loss_upper", "gain_mean", "gain_lower", "gain_upper", "probability_best_teacher", "flop_student_training",
    "flop_teacher_logits", "flop_teacher_training", "flop_serving", "flop_paid", "is_speculative",
  ];
  return csv(head, v.strategies.map((s) => [
    s.name, s.kind, s.studentParams, s.studentTokens, s.teacher?.params ?? null, s.teacher?.tokens ?? null, s.teacherLoss,
    s.loss.mean, s.loss.lower, s.loss.upper, s.gain?.mean ?? null, s.gain?.lower ?? null, s.gain?.upper ?? null, s.shareBest,
    s.compute.student_training, s.compute.teacher_logits, s.compute.teacher_training, s.compute.serving ?? 0, s.compute.total,
    s.isSpeculative,
  ]));
}

/** The map, point by point. */
export function fieldCsv(field: Field): string {
  const head = ["student_tokens", "student_params", "gain_mean", "is_outside_range"];
  const sizes = linspace(...field.params, ROWS);
  const budgets = linspace(...field.tokens, COLUMNS);
  return csv(head, Array.from(field.gain, (gain, k) => [
    10 ** budgets[k % COLUMNS]!, 10 ** sizes[Math.floor(k / COLUMNS)]!, gain, field.outside[k] === 1,
  ]));
}

export function curveCsv(name: string, points: readonly LossPoint[]): string {
  const head = [name, "alone_mean", "alone_lower", "alone_upper", "distilled_mean", "distilled_lower", "distilled_upper", "is_outside_range"];
  return csv(head, points.map((p) => [
    p.at, p.alone.mean, p.alone.lower, p.alone.upper, p.distilled.mean, p.distilled.lower, p.distilled.upper, p.isOutside,
  ]));
}
