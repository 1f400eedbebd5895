/** One question, every law side by side, one verdict. Mirrors `distillaw/planning/api.py` without paired runs. */
import { QuestionError } from "../quantities";
import { say } from "../words";
import { trainingTokens } from "./bills";
import { type Crossover, type TeacherRange, lawCrossovers, rangeSentence, teacherRange } from "./crossover";
import { type Call, type StartCall, betterStart, call, choose, regret, startText, witnesses } from "./decision";
import { type Interval, intervalOf } from "./draws";
import { type Evidence, type Strategy, type Voice, best, findVoices, gainDraws, isInformative } from "./evidence";
import { explanation } from "./explain";
import { type Judged, type Sources, consult, judge, leadOf, optionsOf } from "./judging";
import { nearest } from "./nearest";
import type { Situation } from "./situation";
import { assumptions, caveats, reasonsOf, sentenceOf } from "./words";

/** The same question at equal FLOP: pretraining may spend what the teacher's logits would have cost. */
export interface EqualCompute {
  readonly compute: number;
  readonly pretrainTokens: number;
  readonly basis: string;
  readonly call: Call | null;
  readonly gain: Interval | null;
}

/** What distilling would be worth, at equal tokens, from a teacher that is not at hand; it carries no verdict. */
export interface Supposed {
  readonly row: Strategy;
  readonly call: Call;
  readonly gain: Interval;
}

export interface Verdict {
  readonly call: Call;
  readonly sentence: string;
  /** Best first, pretraining among them. */
  readonly strategies: readonly Strategy[];
  readonly gain: Interval;
  readonly regret: Interval;
  readonly crossover: Crossover | null;
  readonly crossoverCompute: Crossover | null;
  readonly equal: EqualCompute | null;
  /** Whether a cut begins better, where the verdict is on random starts. */
  readonly start: StartCall | null;
  /** Where none is at hand and tokens are the budget. */
  readonly supposed: Supposed | null;
  readonly reasons: readonly string[];
  readonly assumptions: readonly string[];
  readonly warnings: readonly string[];
  readonly evidence: readonly Evidence[];
  readonly headline: Evidence;
  readonly teachers: TeacherRange | null;
  /** The question as it was put. */
  readonly asked: Situation;
  /** As it was judged: at equal FLOP where tokens are the budget and no teacher is at hand. */
  readonly situation: Situation;
  readonly sources: Sources;
  /** The law behind the plots: the one that chose what was free. */
  readonly lead: Voice;
  readonly level: number;
}

/** The verdict on a question. */
export function plan(asked: Situation, laws: readonly string[], level: number): Verdict {
  if (!(level >= 0.5 && level < 1)) {
    throw new QuestionError(say("level", { level }));
  }
  const voices = findVoices(laws);
  const sources: Sources = {
    voices, level, asked: voices.slice(0, laws.length).map((v) => v.source), scales: new Map(),
  };
  return decide(asked, sources);
}

function decide(asked: Situation, sources: Sources): Verdict {
  const { level } = sources;
  const judged = judge(asked, sources, { withSupposed: true });
  const { situation: s, evidence, headline, call: answer } = judged;
  const equal = equalCompute(asked, judged, sources);
  const supposed = supposedOf(judged, level);
  const start = betterStart(headline, answer, level);
  const crossed = lawCrossovers(s, sources.voices, witnesses(evidence), best(headline), level);
  const own = headline.pretrain!.loss.mean;
  const expected = (row: Strategy) => own - (row.gain?.mean ?? 0);
  const strategies = [headline.pretrain!, ...headline.alternatives].sort(
    (a, b) => Number(a.isSpeculative) - Number(b.isSpeculative) || expected(a) - expected(b),
  );
  const lead = leadOf(s, sources);
  const scale = evidence.find((e) => e.source === lead.source)?.scale.ratio ?? 1;
  let range: TeacherRange | null = null;
  return {
    call: answer, sentence: sentenceOf(s, headline, answer, equal, supposed, level), strategies,
    gain: intervalOf(gainDraws(headline), level), regret: regret(headline, answer, level),
    crossover: crossed.tokens, crossoverCompute: crossed.compute, equal, start, supposed,
    reasons: reasonsOf(evidence, headline, crossed.tokens, equal, supposed, start, level),
    assumptions: assumptions(s, evidence, headline, sources),
    warnings: caveats(s, evidence, headline, sources), evidence, headline,
    // the figures ask for it after the verdict is shown
    get teachers() {
      return (range ??= isInformative(headline) ? teacherRange(s, lead, best(headline), scale) : null);
    },
    asked, situation: s, sources, lead, level,
  };
}

/** What a teacher would be worth that is not at hand. */
function supposedOf(judged: Judged, level: number): Supposed | null {
  if (judged.supposed === null || !judged.supposed.headline.isDecisive) return null;
  const { headline, call: answer } = judged.supposed;
  return { row: best(headline), call: answer, gain: intervalOf(gainDraws(headline), level) };
}

/** The chosen distillation against pretraining on its whole bill; null where that was asked. */
function equalCompute(asked: Situation, judged: Judged, given: Sources): EqualCompute | null {
  const { situation: s, headline } = judged;
  const sources = { ...given, scales: new Map(judged.evidence.map((e) => [e.source, e.scale])) }; // of one text
  const row = best(headline);
  const compute = row.compute.total;
  if (asked.compute !== null || compute === null || row.teacher === null) return null;
  if (s.compute !== null) {
    const pretrainTokens = headline.pretrain!.studentTokens;
    if (!headline.isDecisive) return { compute: s.compute, pretrainTokens, basis: say("unreached"), call: null, gain: null };
    const gain = intervalOf(gainDraws(headline), sources.level);
    return { compute: s.compute, pretrainTokens, basis: headline.source, call: judged.call, gain };
  }
  const question: Situation = {
    ...s, studentTokens: null, compute, studentParams: row.studentParams,
    teachers: s.start === "pruned" ? s.teachers : [row.teacher], mayTrainTeacher: false,
  };
  const pretrainTokens = trainingTokens(question, row.studentParams);
  const evidence = consult(question, sources, optionsOf(question, sources, true));
  if (!witnesses(evidence).length) {
    return { compute, pretrainTokens, basis: say("unreached"), call: null, gain: null };
  }
  const source = choose(evidence, sources.level);
  const gain = intervalOf(gainDraws(source), sources.level);
  return { compute, pretrainTokens, basis: source.source, call: call(source), gain };
}

export function verdictJson(v: Verdict): Record<string, unknown> {
  return {
    verdict: v.call.verdict, probability: v.call.probability, margin: v.call.margin, sentence: v.sentence,
    probability_distil: v.call.distil, probability_pretrain: v.call.pretrain, gain: v.gain,
    regret_if_wrong: v.regret, strategies: v.strategies.map(row), crossover_tokens: band(v.crossover),
    crossover_compute: band(v.crossoverCompute), inside_range: v.headline.insideRange, reasons: v.reasons, explanation: explanation(v),
    assumptions: v.assumptions, warnings: v.warnings,
    equal_compute: v.equal && {
      compute: v.equal.compute, pretrain_tokens: v.equal.pretrainTokens, verdict: v.equal.call?.verdict ?? null,
      probability: v.equal.call?.probability ?? null, gain: v.equal.gain,
    },
    start: v.asked.start,
    better_start: v.start && {
      better: startText(v.start), probability_pruned: v.start.pruned, probability_random: v.start.random,
      gain: v.start.gain, strategy: v.start.row.name, against: v.start.other.name,
    },
    with_a_teacher: v.supposed && {
      teacher: v.supposed.row.teacher!.name, verdict: v.supposed.call.verdict,
      probability: v.supposed.call.probability, gain: v.supposed.gain,
    },
    nearest: nearest(v).map(({ row, distance, agrees }) => ({ id: row.id, distance, agrees })),
    teacher_sizes: v.teachers && {
      best: v.teachers.best, student_loss: v.teachers.studentLoss, flat: [v.teachers.lower, v.teachers.upper],
      sentence: rangeSentence(v.teachers),
    },
  };
}

function band(c: Crossover | null) {
  return { lower: c?.lower ?? null, median: c?.median ?? null, upper: c?.upper ?? null };
}

function row(s: Strategy) {
  return {
    name: s.name, kind: s.kind, student_params: s.studentParams, student_tokens: s.studentTokens,
    teacher_params: s.teacher?.params ?? null, teacher_tokens: s.teacher?.tokens ?? null, teacher_loss: s.teacherLoss,
    compute: s.compute, loss: s.loss, gain: s.gain, probability_best_teacher: s.shareBest,
    cut_of: s.cutOf?.name ?? null, is_speculative: s.isSpeculative,
  };
}
