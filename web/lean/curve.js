/** Lines are drawn straight from point to point. */
import { curveLinear } from "d3-shape";

export function maybeCurve(curve = curveLinear) {
  if (typeof curve === "function") return curve;
  throw new Error(`curve ${curve}: only straight lines are in this page's Plot (web/lean)`);
}

export const curveAuto = (context) => curveLinear(context);
export const maybeCurveAuto = (curve = curveAuto) => maybeCurve(curve);
