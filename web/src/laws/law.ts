/**
 * One law: a supervised half and the distillation half that goes with it. Mirrors `distillaw/laws/ensemble.py`, where
 * the source of every equation stands; all forms are written in the re-parameterised full form, in logarithms.
 *
 *     ln L   = LSE( ln E, gamma LSE(ln A - alpha n, ln B - beta d) )
 *     ln T   = gamma' LSE(ln A' - alpha' n, ln B' - beta' d) - q d
 *     ln L_S = LSE( t, ln T - c0 t - h ),  h = ln(1 + eps u) / eps,  u = kappa (L_T / Ltilde_S)^(1/f1)
 */
import { logAddExp } from "./numerics";

const SUPERVISED = ["log_E", "log_A", "log_B", "alpha", "beta", "gamma"] as const;
const STUDENT = [
  "log_A", "log_B", "alpha", "beta", "gamma", "q", "c0", "log_kappa", "f1", "eps",
] as const;

export type SupervisedNumbers = Record<(typeof SUPERVISED)[number], number>;
export type StudentNumbers = Record<(typeof STUDENT)[number], number>;

/** exp(-exp(50)) is zero to rounding, and exp(50) does not overflow. */
const CAP = 50;

export class Law {
  constructor(
    readonly plain: SupervisedNumbers,
    readonly student: StudentNumbers | null,
  ) {}

  /** Ln L from ln N and ln D. */
  supervised(n: number, d: number): number {
    const c = this.plain;
    const term = c.gamma * logAddExp(c.log_A - c.alpha * n, c.log_B - c.beta * d);
    return logAddExp(c.log_E, term);
  }

  /** Ln L_S from ln N_S, ln D_S, ln L_T and, where it is known already, ln Ltilde_S. */
  distilled(n: number, d: number, t: number, own: number = this.supervised(n, d)): number {
    const c = this.student!;
    let beyond = c.gamma * logAddExp(c.log_A - c.alpha * n, c.log_B - c.beta * d);
    beyond = beyond - c.c0 * t - this.break(t - own);
    if (c.q) beyond -= c.q * d;
    return logAddExp(t, beyond);
  }

  /** h at x = ln(L_T / Ltilde_S). */
  break(x: number): number {
    const c = this.student!;
    const u = Math.exp(Math.min(c.log_kappa + x / c.f1, CAP));
    return c.eps < 1e-12 ? u : Math.log1p(c.eps * u) / c.eps;
  }

  /** Ln D at which supervised training of size N reaches a loss (both as logarithms); infinite where it never does. */
  tokensFor(n: number, loss: number): number {
    const c = this.plain;
    const inner = Math.log(Math.exp(loss) - Math.exp(c.log_E)) / c.gamma;
    const data = Math.log(Math.exp(inner) - Math.exp(c.log_A - c.alpha * n));
    const d = (c.log_B - data) / c.beta;
    return Number.isNaN(d) ? Infinity : d;
  }
}

/** Laws that are believed at once. */
export type Ensemble = readonly Law[];

/** Indices of at most `most` members, spread evenly as numpy's `linspace(...).astype(int)`. */
export function thinned<T>(members: readonly T[], most: number): T[] {
  const count = Math.min(members.length, most);
  if (count === 1) return [members[0]!];
  const last = members.length - 1;
  return Array.from({ length: count }, (_, i) =>
    members[i === count - 1 ? last : Math.floor((i * last) / (count - 1))]!,
  );
}
