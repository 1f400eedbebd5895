/** Numbers as people type and write them. Mirrors `distillaw/quantities.py`. */

/** What the user asked cannot be planned; the message says which value, which rule, what to change. */
export class QuestionError extends Error {}

const POWERS: Record<string, number> = { "": 0, k: 3, m: 6, b: 9, t: 12 };
const NUMBER = /^\s*([+-]?(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+))(?:e([+-]?\d{1,9}))?\s*([kmbt]?)\s*$/i;
const THOUSANDS = /^\s*[+-]?\d{1,3}(?:,\d{3})+\s*$/;

/** A positive finite count from text such as `1.82B`, `1e21`, `300M`. */
export function parseCount(text: string, name: string): number {
  const match = NUMBER.exec(THOUSANDS.test(text) ? text.replaceAll(",", "") : text);
  if (!match) throw new QuestionError(`${name}: cannot read '${text}'; write a number such as 300M, 1.82B or 1e21`);
  const power = Number(match[2] ?? 0) + POWERS[match[3]!.toLowerCase()]!;
  const value = Number(`${match[1]!.replaceAll("_", "")}e${power}`);
  if (!Number.isFinite(value) || value <= 0) {
    throw new QuestionError(`${name}: got '${text}'; it must be positive and finite, e.g. 300M or 1e21`);
  }
  return value;
}

/** C's %g with so many significant digits. */
export function general(value: number, digits = 6): string {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : value < 0 ? "-inf" : "nan";
  const [mantissa, power] = value.toExponential(digits - 1).split("e") as [string, string];
  const exponent = Number(power);
  const strip = (text: string) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (exponent < -4 || exponent >= digits) {
    const sign = exponent < 0 ? "-" : "+";
    return `${strip(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  return strip(value.toFixed(Math.max(0, digits - 1 - exponent)));
}

/** `1.82B`, `300M`, `96k`, `512`; powers of ten beyond 1e15 as `3.2e21`. */
export function formatCount(value: number, digits = 3): string {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return String(value);
  const magnitude = Math.abs(value);
  if (magnitude >= 1e15) return value.toExponential(digits - 1).replace("e+", "e");
  const units: [string, number][] = [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]];
  const [suffix, scale] = units.find(([, u]) => magnitude >= u * (1 - 0.5 * 10 ** -digits)) ?? ["", 1];
  const scaled = value / scale;
  const isShort = Math.abs(scaled) < 10 ** digits - 0.5;
  return (isShort ? general(scaled, digits) : scaled.toFixed(0)) + suffix;
}

/** Parameters of a model: as a count, but in millions from 0.1M on, as the labels of studies are. */
export function formatSize(params: number): string {
  return params >= 0.9995e5 && params < 0.9995e6 ? `${general(params / 1e6, 3)}M` : formatCount(params);
}

/** Powers of ten: `1.90e18 FLOP`. */
export function formatFlop(value: number): string {
  return value ? `${value.toExponential(2).replace("e+", "e")} FLOP` : "0 FLOP";
}

/** A token budget by the round number it was meant to be: whole batches make 80k into 79,872. */
export function budgetText(tokens: number): string {
  const nominal = Number(tokens.toPrecision(2));
  return formatCount(Math.abs(Math.log(tokens / nominal)) < Math.log1p(0.01) ? nominal : tokens);
}

/** A whole number with commas between thousands. */
export function withCommas(value: number): string {
  return value.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** A ratio to two digits: `7.2`, `720`, `25,000`; more where two would make it one: `1.02`. */
export function times(ratio: number): string {
  const rounded = Number(ratio.toPrecision(2));
  if (rounded === 1) return general(ratio, [3, 4, 5].find((digits) => Number(ratio.toPrecision(digits)) !== 1) ?? 6);
  return rounded >= 10 ? withCommas(rounded) : general(rounded);
}
