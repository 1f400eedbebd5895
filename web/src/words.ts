/** The words of a verdict: the command's own phrases, which come with the data (`distillaw/planning/phrases.py`). */
import { data } from "./data/bundle";
import type { Interval } from "./plan/draws";
import { budgetText, formatCount, formatFlop, formatSize, general, times, withCommas } from "./quantities";

/** A loss or gain with the digits its noise supports: three, or four where they mean something. */
export function nats(value: number, noise: number | null = null): string {
  const text = value.toFixed(noise !== null && noise < 0.002 ? 4 : 3);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** A probability as people say it; never 0 or 100 %. */
export function percent(probability: number): string {
  if (probability > 0.995) return "over 99 %";
  if (probability < 0.005) return "under 1 %";
  return `${(100 * probability).toFixed(0)} %`;
}

/** `0.253 [0.236, 0.270]`. */
export function intervalText(value: Interval): string {
  const half = (value.upper - value.lower) / 2;
  return `${nats(value.mean, half)} [${nats(value.lower, half)}, ${nats(value.upper, half)}]`;
}

type Slot = string | number | Interval;

const FORMS: Record<string, (value: never) => string> = {
  "": (value: Slot) => String(value), count: (x: number) => formatCount(x), size: formatSize, flop: formatFlop, budget: budgetText, times, percent,
  nats: (x: number) => nats(x), interval: intervalText, Capital: (text: string) => text[0]!.toUpperCase() + text.slice(1),
  s: (count: number) => (count === 1 ? "" : "s"), ",.0f": withCommas,
};

/** A number as Python's format specification writes it. */
function formatted(value: number, form: string): string {
  const [, digits, kind] = /^\.?(\d*)([fg%])$/.exec(form)!;
  if (kind === "g") return general(value, Number(digits || 6));
  return kind === "%" ? `${(100 * value).toFixed(Number(digits))}%` : value.toFixed(Number(digits));
}

/** A phrase with its slots filled. */
export function say(name: string, slots: Record<string, Slot> = {}): string {
  return data().phrases[name]!.replace(/\{(\w+):?([^}]*)\}/g, (_, slot: string, form: string) => {
    const value = slots[slot]!;
    return FORMS[form] ? FORMS[form](value as never) : formatted(value as number, form);
  });
}
