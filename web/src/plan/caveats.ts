/** What a verdict takes for granted, and what to be careful of. Mirrors `distillaw/planning/caveats.py`. */
import { constants } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { mean } from "../laws/numerics";
import { formatCount, formatFlop, general } from "../quantities";
import { effectiveTokens, sharesOf } from "./bills";
import type { Sources } from "./consult";
import { disagreement } from "./decision";
import { type Evidence, type Strategy, best, deciding, speaks } from "./evidence";
import type { Option } from "./options";
import { optionLoss } from "./predictions";
import { type Situation, type Teacher, called, comparison } from "./situation";
import { type TextScale, deviation, teacherOnLawText } from "./textScale";

/** Sentences on what the comparison is and how it was counted. */
export function assumptions(
  s: Situation, evidence: readonly Evidence[], headline: Evidence, sources: Sources,
): string[] {
  const paid = `cost scenario ${s.scenario}: ${constants().paid[s.scenario]}`;
  const found = [
    "The verdict is about held-out loss in nats/token on text like the validation split, not about skill.",
    `Compared at ${comparison(s).replaceAll("-", " ")}; ${paid}.`,
  ];
  if (s.budgetText) found.push(`The budget is ${s.budgetText}.`);
  if (s.maxParams !== null) {
    found.push(`The largest student that can be served has ${formatCount(s.maxParams)}: ${s.limitText}.`);
  }
  if (headline.alternatives.some((row) => row.teacher !== null && !row.teacher.exists)) {
    const students = `${s.studentsServed} student${s.studentsServed === 1 ? "" : "s"}`;
    found.push(`Teachers that do not exist yet must be trained: that is in the bill, shared by ${students}.`);
  }
  if (s.logits === "stored") {
    found.push(`Logits are computed once, stored, and read by ${s.studentsServed} students.`);
  }
  if (s.inferenceTokens) found.push(`Serving ${formatCount(s.inferenceTokens)} tokens is in every bill.`);
  found.push(
    `FLOP are counted for a vocabulary of ${s.vocab} and a context of ${s.context} where no run counted them; ` +
      "parameters exclude embeddings.",
  );
  return [...found, ...measuredTeachers(s, evidence, headline, sources), ...repeats(s, headline), ...estimates(headline)];
}

/** What the losses that were given for teachers did: how much was put down to the text, how much to the teacher. */
function measuredTeachers(
  s: Situation, evidence: readonly Evidence[], headline: Evidence, sources: Sources,
): string[] {
  const named = [...deciding(headline), headline.source];
  const lead = evidence.find(
    (e) => speaks(e) && (e.kind === "published" || e.kind === "surrogate") && named.includes(e.source),
  );
  if (!lead || s.teachers.every((t) => t.loss === null)) return [];
  const { scale } = lead;
  if (scale.isGuess) {
    return [
      "Nothing says how your text compares with that of the laws: it is taken to be as hard, with more doubt. The name " +
        "of a teacher, or its size and tokens beside its loss, would say.",
    ];
  }
  const { ensemble } = sources.voices.find((v) => v.source === lead.source)!;
  if (!scale.sd || ensemble === null) return [];
  const text = Math.log(scale.ratio);
  const found = s.teachers
    .filter((t) => t.loss !== null && t.params !== null && t.tokens !== null)
    .map((t) => {
      const d = deviation(ensemble, s, t);
      const name = called(t);
      return (
        `${name[0]!.toUpperCase()}${name.slice(1)}: a loss of ${t.loss!.toFixed(3)} is ${perCent(d, "above", "below")} ` +
        `what ${lead.source} make of its size and tokens; ${perCent(text, "harder", "easier")} is put down to your text ` +
        `(give or take ${(100 * scale.sd).toFixed(0)} %), and the teacher is judged as ` +
        `${perCent(d - text, "worse", "better")} than they make of it.`
      );
    });
  if (!found.length) return [];
  const apart = "The student's own loss on your text would tell text and teacher apart.";
  return [...found, apart, ...whichWay(s, headline, ensemble, scale)];
}

/** Whether a lower loss of the best teacher would be for the better: beyond the capacity gap it is not. */
function whichWay(s: Situation, headline: Evidence, ensemble: Ensemble, scale: TextScale): string[] {
  const { teacher: given, studentParams, studentTokens } = best(headline);
  const teacher = teacherOnLawText(scale, given);
  if (teacher === null || teacher.loss === null) return [];
  const { loss } = teacher;
  const option: Option = { kind: "distil", studentParams, studentTokens, teacher, taught: 1 };
  const at = (f: number) => mean(optionLoss(ensemble, s, { ...option, teacher: { ...teacher, loss: f * loss } }).loss);
  return at(0.99) < at(1.01)
    ? [`By these laws a stronger teacher than ${called(teacher)} would serve this student better.`]
    : [`By these laws a weaker teacher than ${called(teacher)} would serve this student better (distillaw gap).`];
}

/** `3.2 % harder`: what it is above or below is the whole, so nothing is more than 100 % below. */
function perCent(log: number, above: string, below: string): string {
  return `${(100 * Math.abs(Math.expm1(log))).toFixed(1)} % ${log > 0 ? above : below}`;
}

function repeats(s: Situation, headline: Evidence): string[] {
  const tokens = Math.max(...[headline.pretrain!, ...headline.alternatives].map((row) => row.studentTokens));
  if (s.uniqueTokens === null || tokens <= s.uniqueTokens) return [];
  return [
    `${formatCount(tokens)} tokens are ${general(tokens / s.uniqueTokens, 3)} passes over ` +
      `${formatCount(s.uniqueTokens)} unique ones and count as ${formatCount(effectiveTokens(s, tokens))} (Muennighoff ` +
      "et al. 2023, supervised runs; taken to hold for distilled ones too, which nobody has measured).",
  ];
}

/** What the strategies that no law describes rest on. */
function estimates(headline: Evidence): string[] {
  const kinds = new Set(headline.alternatives.map((row) => row.kind));
  const found: string[] = [];
  if (kinds.has("distil-then-pretrain")) {
    found.push(
      "Distil then pretrain is an estimate: the student is taken to stand where pretraining reaches the same loss, and " +
        "to go on from there. It never carries the verdict.",
    );
  }
  if (kinds.has("prune-and-distil")) {
    found.push(
      `A pruned start is taken to be worth 1 to ${general(constants().pruned_worth)} times the tokens (reports on ` +
        "skill, not on loss). It never carries the verdict; a pilot of both starts would say.",
    );
  }
  return found;
}

/** Warnings, the gravest first. */
export function caveats(s: Situation, evidence: readonly Evidence[], headline: Evidence, sources: Sources): string[] {
  const found = [...unbelieved(evidence, headline, sources), ...headline.warnings];
  const conflict = disagreement(evidence, sources.level);
  if (conflict !== null) found.unshift(conflict);
  for (const row of [headline.pretrain!, ...headline.alternatives.filter((r) => !r.isSpeculative)]) {
    found.push(...odd(row, s, headline));
  }
  found.push(...leftOut(s, headline));
  if (s.studentParams === null && s.compute !== null) {
    found.push(
      "a law chose the student's size, and such a size is good partly by luck: the probability of distilling is too " +
        "high then, and 20 tokens per parameter without a teacher did as well (docs/verdict.md). Fix --student",
    );
  }
  for (const e of evidence) {
    const isQuiet = ["NOT_FITTED", "TEACHER_SIZE"].includes(e.status);
    if (e.source !== headline.source && !speaks(e) && e.kind === "fitted" && !isQuiet) {
      found.push(`${e.source}: ${e.status}: ${e.note}`);
    }
  }
  return [...new Set(found)];
}

/** Teachers that were named and are in no strategy: nobody should think that they were judged. */
function leftOut(s: Situation, headline: Evidence): string[] {
  const judged = new Set(headline.alternatives.map((row) => row.teacher?.name));
  return s.teachers
    .filter((t) => !judged.has(t.name))
    .map((t) => `left out: ${called(t)}: ${whyLeftOut(s, t)}`);
}

function whyLeftOut(s: Situation, t: Teacher): string {
  const isTrainedHere = sharesOf(s, t).training > 0;
  if (s.compute === null) {
    return isTrainedHere
      ? "it must be trained, and beside a teacher at hand that is a question of FLOP: give --compute"
      : "nothing that may decide knows its loss";
  }
  if (t.params === null) {
    return "without its size its logits cannot be priced, and the budget is a bill: give --teacher-params";
  }
  if (t.tokens === null && isTrainedHere) {
    return "without its tokens its training cannot be priced, and the budget is a bill: give --teacher-tokens";
  }
  return "its bill leaves nothing for the student (who pays for its training? --scenario, --students-served)";
}

/** Laws that were asked for and may not decide, and headlines that may not. */
function unbelieved(evidence: readonly Evidence[], headline: Evidence, sources: Sources): string[] {
  const found = evidence
    .filter((e) => sources.asked.includes(e.source) && !e.isDecisive && e.status !== "TEACHER_SIZE" && e.source !== headline.source)
    .map((e) => `${e.source} was asked for and may not carry a plan (${e.status}: ${e.note})`);
  if (headline.isDecisive) return found;
  const first =
    headline.status === "REFUSED"
      ? `REFUSED as a basis: ${headline.source} may not carry a plan; the verdict is left open.`
      : `Nothing in range speaks for this student; ${headline.source} is shown, not believed.`;
  return [first, ...found];
}

/** A teacher that cannot help, and a student that hardly trains. */
function odd(row: Strategy, s: Situation, headline: Evidence): string[] {
  const found: string[] = [];
  const perParam = row.studentTokens / row.studentParams;
  if (perParam < constants().few_tokens) {
    found.push(`${row.name}: ${general(perParam, 2)} tokens per parameter; no published law was fitted below 1`);
  }
  const { teacher } = row;
  if (teacher === null) return found;
  const own = headline.pretrain!.loss.mean;
  if (row.teacherLoss !== null && row.teacherLoss >= own) {
    found.push(
      `${called(teacher)} (loss ${row.teacherLoss.toFixed(3)}) is no better than the student by itself ` +
        `(${own.toFixed(3)}): expect it to hold the student back`,
    );
  }
  if (teacher.loss === null && teacher.exists) {
    found.push(
      `the loss of ${called(teacher)} (${row.teacherLoss!.toFixed(3)}) is what the law makes of its size and tokens ` +
        "alone: measure it on yours, distillaw scout",
    );
  }
  if (teacher.params && teacher.params < row.studentParams / 1.25) {
    found.push(
      `${row.name}: a teacher smaller than the student; no law here can describe a student that beats its teacher`,
    );
  }
  const { total } = row.compute;
  if (s.compute !== null && total !== null && total > 1.01 * s.compute) {
    found.push(`${row.name} costs ${formatFlop(total)}, more than the budget`);
  }
  return found;
}
