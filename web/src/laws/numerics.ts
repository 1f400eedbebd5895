/** Numerics that mirror numpy's and `distillaw/laws/search.py`: no equation of a law is here. */

const LN2 = Math.LN2;

/** ln(e^a + e^b), stably. */
export function logAddExp(a: number, b: number): number {
  if (a === b) return a + LN2;
  const tmp = a - b;
  if (tmp > 0) return a + Math.log1p(Math.exp(-tmp));
  if (tmp <= 0) return b + Math.log1p(Math.exp(tmp));
  return tmp; // NaN
}

export function mean(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total / values.length;
}

export function median(values: ArrayLike<number>): number {
  const sorted = Float64Array.from(values).sort();
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Population standard deviation, as numpy's default. */
export function deviation(values: ArrayLike<number>): number {
  const centre = mean(values);
  let total = 0;
  for (let i = 0; i < values.length; i++) total += (values[i]! - centre) ** 2;
  return Math.sqrt(total / values.length);
}

/** Index of the smallest value, the first of equals. */
export function argMin(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! < values[best]!) best = i;
  return best;
}

/** Index of the largest value, the first of equals. */
export function argMax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

export function clip(x: number, low: number, high: number): number {
  return Math.min(Math.max(x, low), high);
}

export function linspace(low: number, high: number, count: number): Float64Array {
  const out = new Float64Array(count);
  const step = (high - low) / (count - 1);
  for (let i = 0; i < count; i++) out[i] = low + i * step;
  if (count > 1) out[count - 1] = high;
  return out;
}

export function geomspace(low: number, high: number, count: number): Float64Array {
  const out = linspace(Math.log10(low), Math.log10(high), count).map((x) => 10 ** x);
  out[0] = low;
  out[count - 1] = high;
  return out;
}

/** Piecewise linear through ascending (xs, ys), flat beyond the ends. */
export function interpolate(x: number, xs: ArrayLike<number>, ys: ArrayLike<number>): number {
  const last = xs.length - 1;
  if (x <= xs[0]!) return ys[0]!;
  if (x >= xs[last]!) return ys[last]!;
  let low = 0;
  let high = last;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle]! <= x) low = middle;
    else high = middle;
  }
  const slope = (ys[high]! - ys[low]!) / (xs[high]! - xs[low]!);
  return slope * (x - xs[low]!) + ys[low]!;
}

const GOLDEN = (Math.sqrt(5) - 1) / 2;
const GOLDEN_STEPS = 40;
const BISECTIONS = 80;

/** Golden section between a and b. */
function golden(curve: (x: number) => number, a: number, b: number): number {
  let left = b - GOLDEN * (b - a);
  let right = a + GOLDEN * (b - a);
  let atLeft = curve(left);
  let atRight = curve(right);
  for (let i = 0; i < GOLDEN_STEPS && right > left; i++) {
    if (atLeft < atRight) {
      b = right;
      right = left;
      atRight = atLeft;
      left = b - GOLDEN * (b - a);
      atLeft = curve(left);
    } else {
      a = left;
      left = right;
      atLeft = atRight;
      right = a + GOLDEN * (b - a);
      atRight = curve(right);
    }
  }
  return (a + b) / 2;
}

/** The x in [low, high] at which a curve is lowest: a grid finds the valley, golden section its bottom. */
export function lowest(curve: (x: number) => number, low: number, high: number, points: number): number {
  const grid = linspace(low, high, points);
  const best = argMin(grid.map(curve));
  const step = (high - low) / (points - 1);
  return golden(curve, low + Math.max(best - 1, 0) * step, low + Math.min(best + 1, points - 1) * step);
}

/** Where a condition that holds from `low` up to some point stops holding, before `high`. */
export function lastTrue(condition: (x: number) => boolean, low: number, high: number): number {
  for (let i = 0; i < BISECTIONS; i++) {
    const middle = (low + high) / 2;
    if (condition(middle)) low = middle;
    else high = middle;
  }
  return low;
}

/** The bottom of a smooth valley between a and b: parabolas where they help, golden section where not (Brent 1973). */
export function valley(curve: (x: number) => number, a: number, b: number): number {
  const tolerance = 1e-6 * (b - a);
  let x = a + (1 - GOLDEN) * (b - a);
  let [w, v] = [x, x];
  let fx = curve(x);
  let [fw, fv] = [fx, fx];
  let [step, before] = [0, 0];
  for (let i = 0; i < 60; i++) {
    const middle = (a + b) / 2;
    if (Math.abs(x - middle) <= 2 * tolerance - (b - a) / 2) break;
    const r = (x - w) * (fx - fv);
    let q = (x - v) * (fx - fw);
    let p = (x - v) * q - (x - w) * r;
    q = 2 * (q - r);
    if (q > 0) p = -p;
    q = Math.abs(q);
    const isParabola = Math.abs(p) < Math.abs(0.5 * q * before) && p > q * (a - x) && p < q * (b - x);
    before = isParabola ? step : (x < middle ? b : a) - x;
    step = isParabola ? p / q : (1 - GOLDEN) * before;
    const u = x + (Math.abs(step) >= tolerance ? step : step > 0 ? tolerance : -tolerance);
    const fu = curve(u);
    if (fu <= fx) {
      if (u < x) b = x;
      else a = x;
      [v, fv, w, fw, x, fx] = [w, fw, x, fx, u, fu];
    } else {
      if (u < x) a = u;
      else b = u;
      if (fu <= fw || w === x) [v, fv, w, fw] = [w, fw, u, fu];
      else if (fu <= fv || v === x || v === w) [v, fv] = [u, fu];
    }
  }
  return x;
}
