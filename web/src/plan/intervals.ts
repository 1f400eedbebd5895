/** Means with central intervals of draws, as numpy's `percentile` (linear) gives them. */
import { mean } from "../laws/numerics";

export interface Interval {
  readonly mean: number;
  readonly lower: number;
  readonly upper: number;
}

/** An interval that is worked out when its ends are first read: most rows are never shown. */
class Lazy implements Interval {
  private ends: readonly [number, number] | null = null;

  constructor(
    readonly mean: number,
    private readonly draws: () => Float64Array,
    private readonly level: number,
  ) {}

  get lower(): number {
    return (this.ends ??= endsOf(this.draws(), this.level))[0];
  }

  get upper(): number {
    return (this.ends ??= endsOf(this.draws(), this.level))[1];
  }

  toJSON(): Interval {
    return { mean: this.mean, lower: this.lower, upper: this.upper };
  }
}

/** Mean and central interval of draws, which must not change afterwards. */
export function intervalOf(draws: Float64Array, level: number): Interval {
  return new Lazy(mean(draws), () => draws, level);
}

/** The same of a difference, of which the means are known. */
export function intervalOfDifference(
  a: Float64Array, meanOfA: number, b: Float64Array, meanOfB: number, level: number,
): Interval {
  return new Lazy(meanOfA - meanOfB, () => a.map((x, i) => x - b[i]!), level);
}

let scratch = new Float64Array(0);

function endsOf(draws: Float64Array, level: number): readonly [number, number] {
  const n = draws.length;
  if (scratch.length < n) scratch = new Float64Array(n);
  scratch.set(draws);
  const tail = (50 * (1 - level)) / 100;
  const lower = percentile(n, 0, tail);
  // what lies left of the lower end stays there: the upper end is sought in the rest
  const upper = percentile(n, Math.floor(tail * (n - 1)), (100 - 50 * (1 - level)) / 100);
  return [lower, upper];
}

/** Of the first n entries of the scratch; those before `from` are the lowest already. */
function percentile(n: number, from: number, share: number): number {
  const at = share * (n - 1);
  const i = Math.floor(at);
  const low = select(from, n - 1, i);
  if (i >= n - 1) return low;
  let next = Infinity;
  for (let j = i + 1; j < n; j++) if (scratch[j]! < next) next = scratch[j]!;
  const t = at - i;
  return t >= 0.5 ? next - (next - low) * (1 - t) : low + (next - low) * t;
}

/** The k-th smallest of scratch[left..right] by quickselect; afterwards smaller ones lie before it. */
function select(left: number, right: number, k: number): number {
  while (left < right) {
    const pivot = scratch[(left + right) >> 1]!;
    let i = left;
    let j = right;
    while (i <= j) {
      while (scratch[i]! < pivot) i++;
      while (scratch[j]! > pivot) j--;
      if (i <= j) {
        const held = scratch[i]!;
        scratch[i++] = scratch[j]!;
        scratch[j--] = held;
      }
    }
    if (k <= j) right = j;
    else if (k >= i) left = i;
    else break;
  }
  return scratch[k]!;
}

/** An interval moved by a constant. */
export function movedBy(value: Interval, by: number): Interval {
  return {
    mean: value.mean + by,
    get lower() {
      return value.lower + by;
    },
    get upper() {
      return value.upper + by;
    },
  };
}
