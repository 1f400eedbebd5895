/** Colours, ticks and patterns that all figures share. Okabe and Ito's colour-blind-safe palette. */
import { formatCount } from "../quantities";

/** CSS variables, so that light and dark follow the page; an exported figure takes the values of the light page. */
export const COLORS = {
  distil: "var(--distil)", pretrain: "var(--pretrain)", ink: "var(--ink)", muted: "var(--muted)", grid: "var(--grid)",
  paper: "var(--paper)", student: "var(--part-student)", logits: "var(--part-logits)",
  teacher: "var(--part-teacher)", serving: "var(--part-serving)",
} as const;

export const FONT = { fontSize: "12.5px", fontFamily: "var(--sans, system-ui, sans-serif)" } as const;

const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** 10²¹, 2×10²⁰: powers of ten as people write them. */
export function powerOfTen(value: number, digits = 1): string {
  if (!(value > 0)) return "0";
  const [mantissa, power] = value.toExponential(digits - 1).split("e") as [string, string];
  const raised = [...String(Number(power))].map((c) => (c === "-" ? "⁻" : RAISED[Number(c)])).join("");
  return Number(mantissa) === 1 ? `10${raised}` : `${mantissa}×10${raised}`;
}

/** Ticks of a logarithmic axis of counts between two log10 values: 1, 2, 5 or whole decades, as fits. */
export function logTicks(low: number, high: number, most: number): number[] {
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    const found: number[] = [];
    for (let p = Math.floor(low); p <= high; p++) {
      for (const s of steps) found.push(p + Math.log10(s));
    }
    const inside = found.filter((x) => x >= low - 1e-9 && x <= high + 1e-9);
    if (inside.length <= most) return inside;
  }
  const decades = Array.from({ length: Math.floor(high) - Math.ceil(low) + 1 }, (_, i) => Math.ceil(low) + i);
  const every = Math.ceil(decades.length / most);
  return decades.filter((_, i) => i % every === 0);
}

/** A count from its log10, as people write it. */
export function countTick(x: number): string {
  const value = Number((10 ** x).toPrecision(2));
  return value >= 1e15 ? powerOfTen(value) : formatCount(value);
}

/** The hatching of what lies outside the fitted range, under an id that no other figure has. */
export function hatch(id: string): () => SVGElement {
  return () => {
    const defs = svgElement("defs", {});
    defs.innerHTML =
      `<pattern id="${id}" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
      `<line x1="0" y1="0" x2="0" y2="7" stroke="var(--hatch)" stroke-width="1.1"/></pattern>`;
    return defs;
  };
}

const SVG = "http://www.w3.org/2000/svg";

export function svgElement(name: string, attributes: Record<string, string | number>): SVGElement {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}
