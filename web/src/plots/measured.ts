/** Losses that the user's own runs reached, against tokens: one line for each teacher, and one without. */
import * as Plot from "@observablehq/plot";
import { type RunData, data } from "../data/bundle";
import { COLORS, FONT, countTick, logTicks } from "./theme";

/** Pixels for the name of a line. */
const NAMES = 140;

/** Runs of the student that lies nearest to a size, by tokens. */
export function runsNear(params: number | null): RunData[] {
  const students = (data().study?.runs ?? []).filter((run) => run.role === "student");
  const at = Math.log(params ?? students[0]?.params ?? 1);
  const away = (run: RunData) => Math.abs(Math.log(run.params) - at);
  const nearest = students.reduce<RunData | null>((a, b) => (a && away(a) <= away(b) ? a : b), null);
  return students.filter((run) => run.params === nearest?.params).sort((a, b) => a.tokens - b.tokens);
}

export function measuredLosses(runs: readonly RunData[], width: number): SVGElement {
  const x = (run: RunData) => Math.log10(run.tokens);
  const arms = armsOf(runs);
  const [low, high] = [Math.min(...runs.map(x)), Math.max(...runs.map(x))];
  const room = Math.max(0.1 * (high - low), 0.05);
  const named = NAMES / (width - 64); // share of the width that the names beside the lines take
  const domain = [low - room, high + ((high - low + room) * named) / (1 - named)] as const;
  const color = (run: RunData) => (run.teacher === null ? COLORS.pretrain : COLORS.distil);
  const isKnown = (run: RunData) => run.loss_se !== null;
  return Plot.plot({
    width, height: Math.min(320, Math.max(240, width * 0.45)), marginLeft: 52, marginBottom: 42, marginRight: 12, style: FONT,
    className: "figure",
    x: {
      domain, ticks: logTicks(...domain, width < 420 ? 4 : 7), tickFormat: countTick, label: "training tokens of the student →",
      labelAnchor: "center", labelOffset: 36,
    },
    y: { label: "↑ measured loss, nats per token", grid: true, nice: true, ticks: 6 },
    marks: [
      ...arms.map(({ runs: those, isAlone }) =>
        Plot.lineY(meansOf(those), {
          x: "x", y: "y", stroke: isAlone ? COLORS.pretrain : COLORS.distil, strokeWidth: 1.6, strokeDasharray: isAlone ? "6 3" : "none",
        }),
      ),
      Plot.ruleX(runs.filter(isKnown), {
        x, y1: (run: RunData) => run.loss - run.loss_se!, y2: (run: RunData) => run.loss + run.loss_se!, stroke: color,
      }),
      Plot.dot(runs, { x, y: "loss", stroke: color, fill: COLORS.paper, r: 3.5 }),
      Plot.text(spaced(arms.map(({ name, runs: those, isAlone }) => ({ name, isAlone, ...meansOf(those).at(-1)! })), runs), {
        x: "x", y: "place", text: "name", dx: 9, textAnchor: "start", fontWeight: 600, stroke: COLORS.paper, strokeWidth: 4,
        fill: (d: { isAlone: boolean }) => (d.isAlone ? COLORS.pretrain : COLORS.distil),
      }),
    ],
    color: { type: "identity" },
  }) as SVGElement;
}

interface Arm {
  readonly name: string;
  readonly isAlone: boolean;
  readonly runs: readonly RunData[];
}

function armsOf(runs: readonly RunData[]): Arm[] {
  const label = new Map((data().study?.runs ?? []).map((run) => [run.run_id, run.label]));
  return [...new Set(runs.map((run) => run.teacher))].map((teacher) => ({
    name: teacher === null ? "without a teacher" : `${label.get(teacher) ?? "another"} teacher`,
    isAlone: teacher === null,
    runs: runs.filter((run) => run.teacher === teacher),
  }));
}

/** Means over seeds, by tokens. */
function meansOf(runs: readonly RunData[]): { x: number; y: number }[] {
  const byTokens = new Map<number, number[]>();
  for (const run of runs) byTokens.set(run.tokens, [...(byTokens.get(run.tokens) ?? []), run.loss]);
  return [...byTokens].map(([tokens, losses]) => ({
    x: Math.log10(tokens), y: losses.reduce((a, b) => a + b, 0) / losses.length,
  }));
}

/** Names beside the ends of their lines, moved apart where lines end together. */
function spaced<T extends { y: number }>(names: T[], runs: readonly RunData[]): (T & { place: number })[] {
  const losses = runs.map((run) => run.loss);
  const least = 0.075 * (Math.max(...losses) - Math.min(...losses));
  let before = -Infinity;
  return [...names].sort((a, b) => a.y - b.y).map((one) => {
    before = Math.max(one.y, before + least);
    return { ...one, place: before };
  });
}
