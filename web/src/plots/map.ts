/** Where distilling pays from the teacher chosen: gain over student size and tokens. */
import * as Plot from "@observablehq/plot";
import type { RenderFunction } from "@observablehq/plot";
import { contours } from "d3-contour";
import { constants } from "../data/bundle";
import { linspace, mean } from "../laws/numerics";
import { studentTokensWorth } from "../plan/bills";
import { best, doubtAt, efoldsOutside } from "../plan/evidence";
import { countedGain, learntDoubt } from "../plan/learnt";
import type { Verdict } from "../plan/plan";
import { SAME_TEXT, teacherLosses, teacherOnLawText } from "../plan/predictions";
import { COLORS, countTick, FONT, hatch, logTicks, svgElement } from "./theme";

const HATCH = "hatch-map";
const [LEFT, RIGHT] = [52, 12];
const LEVELS = [-0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3];
/** From training alone, far better, to distilling, far better. */
const FILLS = [-4, -3, -2, -1, 1, 2, 3, 4].map((k) => `var(--map-${k < 0 ? `p${-k}` : `d${k}`})`);

export function gainMap(v: Verdict, width: number): SVGElement {
  const field = gainField(v);
  // the outermost cells lie beyond the frame, so that no line runs along it
  const inner = (ends: readonly [number, number], cells: number): [number, number] => {
    const cell = (ends[1] - ends[0]) / (cells - 1);
    return [ends[0] + cell, ends[1] - cell];
  };
  const [x, y] = [inner(field.tokens, COLUMNS), inner(field.params, ROWS)];
  const color = (gain: number) => FILLS[Math.min(Math.max(LEVELS.filter((l) => l <= gain).length - 1, 0), FILLS.length - 1)]!;
  const row = best(v.headline);
  const here = { x: Math.log10(row.studentTokens), y: Math.log10(row.studentParams) };
  const name = v.situation.studentTokens === null ? "distilled student here" : "you are here";
  const share = (here.x - x[0]) / (x[1] - x[0]);
  const anchor = share < 0.25 ? "start" : share > 0.75 ? "end" : "middle";
  const reach = 7.5 * name.length * (anchor === "middle" ? 0.5 : 1) + 26; // with half of another label
  const bands = [-1e9, ...LEVELS.slice(1, -1)];
  return Plot.plot({
    width, height: Math.min(430, Math.max(300, width * 0.62)), marginLeft: LEFT, marginBottom: 42, marginRight: RIGHT, style: FONT,
    className: "figure",
    x: {
      domain: x, ticks: logTicks(...x, width < 420 ? 4 : 7), tickFormat: countTick,
      label: "training tokens of the student →", labelAnchor: "center", labelOffset: 36,
    },
    y: { domain: y, ticks: logTicks(...y, 7), tickFormat: countTick, label: "↑ parameters of the student" },
    marks: [
      hatch(HATCH),
      frame,
      ...bands.map((level) => reaching(field, field.gain, level, { fill: color(Math.max(level, -1)) })),
      reaching(field, field.outside, 0.5, { fill: `url(#${HATCH})` }),
      reaching(field, field.gain, 0, { fill: "none", stroke: COLORS.ink, "stroke-width": 1.8 }),
      ...[1, -1].map((side) =>
        reaching(field, field.sure, side, { fill: "none", stroke: COLORS.ink, "stroke-width": 1.2, "stroke-dasharray": "5 3" }),
      ),
      Plot.text(levelLabels(field, { ...here, reach }, width - LEFT - RIGHT), {
        x: "x", y: "y", text: "text", fill: COLORS.ink, stroke: COLORS.paper, strokeWidth: 3.5, fontSize: 11.5,
      }),
      Plot.dot([here], { x: "x", y: "y", r: 6, fill: COLORS.ink, stroke: COLORS.paper, strokeWidth: 2 }),
      Plot.text([here], {
        x: "x", y: "y", text: () => name, textAnchor: anchor, dy: -15, fill: COLORS.ink, stroke: COLORS.paper, strokeWidth: 4, fontWeight: 600,
      }),
    ],
    color: { type: "identity" },
  }) as SVGElement;
}

/** Rows, as shares of the height, in which a line is looked for to be named. */
const HEIGHTS = [0.3, 0.55, 0.8, 0.12, 0.42, 0.68];

/** Columns between which one row of a field passes a level. */
function crossings(values: Float64Array, level: number, row: number): number[] {
  const found: number[] = [];
  for (let j = 2; j < COLUMNS - 3; j++) {
    const [a, b] = [values[row * COLUMNS + j]!, values[row * COLUMNS + j + 1]!];
    if ((a - level) * (b - level) <= 0) found.push(j + (a === b ? 0 : (level - a) / (b - a)));
  }
  return found;
}

/** The value of each contour, where it meets one of a few rows, in a frame of so many pixels; no label lies on another or
 * within `reach` pixels of `here`. */
function levelLabels(field: Field, here: { x: number; y: number; reach: number }, width: number): { x: number; y: number; text: string }[] {
  const [wide, high] = [field.tokens, field.params].map(([a, b]) => b - a) as [number, number];
  const found: { x: number; y: number; text: string }[] = [];
  const at = (i: number, j: number) => ({
    x: field.tokens[0] + (j / (COLUMNS - 1)) * (field.tokens[1] - field.tokens[0]),
    y: field.params[0] + (i / (ROWS - 1)) * (field.params[1] - field.params[0]),
  });
  const isFree = (p: { x: number; y: number }) =>
    found.every((q) => Math.abs(q.x - p.x) > (50 / width) * wide || Math.abs(q.y - p.y) > 0.06 * high) &&
    (Math.abs(here.x - p.x) > (here.reach / width) * wide || Math.abs(here.y - p.y) > 0.13 * high) &&
    Math.abs(p.x - (field.tokens[0] + wide / 2)) < (0.5 - 30 / width) * wide;
  const lines = LEVELS.slice(1, -1).map((level) => ({
    values: field.gain, level, text: level === 0 ? "equal" : `${level > 0 ? "+" : "−"}${Math.abs(level)}`,
  }));
  const sure = [1, -1].map((level) => ({ values: field.sure, level, text: `${Math.round(100 * constants().sure)} %` }));
  for (const { values, level, text } of [...lines, ...sure]) {
    const places = HEIGHTS.map((share) => Math.round(share * (ROWS - 1))).flatMap((i) =>
      crossings(values, level, i).map((j) => at(i, j)),
    );
    const place = places.find(isFree);
    if (place) found.push({ ...place, text });
  }
  return found;
}

export const COLUMNS = 56;
export const ROWS = 40;

export interface Field {
  /** Log10 of the ends of both axes. */
  readonly tokens: readonly [number, number];
  readonly params: readonly [number, number];
  /** Mean gain over the laws, row by row from the smallest student, nats/token. */
  readonly gain: Float64Array;
  /** 1 outside the fitted range. */
  readonly outside: Float64Array;
  /** The gain over what it takes to be sure of its sign: beyond 1 distilling is better, below -1 training alone. */
  readonly sure: Float64Array;
}

export function gainField(v: Verdict): Field {
  const row = best(v.headline);
  const s = v.situation;
  const voice = v.lead;
  const ensemble = voice.ensemble!;
  const scale = v.evidence.find((e) => e.source === voice.source)?.scale.ratio ?? 1;
  const t = teacherLosses(ensemble, s, teacherOnLawText({ ...SAME_TEXT, ratio: scale }, row.teacher!));
  const teacherLoss = mean(t.map(Math.exp));
  const [x, y] = [Math.log10(row.studentTokens), Math.log10(row.studentParams)];
  const box = Object.fromEntries(voice.range.map(([name, low, high]) => [name, [Math.log10(low), Math.log10(high)]]));
  const [tLow, tHigh] = box.student_tokens ?? [x, x];
  const [nLow, nHigh] = box.student_params ?? [y, y];
  const tokens = [Math.min(tLow!, x - 0.4) - 0.3, Math.max(tHigh!, x + 0.4) + 0.3] as const;
  const params = [Math.min(nLow!, y - 0.3) - 0.2, Math.max(nHigh!, y + 0.3) + 0.2] as const;
  const field = [0, 0, 0].map(() => new Float64Array(COLUMNS * ROWS)) as [Float64Array, Float64Array, Float64Array];
  const [gain, outside, sure] = field;
  const [alone, taught] = [new Float64Array(ensemble.length), new Float64Array(ensemble.length)];
  const sizes = linspace(params[0], params[1], ROWS);
  const budgets = linspace(tokens[0], tokens[1], COLUMNS);
  sizes.forEach((size, i) => {
    const n = size * Math.LN10;
    const deviations = voice.learnt === null ? constants().sure_deviations : constants().published_sure_deviations;
    budgets.forEach((budget, j) => {
      const worth = (is: boolean) => studentTokensWorth({ ...s, studentParams: 10 ** size }, 10 ** budget, is);
      const fresh = worth(true);
      const [dOwn, d] = [Math.log(worth(false)), Math.log(fresh)];
      ensemble.forEach((law, k) => {
        [alone[k], taught[k]] = [Math.exp(law.supervised(n, dOwn)), Math.exp(law.distilled(n, d, t[k]!))];
      });
      const at = i * COLUMNS + j;
      const away = efoldsOutside(voice.range, {
        student_params: [10 ** size], student_tokens: [fresh], teacher_loss: [teacherLoss],
        tokens_per_param: [10 ** (budget - size)],
      });
      outside[at] = Object.keys(away).length ? 1 : 0;
      const counted = countedGain(s, voice.learnt, away, alone, alone, taught, 10 ** budget, teacherLoss);
      const middle = mean(counted);
      gain[at] = scale * middle;
      const share = voice.learnt === null ? doubtAt(voice.doubt, away) : learntDoubt(s, voice.learnt, away, alone, alone, taught, 10 ** budget);
      const doubt = share * mean(alone);
      const spread = Math.max(mean(counted.map((x) => x * x)) - middle * middle, 0);
      sure[at] = middle / (deviations * Math.sqrt(doubt * doubt + spread));
    });
  });
  return { tokens, params, gain, outside, sure };
}

const CLIP = "frame-map";

/** The frame, at which all regions are cut: the field goes on beyond it. */
export const frame: RenderFunction = (_index, _scales, _values, at) => {
  const made = svgElement("clipPath", { id: CLIP });
  const [width, height] = [at.width - at.marginLeft - at.marginRight, at.height - at.marginTop - at.marginBottom];
  made.append(svgElement("rect", { x: at.marginLeft, y: at.marginTop, width, height }));
  return made;
};

/** Where the values of a field are at least `level`; needs `frame` in the same plot. */
function reaching(field: Field, values: Float64Array, level: number, style: Record<string, string | number>): RenderFunction {
  const place = (ends: readonly [number, number], count: number, at: number) =>
    ends[0] + ((at - 0.5) / (count - 1)) * (ends[1] - ends[0]);
  return (_index, scales) => {
    const [x, y] = [scales.x, scales.y] as [(at: number) => number, (at: number) => number];
    const point = ([i, j]: number[]) =>
      `${x(place(field.tokens, COLUMNS, i!)).toFixed(1)},${y(place(field.params, ROWS, j!)).toFixed(1)}`;
    const { coordinates } = contours().size([COLUMNS, ROWS]).contour(Array.from(values), level);
    const d = coordinates.flat().map((ring) => `M${ring.map(point).join("L")}Z`).join("");
    return svgElement("path", { d, "clip-path": `url(#${CLIP})`, ...style });
  };
}
