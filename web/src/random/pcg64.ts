/**
 * The random bits of `numpy.random.default_rng([seed, stream])`, so that the page draws what the command draws.
 *
 * SeedSequence (M. E. O'Neill's seed_seq design) fills a pool of four words; PCG64 (M. E. O'Neill, HMC-CS-2014-0905,
 * XSL-RR output of a 128-bit congruential generator) makes 64 bits a step. Words are 32-bit halves here, since plain
 * JavaScript has no fast 64-bit integers.
 */

const MASK = 0xffffffffn;

/** Four 64-bit words from the entropy, as numpy's `SeedSequence.generate_state(4, uint64)`. */
function seedWords(entropy: readonly number[]): bigint[] {
  const pool = new Uint32Array(4);
  let hash = 0x43b0d7e5;
  const hashed = (value: number): number => {
    value ^= hash;
    hash = Math.imul(hash, 0x931e8875);
    value = Math.imul(value, hash);
    return value ^ (value >>> 16);
  };
  const mixed = (x: number, y: number): number => {
    const result = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return result ^ (result >>> 16);
  };
  for (let i = 0; i < 4; i++) pool[i] = hashed(entropy[i] ?? 0);
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mixed(pool[to]!, hashed(pool[from]!));
  }
  let out = 0x8b51f9dd;
  const words = Array.from({ length: 8 }, (_, i) => {
    let value = pool[i % 4]! ^ out;
    out = Math.imul(out, 0x58f38ded);
    value = Math.imul(value, out);
    return BigInt((value ^ (value >>> 16)) >>> 0);
  });
  return [0, 1, 2, 3].map((i) => words[2 * i]! | (words[2 * i + 1]! << 32n));
}

const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const LIMBS = [0, 1, 2, 3].map((i) => Number((MULTIPLIER >> BigInt(32 * i)) & MASK));
const [M0, M1, M2, M3] = LIMBS as [number, number, number, number];

export class Pcg64 {
  /** The 128-bit state and increment in 32-bit limbs, the lowest first. */
  private s0 = 0;
  private s1 = 0;
  private s2 = 0;
  private s3 = 0;
  private readonly inc: [number, number, number, number];
  private spare: number | null = null;

  /** The last 64 bits drawn, in halves. */
  high = 0;
  low = 0;

  constructor(seed: number, stream: number) {
    const words = seedWords([seed, stream]);
    const start = (words[0]! << 64n) | words[1]!;
    const inc = ((((words[2]! << 64n) | words[3]!) << 1n) | 1n) & ((1n << 128n) - 1n);
    const split = (x: bigint) => [0, 1, 2, 3].map((i) => Number((x >> BigInt(32 * i)) & MASK));
    this.inc = split(inc) as [number, number, number, number];
    const state = ((inc + start) * MULTIPLIER + inc) & ((1n << 128n) - 1n);
    [this.s0, this.s1, this.s2, this.s3] = split(state) as [number, number, number, number];
  }

  /** Draw 64 bits into `high` and `low`. */
  next(): void {
    this.step();
    const x1 = this.s3 ^ this.s1;
    const x0 = this.s2 ^ this.s0;
    const turn = this.s3 >>> 26;
    const [top, bottom] = turn & 32 ? [x0, x1] : [x1, x0];
    const by = turn & 31;
    this.high = (by ? (top >>> by) | (bottom << (32 - by)) : top) >>> 0;
    this.low = (by ? (bottom >>> by) | (top << (32 - by)) : bottom) >>> 0;
  }

  /** 32 bits: the lower half of a draw, then its upper half. */
  uint32(): number {
    if (this.spare !== null) {
      const value = this.spare;
      this.spare = null;
      return value;
    }
    this.next();
    this.spare = this.high;
    return this.low;
  }

  /** Uniform in [0, 1) with 53 bits. */
  double(): number {
    this.next();
    return ((this.high >>> 0) * 2097152 + (this.low >>> 11)) / 9007199254740992;
  }

  /** A whole number in [0, count), by Lemire's method (arXiv:1805.10941) on 32 bits; no draw where count is 1. */
  below(count: number): number {
    if (count === 1) return 0;
    const threshold = 4294967296 % count;
    for (;;) {
      const [high, low] = product(this.uint32(), count);
      if (low >= count || low >= threshold) return high;
    }
  }

  /** state = state * multiplier + increment, modulo 2^128. */
  private step(): void {
    const { s0, s1, s2 } = this;
    const [h00, l00] = product(s0, M0);
    const [h01, l01] = product(s0, M1);
    const [h10, l10] = product(s1, M0);
    const [h02, l02] = product(s0, M2);
    const [h11, l11] = product(s1, M1);
    const [h20, l20] = product(s2, M0);
    const top = Math.imul(s0, M3) + Math.imul(s1, M2) + Math.imul(s2, M1) + Math.imul(this.s3, M0);
    const r0 = l00 + this.inc[0];
    const r1 = h00 + l01 + l10 + this.inc[1] + carry(r0);
    const r2 = h01 + h10 + l02 + l11 + l20 + this.inc[2] + carry(r1);
    const r3 = h02 + h11 + h20 + (top >>> 0) + this.inc[3] + carry(r2);
    this.s0 = r0 >>> 0;
    this.s1 = r1 >>> 0;
    this.s2 = r2 >>> 0;
    this.s3 = r3 >>> 0;
  }
}

function carry(x: number): number {
  return Math.floor(x / 4294967296);
}

/** The two halves of the product of two 32-bit numbers. */
function product(a: number, b: number): [number, number] {
  const a1 = a >>> 16;
  const a0 = a & 0xffff;
  const b1 = b >>> 16;
  const b0 = b & 0xffff;
  const low = a0 * b0;
  const middle = a1 * b0 + Math.floor(low / 65536);
  const other = a0 * b1 + (middle & 0xffff);
  const high = a1 * b1 + Math.floor(middle / 65536) + Math.floor(other / 65536);
  return [high, (((other & 0xffff) << 16) | (low & 0xffff)) >>> 0];
}
