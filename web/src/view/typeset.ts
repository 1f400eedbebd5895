/** Texts of the planner as people write them: powers of ten raised, minus signs, indices. The words stay the command's. */
import { powerOfTen } from "../plots/theme";

/** `4.98e20` as 4.98×10²⁰, `-0.1` as −0.1. */
export function people(text: string): string {
  return text
    .replace(/(?<![\w.])(\d(?:\.\d+)?)e\+?(-?\d+)(?![\d.])/g, (_, mantissa: string, power: string) =>
      powerOfTen(Number(`${mantissa}e${power}`), mantissa.replace(".", "").length),
    )
    .replace(/(?<![\w.)\]-])-(?=\d)/g, "−");
}

/** Coordinates of a law's range, named in JSON and in notes, in words. */
export const COORDINATES: Readonly<Record<string, string>> = {
  student_params: "student", student_tokens: "tokens", teacher_loss: "teacher loss", tokens_per_param: "tokens per parameter",
};
const COORDINATE = new RegExp(Object.keys(COORDINATES).join("|"), "g");

/** A note with its numbers and coordinates as people write them. */
export function peopleNote(text: string): string {
  return people(text).replace(COORDINATE, (name) => COORDINATES[name]!);
}

export interface Part {
  readonly text: string;
  readonly level: "on" | "sub" | "sup";
}

const RAISED = /([_^])(\([^)]*\)|[\p{L}\p{N}\p{M}′]+)/gu;
const FRACTIONS: Record<string, string> = { "⅓": "1/3", "⅔": "2/3" };

/** An equation written in a line, `N^α` and `L_T`, in parts on, below and above the line. */
export function equationParts(text: string): Part[] {
  const found: Part[] = [];
  let from = 0;
  for (const match of text.matchAll(RAISED)) {
    found.push({ text: text.slice(from, match.index), level: "on" });
    const inner = match[2]!.replace(/^\((.*)\)$/, "$1");
    found.push({ text: FRACTIONS[inner] ?? inner, level: match[1] === "_" ? "sub" : "sup" });
    from = match.index + match[0].length;
  }
  found.push({ text: text.slice(from), level: "on" });
  return found;
}
