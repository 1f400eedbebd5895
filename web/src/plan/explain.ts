/** The way from the question to the verdict, as `distillaw plan --explain` says it. Mirrors `distillaw/planning/explain.py`. */
import { constants } from "../data/bundle";
import { mean, median } from "../laws/numerics";
import { say } from "../words";
import { forwardFlop, sharesOf, studentTokensWorth } from "./bills";
import { intervalOf } from "./draws";
import { type Voice, best, deciding, gainDraws } from "./evidence";
import type { Verdict } from "./plan";
import { teacherLosses, teacherOnLawText } from "./predictions";
import { type Teacher, called } from "./situation";

/** One step a line: cost, supervised loss, teacher, distilled loss, gain, doubt, margin, call. */
export function explanation(v: Verdict): string[] {
  const voices = v.sources.voices.filter(({ source, ensemble }) => ensemble !== null && deciding(v.headline).includes(source));
  return [...costs(v), ...voices.flatMap((voice) => lawSteps(v, voice)), ...decision(v)];
}

function costs(v: Verdict): string[] {
  const { situation: s } = v;
  const row = best(v.headline);
  const teacher = row.teacher!;
  const student = forwardFlop(s, row.studentParams);
  const found = [say("step FLOP", { params: row.studentParams, student, training: 3 * student })];
  if (teacher.params === null) return [...found, say("step unpriced", { teacher: called(teacher) })];
  const { logits, training } = sharesOf(s, teacher);
  found.push(say("step bill", { logits, training, teacher: forwardFlop(s, teacher.params) }));
  if (s.compute !== null) {
    const own = v.headline.pretrain!.studentTokens;
    found.push(say("step tokens", { compute: s.compute, own, taught: row.studentTokens }));
  }
  return found;
}

/** Both losses under the middle of one voice, with its coefficients. */
function lawSteps(v: Verdict, { source, ensemble: laws }: Voice): string[] {
  const { situation: s } = v;
  const ensemble = laws!;
  const [own, row] = [v.headline.pretrain!, best(v.headline)];
  const { kept, scale: { ratio } } = v.evidence.find((e) => e.source === source)!;
  const middle = (part: "plain" | "student", name: string) =>
    median(ensemble.map((law) => (law[part] as unknown as Record<string, number>)[name]!));
  const plain = (name: string) => middle("plain", name);
  const student = (name: string) => middle("student", name);
  const [nOwn, n] = [Math.log(own.studentParams), Math.log(row.studentParams)];
  const dOwn = Math.log(studentTokensWorth(s, own.studentTokens, false));
  const d = Math.log(studentTokensWorth(s, row.studentTokens, true));
  const t = teacherLosses(ensemble, s, teacherOnLawText(v.evidence.find((e) => e.source === source)!.scale, row.teacher!));
  const alone = ensemble.map((law) => Math.exp(law.supervised(nOwn, dOwn)));
  const same = ensemble.map((law) => law.supervised(n, d));
  const teacher = [...t].map(Math.exp);
  const taught = ensemble.map((law, k) => Math.exp(law.distilled(n, d, t[k]!, same[k])));
  const factor = ensemble.map((law, k) => Math.exp(-law.break(t[k]! - same[k]!)));
  const found = [
    say("step law", {
      source, of: ensemble.length > 1 ? say("step laws", { count: ensemble.length }) : say("step one law"),
      E: Math.exp(plain("log_E")), A: Math.exp(plain("log_A")), B: Math.exp(plain("log_B")), alpha: plain("alpha"),
      beta: plain("beta"), gamma: plain("gamma"),
    }),
    say("step alone", { params: own.studentParams, tokens: Math.exp(dOwn), loss: span(alone) }),
    say("step teacher", {
      loss: onBothTexts(row.teacher!, teacher, ratio), ratio: mean(teacher.map((x, k) => x / Math.exp(same[k]!))),
    }),
    say("step distilled", {
      c0: student("c0"), kappa: Math.exp(student("log_kappa")), f1: student("f1"), factor: mean(factor), teacher: mean(teacher),
      lacking: mean(taught.map((x, k) => x - teacher[k]!)), loss: span(taught),
    }),
  ];
  if (isOther(ratio)) found.push(say("step text", { ratio }));
  return kept === 1 ? found : [...found, say("step realised", { share: 100 * kept })];
}

/** The law's text is not the user's. */
export function isOther(ratio: number): boolean {
  return Math.abs(ratio - 1) > 5e-4;
}

/** The teacher's loss and where it comes from, on the law's text and on the user's where they differ. */
function onBothTexts({ loss, params, tokens }: Teacher, losses: readonly number[], ratio: number): string {
  const here = span(losses);
  if (loss !== null) return isOther(ratio) ? say("step given elsewhere", { loss, here }) : say("step given", { here });
  const found = say("step estimated", { here, params: params!, tokens: tokens! });
  return isOther(ratio) ? say("step estimated elsewhere", { found, loss: ratio * mean(losses) }) : found;
}

function span(values: readonly number[]): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return say(high - low < 5e-5 ? "step mean" : "step span", { mean: mean(values), low, high });
}

function decision(v: Verdict): string[] {
  const { headline, call, level } = v;
  const { margin: share, sure, law_dof: dof } = constants();
  const found = v.evidence
    .filter((e) => deciding(headline).includes(e.source))
    .map((e) => say("step gain", {
      source: e.source, gain: intervalOf(gainDraws(e), level), doubt: e.doubt ? say("step doubt", { doubt: e.doubt, dof }) : "",
    }));
  if (deciding(headline).length > 1) found.push(say("step together", { gain: v.gain }));
  const called = headline.isDecisive ? say("step called", { ...call, sure }) : say("step uncalled");
  const floor = share * headline.pretrain!.loss.mean;
  return [...found, say("step margin", { share, floor, noise: 0, margin: call.margin, called })];
}
