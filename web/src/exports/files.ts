/** Numbers at full precision for a spreadsheet. */
import { linspace } from "../laws/numerics";
import type { Verdict } from "../plan/plan";
import type { LossPoint } from "../plots/curves";
import { type Field, COLUMNS, ROWS } from "../plots/map";
import { svgElement } from "../plots/theme";

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

/** Offer a file for download. */
export function save(name: string, content: BlobPart, type: string): void {
  const link = document.createElement("a");
  const url = URL.createObjectURL(new Blob([content], { type }));
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const VARIABLE = /var\((--[\w-]+)(?:,[^)]*)?\)/g;

const MARGIN = 8;

/** As large as the width allows; a bold letter is on average 0.6 of its size wide. */
function headingSize(title: string, width: number): number {
  return Math.min(14, (width - 2 * MARGIN) / (0.6 * title.length));
}

/** A figure as a file of its own: its title inside, the colours and the font of the light page. */
export function figureSvg(svg: SVGElement, title: string): string {
  const copy = svg.cloneNode(true) as SVGElement;
  const light = document.querySelector(".light-values")!;
  const style = getComputedStyle(light);
  const resolve = (text: string) => text.replace(VARIABLE, (_, name: string) => style.getPropertyValue(name).trim());
  for (const element of [copy, ...copy.querySelectorAll("*")]) {
    for (const attribute of [...element.attributes]) {
      if (attribute.value.includes("var(")) attribute.value = resolve(attribute.value);
    }
    if (element.tagName === "style") element.textContent = resolve(element.textContent ?? "");
  }
  const [width, height] = [Number(svg.getAttribute("width")), Number(svg.getAttribute("height"))];
  const room = 30;
  copy.setAttribute("viewBox", `0 ${-room} ${width} ${height + room}`);
  copy.setAttribute("height", String(height + room));
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const paper = svgElement("rect", { x: 0, y: -room, width, height: height + room, fill: style.getPropertyValue("--paper").trim() });
  const heading = svgElement("text", {
    x: MARGIN, y: -10, "text-anchor": "start", "font-weight": 700, "font-size": headingSize(title, width),
    fill: style.getPropertyValue("--ink").trim(),
  });
  heading.textContent = title;
  copy.prepend(paper, heading);
  return new XMLSerializer().serializeToString(copy);
}

/** The same as a picture, twice as fine as on the screen. */
export async function figurePng(svg: SVGElement, title: string): Promise<Blob> {
  const text = figureSvg(svg, title);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("no picture"))), "image/png"));
}
