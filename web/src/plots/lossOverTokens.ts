/** Loss against training tokens: distilled and supervised with bands, and where supervised training catches up. */
import * as Plot from "@observablehq/plot";
import { best } from "../plan/evidence";
import type { Interval } from "../plan/draws";
import type { Verdict } from "../plan/plan";
import { type RunData, data } from "../data/bundle";
import { formatCount } from "../quantities";
import { COLORS, FONT, countTick, hatch, logTicks } from "./theme";
import { type LossPoint, overTokens } from "./curves";

const HATCH = "hatch-tokens";

export function lossOverTokens(v: Verdict, width: number): SVGElement {
  const points = overTokens(v);
  const at = (p: { at: number }) => Math.log10(p.at);
  const ends = [at(points[0]!), at(points[points.length - 1]!)] as [number, number];
  const row = best(v.headline);
  const own = v.headline.pretrain!;
  const here = [
    { at: own.studentTokens, loss: own.loss, color: COLORS.pretrain },
    { at: row.studentTokens, loss: row.loss, color: COLORS.distil },
  ];
  const label = labels(points);
  return Plot.plot({
    width, height: Math.min(360, Math.max(260, width * 0.55)), marginLeft: 52, marginBottom: 42, marginRight: 12,
    style: FONT, className: "figure",
    x: {
      domain: ends, ticks: logTicks(ends[0], ends[1], width < 420 ? 4 : 7), tickFormat: countTick,
      label: "training tokens of the student →", labelAnchor: "center", labelOffset: 36,
    },
    y: { label: "↑ loss, nats per token", grid: true, nice: true, ticks: 6, domain: heights(points, here.map((h) => h.loss)) },
    marks: [
      hatch(HATCH),
      crossing(v, ends, width < 420),
      Plot.areaY(points, { x: at, y1: (p) => p.alone.lower, y2: (p) => p.alone.upper, fill: COLORS.pretrain, fillOpacity: 0.16, clip: true }),
      Plot.areaY(points, { x: at, y1: (p) => p.distilled.lower, y2: (p) => p.distilled.upper, fill: COLORS.distil, fillOpacity: 0.18, clip: true }),
      outside(points, at),
      Plot.lineY(points, { x: at, y: (p) => p.alone.mean, stroke: COLORS.pretrain, strokeWidth: 2, strokeDasharray: "6 3" }),
      Plot.lineY(points, { x: at, y: (p) => p.distilled.mean, stroke: COLORS.distil, strokeWidth: 2.2 }),
      ...measured(v, ends),
      Plot.ruleX(here, { x: at, y1: (p) => p.loss.lower, y2: (p) => p.loss.upper, stroke: "color", strokeWidth: 2 }),
      Plot.dot(here, { x: at, y: (p) => p.loss.mean, fill: "color", stroke: COLORS.paper, r: 5 }),
      ...label.map((one) =>
        Plot.text([one], {
          x: at, y: "y", text: "text", fill: "color", dy: one.dy, textAnchor: one.anchor, stroke: COLORS.paper, strokeWidth: 4,
          fontWeight: 600,
        }),
      ),
    ],
    color: { type: "identity" },
  }) as SVGElement;
}

/** Room for both lines and the intervals of the verdict; bands that grow beyond it, far outside the range, are cut. */
function heights(points: LossPoint[], here: Interval[]): [number, number] {
  const means = points.flatMap((p) => [p.alone.mean, p.distilled.mean]);
  const room = 0.6 * Math.max(...here.map((h) => h.upper - h.lower));
  const low = Math.min(...means, ...here.map((h) => h.lower));
  const high = Math.max(...means, ...here.map((h) => h.upper));
  return [low - room, high + room];
}

/** The region in which supervised training catches up, where it lies in sight. */
function crossing(v: Verdict, [low, high]: [number, number], isNarrow: boolean): Plot.Markish {
  const band = v.crossover;
  if (band === null || band.median === null) return null;
  const clip = (x: number | null, end: number) => Math.min(Math.max(x === null ? end : Math.log10(x), low), high);
  const [from, to] = [clip(band.lower, low), clip(band.upper, high)];
  const middle = Math.log10(band.median);
  const isRight = middle > (low + high) / 2;
  const inSight = middle >= low && middle <= high;
  return [
    Plot.rectX([0], { x1: from, x2: to, fill: COLORS.muted, fillOpacity: 0.13 }),
    inSight ? Plot.ruleX([middle], { stroke: COLORS.muted, strokeDasharray: "2 3" }) : null,
    to - from > 0.02 * (high - low)
      ? Plot.text([`${isNarrow ? "" : "pretraining "}catches up: ${formatCount(band.median)}`], {
          x: inSight ? middle : (from + to) / 2, frameAnchor: "bottom", dy: -6, fill: COLORS.ink, stroke: COLORS.paper,
          strokeWidth: 4, textAnchor: isRight ? "end" : "start", dx: isRight ? -7 : 7,
        })
      : null,
  ];
}

/** The user's own runs of this student, as small rings with their standard errors. */
function measured(v: Verdict, [low, high]: [number, number]): Plot.Markish[] {
  const size = best(v.headline).studentParams;
  const runs = (data().study?.runs ?? []).filter((run) => {
    const x = Math.log10(run.tokens);
    return run.role === "student" && Math.abs(Math.log(run.params / size)) < Math.log(1.25) && x >= low && x <= high;
  });
  const color = (run: RunData) => (run.teacher === null ? COLORS.pretrain : COLORS.distil);
  const x = (run: RunData) => Math.log10(run.tokens);
  return [
    Plot.ruleX(runs.filter((run) => run.loss_se !== null), {
      x, y1: (run: RunData) => run.loss - run.loss_se!, y2: (run: RunData) => run.loss + run.loss_se!, stroke: color, strokeWidth: 0.8,
    }),
    Plot.dot(runs, { x, y: "loss", stroke: color, fill: COLORS.paper, r: 3 }),
  ];
}

function outside(points: LossPoint[], at: (p: { at: number }) => number): Plot.Markish {
  const step = at(points[1]!) - at(points[0]!);
  return Plot.rectX(points.filter((p) => p.isOutside), {
    x1: (p: LossPoint) => at(p) - step / 2, x2: (p: LossPoint) => at(p) + step / 2, fill: `url(#${HATCH})`, clip: true,
  });
}

/** Each line is named beside itself, where the two are apart. */
function labels(points: LossPoint[]) {
  const gap = (p: LossPoint) => Math.abs(p.alone.mean - p.distilled.mean);
  const [left, right] = [points[3]!, points[Math.round(points.length * 0.68)]!];
  const p = gap(left) >= gap(right) ? left : right;
  const anchor: "start" | "middle" = p === left ? "start" : "middle";
  const isBelow = p.distilled.mean < p.alone.mean;
  return [
    { at: p.at, y: p.alone.mean, text: "without a teacher", color: COLORS.pretrain, dy: isBelow ? -16 : 16, anchor },
    { at: p.at, y: p.distilled.mean, text: "distilled", color: COLORS.distil, dy: isBelow ? 16 : -16, anchor },
  ];
}
