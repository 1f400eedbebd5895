/** Repeated data: D' = U + U R* (1 - e^(-R / R*)), R = D / U - 1. Mirrors `distillaw/laws/repetition.py`. */

export function effective(tokens: number, unique: number, repeatScale: number): number {
  const useful = Math.min(unique, tokens);
  return useful - useful * repeatScale * Math.expm1(-(tokens / useful - 1) / repeatScale);
}
