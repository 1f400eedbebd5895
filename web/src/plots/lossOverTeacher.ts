/** Loss against the teacher's size, the flat region marked. */
import * as Plot from "@observablehq/plot";
import { best } from "../plan/evidence";
import type { Verdict } from "../plan/plan";
import { formatCount } from "../quantities";
import { constants } from "../data/bundle";
import { type LossPoint, overTeacherSize } from "./curves";
import { COLORS, FONT, countTick, hatch, logTicks } from "./theme";

const HATCH = "hatch-teacher";
const [TOP, BOTTOM] = [20, 42];
/** Pixels from the line without a teacher down to its name. */
const NAME = 11;

export function lossOverTeacher(v: Verdict, width: number): SVGElement {
  const points = overTeacherSize(v);
  const range = v.teachers!;
  const at = (p: { at: number }) => Math.log10(p.at);
  const ends = [at(points[0]!), at(points[points.length - 1]!)] as [number, number];
  const clipped = (x: number) => Math.min(Math.max(Math.log10(x), ends[0]), ends[1]);
  const alone = points[0]!.alone;
  const step = at(points[1]!) - at(points[0]!);
  const chosen = best(v.headline).teacher?.params ?? null;
  const share = `${(100 * constants().flat).toFixed(1)} %`;
  const isLeft = Math.log10(range.best) < (ends[0] + ends[1]) / 2;
  const heights = heightsOf(points);
  const height = Math.min(360, Math.max(260, width * 0.55));
  const perNat = (height - TOP - BOTTOM) / (heights[1] - heights[0]);
  const flat = { x1: clipped(range.lower), x2: clipped(range.upper) };
  return Plot.plot({
    width, height, marginLeft: 52, marginTop: TOP, marginBottom: BOTTOM, marginRight: 12,
    style: FONT, className: "figure",
    x: {
      domain: ends, ticks: logTicks(ends[0], ends[1], width < 420 ? 4 : 7), tickFormat: countTick,
      label: "parameters of the teacher →", labelAnchor: "center", labelOffset: 36,
    },
    y: { label: "↑ loss of the student, nats per token", grid: true, ticks: 6, domain: heights },
    marks: [
      hatch(HATCH),
      Plot.rectX([flat], { x1: "x1", x2: "x2", fill: COLORS.muted, fillOpacity: 0.15 }),
      Plot.areaY(points, { x: at, y1: (p) => p.distilled.lower, y2: (p) => p.distilled.upper, fill: COLORS.distil, fillOpacity: 0.18 }),
      Plot.rectX(points.filter((p) => p.isOutside), {
        x1: (p: LossPoint) => at(p) - step / 2, x2: (p: LossPoint) => at(p) + step / 2, fill: `url(#${HATCH})`, clip: true,
      }),
      Plot.ruleY([alone.mean], { stroke: COLORS.pretrain, strokeDasharray: "6 3", strokeWidth: 2 }),
      Plot.ruleX([alone], { x: isLeft ? ends[1] : ends[0], y1: "lower", y2: "upper", stroke: COLORS.pretrain, strokeWidth: 4, strokeOpacity: 0.6 }),
      Plot.lineY(points, { x: at, y: (p) => p.distilled.mean, stroke: COLORS.distil, strokeWidth: 2.2 }),
      Plot.ruleX([Math.log10(range.best)], { stroke: COLORS.muted, strokeDasharray: "2 3" }),
      Plot.text([`best: ${formatCount(range.best, 2)}\ngrey: within ${share}`], {
        x: Math.log10(range.best), frameAnchor: "top", lineAnchor: "top", dy: 4, fill: COLORS.ink, stroke: COLORS.paper,
        strokeWidth: 4,
      }),
      Plot.text(["without a teacher"], {
        x: isLeft ? ends[1] : ends[0], dx: isLeft ? -6 : 6, y: alone.mean, dy: NAME, textAnchor: isLeft ? "end" : "start",
        fill: COLORS.pretrain, stroke: COLORS.paper, strokeWidth: 4, fontWeight: 600,
      }),
      chosen === null ? null : here(points, chosen, perNat),
    ],
    color: { type: "identity" },
  }) as SVGElement;
}

function heightsOf(points: LossPoint[]): [number, number] {
  const ends = points.flatMap((p) => [p.distilled.lower, p.distilled.upper, p.alone.lower, p.alone.upper]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  return [low - 0.04 * (high - low), high + 0.04 * (high - low)];
}

/** The teacher of the best distillation, on the curve; its name on the side of the dot that is free. */
function here(points: LossPoint[], params: number, perNat: number): Plot.Markish {
  const p = points.reduce((a, b) => (Math.abs(Math.log(b.at / params)) < Math.abs(Math.log(a.at / params)) ? b : a));
  const x = Math.log10(params);
  const fromName = (dy: number) => Math.abs(perNat * (p.alone.mean - p.distilled.mean) + dy - NAME);
  const dy = fromName(18) < 25 && fromName(-18) > fromName(18) ? -18 : 18;
  const isRight = params > points[Math.round(0.8 * points.length)]!.at;
  return [
    Plot.ruleX([p], { x, y1: (q: LossPoint) => q.distilled.lower, y2: (q: LossPoint) => q.distilled.upper, stroke: COLORS.distil, strokeWidth: 2 }),
    Plot.dot([p], { x, y: (q: LossPoint) => q.distilled.mean, fill: COLORS.distil, stroke: COLORS.paper, r: 5 }),
    Plot.text([p], {
      x, y: (q: LossPoint) => q.distilled.mean, text: () => `chosen: ${formatCount(params, 2)}`, dy, dx: isRight ? 8 : 0, textAnchor: isRight ? "end" : "middle", fill: COLORS.distil,
      stroke: COLORS.paper, strokeWidth: 4, fontWeight: 600,
    }),
  ];
}
