/** The way from the question to the verdict, equations with the numbers put in. Mirrors `distillaw/planning/explain.py`. */
import { type LawData, constants, data } from "../data/bundle";
import { mean, median } from "../laws/numerics";
import { formatCount, formatFlop, general } from "../quantities";
import { effectiveTokens, forwardFlop, sharesOf } from "./bills";
import { type Evidence, best, deciding, gainDraws } from "./evidence";
import { intervalOf } from "./draws";
import type { Verdict } from "./plan";
import { teacherLosses } from "./predictions";
import { type Teacher, called } from "./situation";
import { teacherOnLawText } from "./textScale";
import type { Voice } from "./voices";
import { intervalText } from "./wording";

export interface Step {
  readonly title: string;
  readonly equation: string;
  readonly numbers: string;
}

/** One law behind a voice, with its record where it is published. */
export interface CoefficientTable {
  readonly title: string;
  readonly source: string;
  readonly rows: readonly { symbol: string; values: readonly string[] }[];
  readonly members: readonly string[];
}

export function steps(v: Verdict): Step[] {
  const shown = v.sources.voices.filter(
    (voice) => voice.ensemble !== null && (deciding(v.headline).length ? deciding(v.headline) : [v.headline.source]).includes(voice.source),
  );
  return [...costs(v), ...shown.flatMap((voice) => lawSteps(v, voice)), ...decision(v)];
}

function costs(v: Verdict): Step[] {
  const { situation: s } = v;
  const row = best(v.headline);
  const student = forwardFlop(s, row.studentParams);
  const found: Step[] = [{
    title: "FLOP per token",
    equation: "F(N) = 2 N (1 + σ₁ n_ctx / N^⅓ + σ₂ n_vocab / N^⅔)",
    numbers: `F(${formatCount(row.studentParams)}) = ${general(student, 4)} FLOP per token; training takes 3 F = ${general(3 * student, 4)}`,
  }];
  const teacher = row.teacher!;
  if (teacher.params === null) {
    return [...found, { title: "Bill", equation: "", numbers: `${called(teacher)} has no known size: its logits cannot be priced` }];
  }
  const shares = sharesOf(s, teacher);
  const tokens =
    s.compute === null ? "" :
    `; ${formatFlop(s.compute)} buy ${formatCount(v.headline.pretrain!.studentTokens)} tokens without a teacher, ` +
    `${formatCount(row.studentTokens)} with it`;
  found.push({
    title: "Bill",
    equation: "C = 3 F(N_S) D_S + F(N_T) (δ_Lgt D_S + δ_Pre 3 D_T)",
    numbers:
      `δ_Lgt = ${general(shares.logits, 3)}, δ_Pre = ${general(shares.training, 3)}, F(N_T) = ` +
      `${general(forwardFlop(s, teacher.params), 4)}: ${row.compute.total === null ? "unknown" : formatFlop(row.compute.total)}${tokens}`,
  });
  return found;
}

function lawSteps(v: Verdict, voice: Voice): Step[] {
  const { situation: s } = v;
  const ensemble = voice.ensemble!;
  const row = best(v.headline);
  const own = v.headline.pretrain!;
  const evidence = v.evidence.find((e) => e.source === voice.source)!;
  const { scale } = evidence;
  const middle = (of: (k: number) => number) => median(ensemble.map((_, k) => of(k)));
  const p = (name: keyof (typeof ensemble)[0]["plain"]) => middle((k) => ensemble[k]!.plain[name]);
  const q = (name: "c0" | "log_kappa" | "f1" | "eps") => middle((k) => ensemble[k]!.student![name]);
  const isFull = q("eps") > 1e-12;
  const many = ensemble.length > 1 ? `${ensemble.length} laws, medians shown` : "one law";
  const [nOwn, n] = [Math.log(own.studentParams), Math.log(row.studentParams)];
  const [dOwn, d] = [own, row].map((r) => Math.log(effectiveTokens(s, r.studentTokens))) as [number, number];
  const t = teacherLosses(ensemble, s, teacherOnLawText(scale, row.teacher!));
  const alone = ensemble.map((law) => Math.exp(law.supervised(nOwn, dOwn)));
  const same = ensemble.map((law) => Math.exp(law.supervised(n, d)));
  const teacher = [...t].map(Math.exp);
  const taught = ensemble.map((law, k) => Math.exp(law.distilled(n, d, t[k]!)));
  const factor = ensemble.map((law, k) => Math.exp(-law.break(t[k]! - Math.log(same[k]!))));
  const ratio = mean(teacher.map((x, k) => x / same[k]!));
  const found: Step[] = [
    {
      title: "Loss without a teacher",
      equation: "L(N, D) = E + (A / N^α + B / D^β)^γ",
      numbers:
        `${voice.source} (${many}): E = ${general(Math.exp(p("log_E")), 4)}, A = ${general(Math.exp(p("log_A")), 4)}, B = ` +
        `${general(Math.exp(p("log_B")), 4)}, α = ${general(p("alpha"), 4)}, β = ${general(p("beta"), 4)}, γ = ${general(p("gamma"), 4)}. ` +
        `L(${formatCount(own.studentParams)}, ${formatCount(Math.exp(dOwn))}) = ${span(alone)} nats/token`,
    },
    {
      title: "Teacher",
      equation: "r = L_T / L̃_S, the teacher's loss against the student's own on its tokens",
      numbers: `L_T = ${onBothTexts(row.teacher!, teacher, scale.ratio)}; r = ${ratio.toFixed(3)}`,
    },
    {
      title: "Loss with the teacher",
      equation: `L_S = L_T + L_T^(−c₀) exp(−h(r)) (A′ / N^α′ + B′ / D^β′)^γ′,  h(r) = ${isFull ? "ln(1 + ε κ r^(1/f₁)) / ε" : "κ r^(1/f₁)"}`,
      numbers:
        `c₀ = ${general(q("c0"), 4)}, κ = ${general(Math.exp(q("log_kappa")), 4)}, f₁ = ${general(q("f1"), 4)}${isFull ? `, ε = ${general(q("eps"), 4)}` : ""}: exp(−h) = ` +
        `${mean(factor).toFixed(3)}, so L_S = ${mean(teacher).toFixed(4)} + ${mean(taught.map((x, k) => x - teacher[k]!)).toFixed(4)} = ${span(taught)}`,
    },
  ];
  if (isOther(scale.ratio)) {
    const times = scale.ratio.toFixed(4);
    found.push({ title: "Your text", equation: "", numbers: `all of that on the law's own text; losses on yours are ${times} times as high` });
  }
  return found;
}

/** The law's text is not the user's. */
function isOther(ratio: number): boolean {
  return Math.abs(ratio - 1) > 5e-4;
}

/** The teacher's loss and where it comes from, on the law's text and on the user's where they differ. */
function onBothTexts(teacher: Teacher, losses: readonly number[], ratio: number): string {
  const here = span(losses);
  if (teacher.loss !== null) {
    return isOther(ratio) ? `${teacher.loss.toFixed(4)} given, ${here} on the law's text` : `${here} (given)`;
  }
  const found = `${here} (L(${formatCount(teacher.params!)}, ${formatCount(teacher.tokens!)}))`;
  return isOther(ratio) ? `${found} on the law's text, ${(ratio * mean(losses)).toFixed(4)} on yours` : found;
}

function span(values: readonly number[]): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (high - low < 5e-5) return mean(values).toFixed(4);
  return `${mean(values).toFixed(4)} (${low.toFixed(4)} to ${high.toFixed(4)})`;
}

function decision(v: Verdict): Step[] {
  const gains = v.evidence
    .filter((e) => deciding(v.headline).includes(e.source))
    .map((e: Evidence) => {
      const doubt = e.doubt ? `, of which ${e.doubt.toFixed(4)} (standard deviation, t with ${constants().law_dof} degrees of freedom) is doubt of the form` : "";
      return `${e.source}: ${intervalText(intervalOf(gainDraws(e), v.level))}${doubt}`;
    });
  if (deciding(v.headline).length > 1) gains.push(`together (densities multiplied): ${intervalText(v.gain)}`);
  const { margin, sure } = constants();
  const { call, headline } = v;
  const probabilities = headline.isDecisive
    ? `P(gain > margin) = ${call.distil.toFixed(3)}, P(−gain > margin) = ${call.pretrain.toFixed(3)}`
    : "no probability: nothing that may decide reaches this question";
  return [
    ...(gains.length ? [{ title: "Gain", equation: "gain = loss without a teacher − loss with the best one, nats/token", numbers: gains.join("; ") }] : []),
    {
      title: "Call",
      equation: `margin = ${general(100 * margin)} % of the loss; called where P(gain beyond it) ≥ ${sure}`,
      numbers: `margin ${call.margin.toFixed(4)} nats/token; ${probabilities}`,
    },
  ];
}

const GREEK: Record<string, string> = { alpha: "α", beta: "β", gamma: "γ", kappa: "κ" };

/** Coefficients of every law behind the headline with their sources, as published or fitted. */
export function coefficients(v: Verdict): CoefficientTable[] {
  const sources = deciding(v.headline).length ? deciding(v.headline) : [v.headline.source];
  return v.sources.voices
    .filter((voice) => sources.includes(voice.source) && voice.ensemble !== null)
    .map((voice) => {
      const records = voice.members.map((name) => data().laws.find((law) => law.name === name)!);
      return records.length ? published(voice, records) : fitted(voice);
    });
}

function published(voice: Voice, records: readonly LawData[]): CoefficientTable {
  const rows = (["supervised", "distillation"] as const).flatMap((part) => {
    const prime = part === "distillation" ? "′" : "";
    return Object.keys(records[0]!.coefficients[part] ?? {}).map((symbol) => ({
      symbol: (GREEK[symbol] ?? symbol) + (/^(A|B|alpha|beta|gamma)$/.test(symbol) ? prime : ""),
      values: records.map((law) => {
        const c = law.coefficients[part]?.[symbol];
        if (!c) return "";
        return general(c.value) + (c.low === null ? "" : ` (${general(c.low)} to ${general(c.high!)})`);
      }),
    }));
  });
  const source = records.map((law) => `${law.name}: ${law.source}; ${law.obtained}.`).join(" ");
  return { title: voice.source, source, rows, members: records.map((law) => law.name) };
}

/** Of a fit: the median over its replicates and the interval of 90 %. */
function fitted(voice: Voice): CoefficientTable {
  const ensemble = voice.ensemble!;
  const shown = (values: number[]) => {
    const sorted = Float64Array.from(values).sort();
    const at = (share: number) => general(sorted[Math.round(share * (sorted.length - 1))]!, 4);
    return sorted.length > 1 ? `${general(median(sorted), 4)} (${at(0.05)} to ${at(0.95)})` : at(0);
  };
  const column = (half: "plain" | "student", name: string) =>
    ensemble.map((law) => {
      const value = (law[half] as unknown as Record<string, number>)[name]!;
      return name.startsWith("log_") ? Math.exp(value) : value;
    });
  const rows = (["plain", "student"] as const).flatMap((half) =>
    Object.keys(ensemble[0]![half] as object)
      .filter((name) => column(half, name).some((x) => x !== 0))
      .map((name) => {
        const bare = name.replace("log_", "");
        const prime = half === "student" && /^(A|B|alpha|beta|gamma)$/.test(bare) ? "′" : "";
        return { symbol: (GREEK[bare] ?? bare) + prime, values: [shown(column(half, name))] };
      }),
  );
  const source = `${voice.source}: fitted (${voice.status}; ${voice.note}); median over ${ensemble.length} bootstrap replicates, 90 % of them in brackets.`;
  return { title: voice.source, source, rows, members: ["median (90 %)"] };
}
