/** One question, every law side by side, one verdict. Mirrors `distillaw/planning/api.py` without paired runs. */
import { constants } from "../data/bundle";
import { QuestionError, formatCount, general } from "../quantities";
import { trainingTokens } from "./bills";
import { assumptions, caveats } from "./caveats";
import { type Sources, consult, leadOf, optionsOf } from "./consult";
import { type Crossover, lawCrossovers } from "./crossover";
import { type Call, call, choose, regret, witnesses } from "./decision";
import {
  type Evidence, type Strategy, best, gainDraws, isInformative,
} from "./evidence";
import { type Interval, intervalOf } from "./intervals";
import { type Situation, type Teacher, checkSituation, teacher } from "./situation";
import { type TeacherRange, teacherRange } from "./teacherRange";
import { type Voice, findVoices } from "./voices";
import { reasonsOf, sentenceOf } from "./wording";

/** The same question at equal FLOP: pretraining may spend what the teacher's logits would have cost. */
export interface EqualCompute {
  readonly compute: number;
  readonly pretrainTokens: number;
  readonly basis: string;
  readonly call: Call | null;
  readonly gain: Interval | null;
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
  readonly reasons: readonly string[];
  readonly assumptions: readonly string[];
  readonly warnings: readonly string[];
  readonly evidence: readonly Evidence[];
  readonly headline: Evidence;
  readonly teachers: TeacherRange | null;
  readonly situation: Situation;
  readonly sources: Sources;
  /** The law behind the plots: the one that chose what was free. */
  readonly lead: Voice;
  readonly level: number;
}

/** Where no teacher is named under a budget of tokens: a ladder of compute-optimal ones, to be trained. */
export function ladder(params: number): Teacher[] {
  const { ladder, ladder_ratio } = constants();
  return ladder.map((k) =>
    teacher({
      name: `${formatCount(k * params)} teacher`, params: k * params, tokens: ladder_ratio * k * params, exists: false,
    }),
  );
}

/** The verdict on a question. */
export function plan(asked: Situation, laws: readonly string[], level: number): Verdict {
  if (!(level >= 0.5 && level < 1)) {
    throw new QuestionError(`level = ${general(level)}: intervals cover between 0.5 and 1, e.g. 0.9`);
  }
  const s = checkSituation(asked);
  const voices = findVoices(laws);
  const sources: Sources = {
    voices, level, asked: voices.slice(0, laws.length).map((v) => v.source), scales: new Map(),
  };
  checkTeachers(s, voices);
  return decide(s, sources);
}

function decide(s: Situation, sources: Sources): Verdict {
  const { level } = sources;
  const evidence = consult(s, sources, optionsOf(s, sources));
  const headline = choose(evidence, level);
  const answer = call(headline);
  const equal = equalCompute(s, sources, headline);
  const crossed = lawCrossovers(s, sources.voices, witnesses(evidence), best(headline), level);
  const own = headline.pretrain!.loss.mean;
  const expected = (row: Strategy) => own - (row.gain?.mean ?? 0);
  const strategies = [headline.pretrain!, ...headline.alternatives].sort(
    (a, b) => Number(a.isSpeculative) - Number(b.isSpeculative) || expected(a) - expected(b),
  );
  const lead = leadOf(s, sources);
  const scale = evidence.find((e) => e.source === lead.source)?.scale ?? 1;
  let range: TeacherRange | null = null;
  return {
    call: answer, sentence: sentenceOf(s, headline, answer, equal, level), strategies,
    gain: intervalOf(gainDraws(headline), level), regret: regret(headline, answer, level),
    crossover: crossed.tokens, crossoverCompute: crossed.compute, equal,
    reasons: reasonsOf(evidence, headline, crossed.tokens, equal, level), assumptions: assumptions(s, headline),
    warnings: caveats(s, evidence, headline, sources), evidence, headline,
    // the figures ask for it after the verdict is shown
    get teachers() {
      return (range ??= isInformative(headline) ? teacherRange(s, lead, best(headline), scale) : null);
    },
    situation: s, sources, lead, level,
  };
}

/** The chosen distillation against pretraining on its whole bill; null if that is the question already. */
function equalCompute(s: Situation, sources: Sources, headline: Evidence): EqualCompute | null {
  const row = best(headline);
  const compute = row.compute.total;
  if (s.compute !== null || compute === null || row.teacher === null) return null;
  const question: Situation = {
    ...s, studentTokens: null, compute, studentParams: row.studentParams, teachers: [row.teacher],
    mayTrainTeacher: false,
  };
  const pretrainTokens = trainingTokens(question, row.studentParams);
  const evidence = consult(question, sources, optionsOf(question, sources, true));
  if (!witnesses(evidence).length) {
    const basis = "no source reaches that far: train the student without a teacher on these tokens";
    return { compute, pretrainTokens, basis, call: null, gain: null };
  }
  const source = choose(evidence, sources.level);
  const gain = intervalOf(gainDraws(source), sources.level);
  return { compute, pretrainTokens, basis: source.source, call: call(source), gain };
}

/** Refuse teacher losses that no model on this text can have. */
function checkTeachers(s: Situation, voices: readonly Voice[]): void {
  const floors = voices.flatMap((v) => v.ensemble?.map((law) => Math.exp(law.plain.log_E)) ?? []);
  const floor = floors.length ? Math.min(...floors) : 0;
  for (const { loss } of s.teachers) {
    if (loss !== null && loss > Math.log(s.vocab)) {
      throw new QuestionError(
        `teacher loss ${general(loss)} nats/token is worse than guessing among ${s.vocab} tokens ` +
          `(${Math.log(s.vocab).toFixed(3)}); give the loss in nats/token, or change the vocabulary`,
      );
    }
    if (loss !== null && loss <= floor) {
      throw new QuestionError(
        `teacher loss ${general(loss)} is below the irreducible loss ${general(floor)} nats/token of every law here. ` +
          "Is it in bits per byte, or on other text? Give nats/token",
      );
    }
  }
}

