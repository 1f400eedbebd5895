/** Regions of a field at or above a level, as marks for Plot. */
import type { RenderFunction } from "@observablehq/plot";
import { contours } from "d3-contour";
import { COLUMNS, type Field, ROWS } from "./field";
import { svgElement } from "./svg";

const CLIP = "frame-map";

/** The frame, at which all regions are cut: the field goes on beyond it. */
export const frame: RenderFunction = (_index, _scales, _values, at) => {
  const made = svgElement("clipPath", { id: CLIP });
  const [width, height] = [at.width - at.marginLeft - at.marginRight, at.height - at.marginTop - at.marginBottom];
  made.append(svgElement("rect", { x: at.marginLeft, y: at.marginTop, width, height }));
  return made;
};

/** Where the values of a field are at least `level`; needs `frame` in the same plot. */
export function reaching(field: Field, values: Float64Array, level: number, style: Record<string, string | number>): RenderFunction {
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
