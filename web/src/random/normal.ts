/**
 * Normal and chi-square variates from the same bits in the same order as numpy's Generator.
 *
 * Normal: the ziggurat of 256 layers (Marsaglia & Tsang 2000, J. Stat. Softw. 5(8)); the tables follow from the edge
 * of its last layer. Gamma: Marsaglia & Tsang 2000, ACM TOMS 26:363.
 */
import type { Pcg64 } from "./pcg64";

const EDGE = 3.6541528853610088;
const TWO52 = 2 ** 52;

interface Ziggurat {
  /** Height of the density at each layer's edge. */
  height: Float64Array;
  /** Edge of each layer over 2^52. */
  width: Float64Array;
  /** Draws below these lie inside their layer for certain. */
  inside: Float64Array;
}

const density = (x: number): number => Math.exp(-0.5 * x * x);

function build(): Ziggurat {
  const height = new Float64Array(256);
  const width = new Float64Array(256);
  const inside = new Float64Array(256);
  // area of every layer: the last rectangle and the tail beyond it
  const area = 0.004928673233974658;
  let x = EDGE;
  inside[0] = Math.floor((EDGE * density(EDGE)) / area * TWO52);
  inside[1] = 0;
  width[0] = area / density(EDGE) / TWO52;
  width[255] = EDGE / TWO52;
  height[0] = 1;
  height[255] = density(EDGE);
  for (let i = 254; i >= 1; i--) {
    const before = x;
    x = Math.sqrt(-2 * Math.log(area / x + density(x)));
    inside[i + 1] = Math.floor((x / before) * TWO52);
    width[i] = x / TWO52;
    height[i] = density(x);
  }
  return { height, width, inside };
}

const { height, width, inside } = build();

export function normal(bits: Pcg64): number {
  for (;;) {
    bits.next();
    const layer = bits.low & 0xff;
    const isNegative = (bits.low >>> 8) & 1;
    const whole = upper52(bits.high, bits.low);
    const x = isNegative ? -whole * width[layer]! : whole * width[layer]!;
    if (whole < inside[layer]!) return x;
    if (layer === 0) return tail(bits, Math.floor(whole / 256) % 2 === 1);
    const y = (height[layer - 1]! - height[layer]!) * bits.double() + height[layer]!;
    if (y < density(x)) return x;
  }
}

/** The 52 bits above the lowest nine of a 64-bit word. */
function upper52(high: number, low: number): number {
  // bits 9..60: 23 of the lower half, 29 of the upper one
  return (high & 0x1fffffff) * 8388608 + (low >>> 9);
}

function tail(bits: Pcg64, isNegative: boolean): number {
  for (;;) {
    const x = (-1 / EDGE) * Math.log1p(-bits.double());
    const y = -Math.log1p(-bits.double());
    if (y + y > x * x) return isNegative ? -(EDGE + x) : EDGE + x;
  }
}

/** Chi-square with more than two degrees of freedom. */
export function chiSquare(bits: Pcg64, dof: number): number {
  const b = dof / 2 - 1 / 3;
  const c = 1 / Math.sqrt(9 * b);
  for (;;) {
    let x: number;
    let v: number;
    do {
      x = normal(bits);
      v = 1 + c * x;
    } while (v <= 0);
    v = v * v * v;
    const u = bits.double();
    if (u < 1 - 0.0331 * (x * x) * (x * x)) return 2 * b * v;
    if (Math.log(u) < 0.5 * x * x + b * (1 - v + Math.log(v))) return 2 * b * v;
  }
}
