/** What each strategy costs this student, by part. */
import * as Plot from "@observablehq/plot";
import { sharesOf } from "../plan/bills";
import type { Strategy } from "../plan/evidence";
import type { Verdict } from "../plan/plan";
import { COLORS, FONT, powerOfTen } from "./theme";

interface Part {
  row: string;
  name: string;
  color: string;
  from: number;
  to: number;
}

/** FLOP that this student pays, by part and in the order of the stack; null where a size is unknown. */
function paidParts(v: Verdict, row: Strategy): { name: string; color: string; flop: number }[] | null {
  const { compute } = row;
  if (compute.total === null) return null;
  const shares = sharesOf(v.situation, row.teacher);
  return [
    { name: "student", color: COLORS.student, flop: compute.student_training },
    { name: "logits", color: COLORS.logits, flop: shares.logits * (compute.teacher_logits ?? 0) },
    { name: "teacher", color: COLORS.teacher, flop: shares.training * (compute.teacher_training ?? 0) },
    { name: "serving", color: COLORS.serving, flop: compute.serving ?? 0 },
  ].filter((part) => part.flop > 0);
}

export function costStack(v: Verdict, width: number): SVGElement {
  const rows = v.strategies.filter((row) => row.compute.total !== null);
  const parts: Part[] = rows.flatMap((row) => {
    let from = 0;
    return paidParts(v, row)!.map(({ name, color, flop }) => ({ row: row.name, name, color, from, to: (from += flop) }));
  });
  const most = Math.max(...rows.map((row) => row.compute.total!));
  const isNarrow = width < 560;
  const left = isNarrow ? 8 : 250;
  const room = (width - left - 90) / most;
  const height = 34 + rows.length * (isNarrow ? 50 : 34);
  return Plot.plot({
    width, height: height + 22, marginLeft: left, marginRight: 82, marginTop: isNarrow ? 20 : 6, marginBottom: 40, style: FONT,
    className: "figure",
    x: {
      domain: [0, most], ticks: isNarrow ? 3 : 5, tickFormat: (x: number) => powerOfTen(x, 2).replace(".0×", "×"), label: "FLOP paid here →",
      labelAnchor: "center", labelOffset: 36, grid: true,
    },
    y: { domain: rows.map((r) => r.name), label: null, axis: null, padding: isNarrow ? 0.5 : 0.25 },
    marks: [
      Plot.barX(parts, { y: "row", x1: "from", x2: "to", fill: "color", insetLeft: 0.5, insetRight: 0.5 }),
      Plot.text(parts.filter((p) => (p.to - p.from) * room > 8 * p.name.length), {
        y: "row", x: (p: Part) => (p.from + p.to) / 2, text: "name", fill: "var(--on-part)", fontWeight: 600,
      }),
      Plot.text(rows, {
        y: "name", x: (r: Strategy) => r.compute.total, text: (r: Strategy) => powerOfTen(r.compute.total!, 3), dx: 6, textAnchor: "start",
        fill: COLORS.ink,
      }),
      isNarrow
        ? Plot.text(rows, { y: "name", frameAnchor: "left", text: "name", dy: -22, textAnchor: "start", fill: COLORS.ink })
        : Plot.axisY({ tickSize: 0, label: null, lineWidth: 18, fill: COLORS.ink, textOverflow: "ellipsis-end" }),
    ],
    color: { type: "identity" },
  }) as SVGElement;
}
