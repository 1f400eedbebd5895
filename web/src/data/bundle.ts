/** What `distillaw page` embeds: every number of the evidence comes from the library; where searches look stands in both. */
import type { Question } from "../inputs/question";
import { Law, type StudentNumbers, type SupervisedNumbers } from "../laws/law";

type Columns<T> = { [K in keyof T]: (number | null)[] };

export interface EnsembleData {
  plain: Columns<SupervisedNumbers>;
  /** Null: laws of training alone. */
  student: Columns<StudentNumbers> | null;
}

export interface DoubtData {
  at_home: number;
  per_efold: number;
  per_loss: number;
  reach: number;
}

/** What outcomes taught of the gains by a published law. */
export interface LearntData {
  realised: number;
  at_home: number;
  per_gain: number;
  repeated: number;
  repeated_sd: number;
  compute: number;
  begun: number;
  common: number;
  alone: number;
  alone_of_cuts: number;
}

export interface VoiceData {
  source: string;
  kind: string;
  status: string;
  note: string;
  ensemble: EnsembleData | null;
  range: [string, number, number][];
  doubt: DoubtData;
  learnt: LearntData | null;
  may_decide: boolean;
  is_refused: boolean;
  warnings: string[];
  coefficients: CoefficientTable | null;
  line: { slope: number; intercept: number; smallest_student: number } | null;
}

/** Coefficients of the laws behind a voice, as published or fitted, and where they come from. */
interface CoefficientTable {
  title: string;
  source: string;
  members: string[];
  rows: { symbol: string; values: string[] }[];
}

export interface HardwareData {
  name: string;
  device: string;
  peak_flop_per_second: number;
  dtype: string;
  peak_source: string;
  mfu: number;
  mfu_low: number;
  mfu_high: number;
  mfu_source: string;
  price_per_hour: number | null;
  price_source: string;
}

interface NamedTeacherData {
  name: string;
  params: number;
  tokens: number | null;
  tokenizer: string;
  /** Entries of the tokenizer, and rows of the embedding, padding included. */
  tokenizer_size: number;
  vocab: number;
  estimate_error: number;
  /** Neither distilled nor tuned: its tokens tell its loss. */
  is_base: boolean;
  source: string;
}

export interface RunData {
  run_id: string;
  role: string;
  params: number;
  label: string;
  tokens: number;
  seed: number;
  loss: number;
  loss_se: number | null;
  teacher: string | null;
  teacher_loss: number | null;
}

/** One cell that the study measured in pairs, with the verdict that `distillaw plan --study` gives there. */
export interface CellData {
  label: string;
  params: number;
  tokens: number;
  verdict: Answer;
  probability: number;
  sentence: string;
  gain: { mean: number; lower: number; upper: number };
  command: string;
}

export type Answer = "distil" | "pretrain" | "too-close";

interface StudyData {
  name: string;
  folder: string;
  runs: RunData[];
  cells: CellData[];
  /** What the page asks when it is opened. */
  question: Partial<Question>;
  problems: string[];
}

export interface FieldData {
  option: string;
  kind: "count" | "positive" | "fraction" | "whole" | "choice" | "flag";
  /** What is taken where nothing is given. */
  usual: string | boolean;
  choices: string[] | null;
  between: [number, number] | null;
  help: string;
}

export type BudgetKind = "tokens" | "compute" | "device-hours" | "money";

interface Constants {
  /** Of a student without named teachers. */
  vocab: number;
  margin: number;
  sure: number;
  /** Standard deviations of a law's doubt at which its gain has the sign of its mean with the probability `sure`. */
  sure_deviations: number;
  published_sure_deviations: number;
  surprise: number;
  published: string[];
  common: number;
  seeds: number;
  far: number;
  repeats: [number, number];
  readings: number;
  fewest_per_param: number;
  law_dof: number;
  law_scale: number;
  text_spread: number;
  text_dof: number;
  least: number;
  law_errors: { other_text: number; own_text: number };
  other_text_doubt: number;
  other_text_weight: number;
  efold_weight: Record<string, number>;
  edge: number;
  largest_gain: number;
  /** The head start of a cut: shares alone and taught, power, the standard deviation of its logarithm, the share kept. */
  start_law: { share: number; taught: number; power: number; spread: number; kept: [number, number] };
  size_prior: number;
  usual_ratio: number;
  smallest_ratio: number;
  smallest_student: number;
  larger: number;
  largest: Record<string, number>;
  ladder: number[];
  ladder_ratio: number;
  lead_members: number;
  /** The grid of a pooled density: its points, and how far it reaches, in scales of a belief. */
  density: { points: number; tail: number; near: number };
  flat: number;
  /** Of the standard normal distribution, at which a crossing is looked for. */
  doubt_quantiles: number[];
  training_factor: number;
  repeat_scale: number;
  /** Teacher sizes considered over the student's, for `planning/teacher_curve.py`. */
  tokens_per_param: number;
  few_tokens: number;
  scenarios: Record<string, [number, number]>;
  paid: Record<string, string>;
  families: { sigma1: number; sigma2: number }[];
  between: [number, number];
  /** The family whose members are served: see `plan/bills.ts`. */
  served: { aspect: number; omega: number; head_dim: number; cache_bytes: number; smallest: number; largest: number };
}

/** A published outcome of distilling against training alone. */
export interface OutcomeData {
  id: string;
  source: string;
  /** Source and comparison: rows of one table tell much the same. */
  group: string;
  question: string;
  outcome: string;
  winner: "A" | "B" | "tie";
  features: {
    params: number | null; per_param: number | null; ratio: number | null; passes: number | null;
    start: string; cut: boolean; budget: string;
  };
}

export interface Bundle {
  schema_version: number;
  version: string;
  published: VoiceData[];
  /** Laws to consult first, as `distillaw plan --law NAME` would; NAME is the key. */
  asked: { name: string; label: string; voice: VoiceData }[];
  hardware: HardwareData[];
  teachers: NamedTeacherData[];
  outcomes: {
    rows: OutcomeData[];
    shown: number;
    fewest: number;
    farthest: number;
    scales: Record<"params" | "per_param" | "ratio" | "passes", number>;
    other: Record<"start" | "cut" | "budget", number>;
  };
  constants: Constants;
  draws: { points: number; multiplier: number; normal: number[]; tail: number[] };
  /** What the page asks, as the command's question has it. */
  fields: FieldData[];
  budgets: Record<BudgetKind, { usual: string; low: number; high: number; unit: string; name: string }>;
  /** The words of a verdict, with slots (`words.ts`). */
  phrases: Record<string, string>;
  /** Coordinates of a law's range, in words. */
  coordinates: Record<string, string>;
  /** What an answer is called, by where it is said. */
  words: Record<Answer, { title: string; then: string; at_equal_flop: string; still: string }>;
  study: StudyData | null;
}

/** The members of an ensemble; JSON has no infinities, and a missing logarithm is that of nothing. */
export function lawsOf(data: EnsembleData): Law[] {
  const size = data.plain.alpha.length;
  const pick = <T extends object>(columns: Columns<T>, k: number): T =>
    Object.fromEntries(Object.entries(columns).map(([name, v]) => [name, (v as (number | null)[])[k] ?? -Infinity])) as T;
  return Array.from(
    { length: size },
    (_, k) => new Law(pick(data.plain, k), data.student && pick(data.student, k)),
  );
}

/** The element that `distillaw page` fills. */
export const DATA_ID = "distillaw-data";

let bundle: Bundle | null = null;

export function useBundle(data: Bundle): void {
  bundle = data;
}

export function data(): Bundle {
  if (bundle === null) throw new Error("the page holds no data: `distillaw page` writes it");
  return bundle;
}

export function constants(): Constants {
  return data().constants;
}

export function coordinateNames(): Readonly<Record<string, string>> {
  return data().coordinates;
}
