/** Texts of the planner as people write them: powers of ten raised, minus signs, indices. The words stay the command's. */
import { data } from "../data/bundle";
import { powerOfTen } from "../plots/theme";

/** `4.98e20` as 4.98×10²⁰, `-0.1` as −0.1. */
export function people(text: string): string {
  return text
    .replace(/(?<![\w.])(\d(?:\.\d+)?)e\+?(-?\d+)(?![\d.])/g, (_, mantissa: string, power: string) =>
      powerOfTen(Number(`${mantissa}e${power}`), mantissa.replace(".", "").length),
    )
    .replace(/(?<![\w.)\]-])-(?=\d)/g, "−");
}

/** A note with its numbers and coordinates as people write them. */
export function peopleNote(text: string): string {
  const names = data().coordinates;
  return people(text).replace(new RegExp(Object.keys(names).join("|"), "g"), (name) => names[name]!);
}

const LETTERS: Record<string, string> = {
  alpha: "α", beta: "β", gamma: "γ", kappa: "κ", sigma: "σ", delta: "δ", Ltilde: "L̃",
};
const SUBSCRIPTS = "₀₁₂";

/** An equation in ASCII with Greek letters, primes and small indices. */
function symbols(text: string): string {
  return text
    .replace(/\b(alpha|beta|gamma|kappa|sigma|delta|Ltilde)(?![a-z])/g, (name) => LETTERS[name]!)
    .replace(/(?<=[ABαβγ])'/g, "′")
    .replace(/(?<![\p{L}\d.])([cfσ])([012])(?![\d.])/gu, (_, letter: string, index: string) => letter + SUBSCRIPTS[Number(index)]);
}

export interface Part {
  readonly text: string;
  readonly level: "on" | "sub" | "sup";
}

const RAISED = /([_^])(\([^)]*\)|[\p{L}\p{N}\p{M}′]+)/gu;

/** An equation written in a line, `N^α` and `L_T`, in parts on, below and above the line. */
export function equationParts(given: string): Part[] {
  const text = symbols(people(given));
  const found: Part[] = [];
  let from = 0;
  for (const match of text.matchAll(RAISED)) {
    found.push({ text: text.slice(from, match.index), level: "on" });
    const inner = match[2]!.replace(/^\((.*)\)$/, "$1");
    found.push({ text: inner, level: match[1] === "_" ? "sub" : "sup" });
    from = match.index + match[0].length;
  }
  found.push({ text: text.slice(from), level: "on" });
  return found;
}
