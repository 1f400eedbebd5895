/** Teachers from what `distillaw scout --json` prints. Mirrors the teachers of `distillaw/cli/plan_scout.py`. */
import { data } from "../data/bundle";
import { QuestionError, general } from "../quantities";
import type { OwnTeacher } from "./question";

interface Scouted {
  readonly own: OwnTeacher[];
  readonly vocab: string;
  /** What was taken over, for people. */
  readonly note: string;
}

interface Measured {
  name: string;
  params: number;
  nats_per_token: number;
  nats_per_token_se: number;
  vocab: number;
  tokenizer: string;
}

/** A teacher of a known name is that model if its parameters agree within this share. */
const SAME_MODEL = 0.02;

/** @throws QuestionError - no JSON of `distillaw scout`, or models of several tokenizers. */
export function teachersFromScout(text: string): Scouted {
  const found = measuredIn(text);
  const tokenizers = new Set(found.map((t) => t.tokenizer));
  if (tokenizers.size > 1) {
    throw new QuestionError(
      `the models have ${tokenizers.size} tokenizers: nats/token of one are not those of another, and logits are distilled ` +
        "only into the teacher's own vocabulary. Scout those of one tokenizer",
    );
  }
  const tokens = found.map(trainedOn);
  const isKnown = tokens.every((t) => t !== null);
  const own = found.map((t, k): OwnTeacher => ({
    params: String(t.params), tokens: isKnown ? general(tokens[k]!, 12) : "", loss: general(t.nats_per_token, 6),
  }));
  const names = found.map((t) => t.name.split("/").pop()).join(", ");
  const apart = "; the tokens they were trained on are not known: fill them in to compare your text with that of the laws";
  return { own, vocab: String(found[0]!.vocab), note: `Taken over: ${names}${isKnown ? "" : apart}.` };
}

function measuredIn(text: string): Measured[] {
  let read: unknown;
  try {
    read = JSON.parse(text);
  } catch {
    throw new QuestionError("this is no JSON: paste all that `distillaw scout ... --json` prints");
  }
  const found = (read as { teachers?: unknown } | null)?.teachers;
  if (!Array.isArray(found) || !found.length || !found.every(isMeasured)) {
    throw new QuestionError("no measured teachers in this JSON: paste all that `distillaw scout ... --json` prints");
  }
  return found;
}

function isMeasured(row: Partial<Measured> | null): row is Measured {
  const numbers = [row?.params, row?.nats_per_token, row?.vocab];
  return typeof row?.name === "string" && typeof row.tokenizer === "string" && numbers.every((x) => typeof x === "number" && x > 0);
}

/** Tokens that the table of real models tells; null where it does not know this one, or distillation or tuning came in. */
function trainedOn(model: Measured): number | null {
  const key = (name: string) => name.toLowerCase().replace(/[-_\s]/g, "");
  const named = key(model.name.replace(/\/+$/, "").split("/").pop()!);
  const real = data().teachers.find((t) => key(t.name) === named);
  const isSame = real !== undefined && real.is_base && Math.abs(real.params / model.params - 1) < SAME_MODEL;
  return isSame ? real.tokens : null;
}
