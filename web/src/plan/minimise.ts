/** The lowest point of a smooth surface in two coordinates by Newton's method. Mirrors `distillaw/laws/search.py`. */

/** Heights along y at one x. */
export type Surface = (x: number) => (y: number) => number;

export interface Point {
  x: number;
  y: number;
  value: number;
}

const STENCIL = 2e-3;
const STEPS = 60;
const LONGEST = 1;

/** From one start; a step is taken only if it goes down. The value is infinite for a search that left its domain. */
export function newton(surface: Surface, x: number, y: number, isLost: (x: number, y: number) => boolean): Point {
  let value = surface(x)(y);
  let radius = LONGEST;
  for (let i = 0; i < STEPS && Number.isFinite(value); i++) {
    const { dx, dy, expected } = step(surface, x, y, radius);
    const there = surface(x + dx)(y + dy);
    const length = Math.hypot(dx, dy);
    if (there < value) {
      x += dx;
      y += dy;
      value = there;
      radius = Math.min(LONGEST, Math.max(radius, 2 * length));
    } else radius = length / 4;
    if (isLost(x, y)) return { x, y, value: Infinity };
    if (expected < 1e-15 * Math.abs(value) || radius < 1e-7) break;
  }
  return { x, y, value };
}

/** The step to the bottom of the quadratic through nine points, no longer than the radius, and what it expects. */
function step(surface: Surface, x: number, y: number, radius: number) {
  const h = STENCIL;
  const f: number[] = [];
  let isWhole = true;
  for (const i of [-1, 0, 1]) {
    const column = surface(x + h * i);
    for (const j of [-1, 0, 1]) {
      const value = column(y + h * j);
      f.push(value);
      isWhole &&= Number.isFinite(value);
    }
  }
  if (!isWhole) return { dx: 0, dy: 0, expected: 0 }; // beside the domain: no slope known
  const at = (i: number, j: number) => f[3 * (i + 1) + j + 1]!;
  const gx = (at(1, 0) - at(-1, 0)) / (2 * h);
  const gy = (at(0, 1) - at(0, -1)) / (2 * h);
  const a = (at(1, 0) - 2 * at(0, 0) + at(-1, 0)) / (h * h);
  const c = (at(0, 1) - 2 * at(0, 0) + at(0, -1)) / (h * h);
  const b = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * h * h);
  const floor = 1e-9 * Math.abs(at(0, 0));
  const angle = 0.5 * Math.atan2(2 * b, a - c);
  const axes = [[Math.cos(angle), Math.sin(angle)], [-Math.sin(angle), Math.cos(angle)]] as const;
  const along = axes.map(([p, q]) => {
    const curvature = a * p * p + 2 * b * p * q + c * q * q;
    return -(gx * p + gy * q) / Math.max(Math.abs(curvature), floor);
  });
  const shrink = Math.min(1, radius / Math.max(Math.hypot(along[0]!, along[1]!), 1e-300));
  let [dx, dy, expected] = [0, 0, 0];
  axes.forEach(([p, q], k) => {
    const length = along[k]! * shrink;
    dx += p * length;
    dy += q * length;
    expected -= ((gx * p + gy * q) * length) / 2;
  });
  return { dx, dy, expected };
}
