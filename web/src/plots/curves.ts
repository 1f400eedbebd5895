/** Losses along one input, with the intervals of the verdict: what the line plots draw. */
import { constants } from "../data/bundle";
import type { Ensemble } from "../laws/law";
import { linspace, mean } from "../laws/numerics";
import { studentTokensWorth } from "../plan/bills";
import { type Interval, difference, drawnGains, drawnLosses, intervalOf } from "../plan/draws";
import { type Voice, best, doubtAt, efoldsOutside } from "../plan/evidence";
import { countedGain, keptShare, learntDoubt } from "../plan/learnt";
import type { Verdict } from "../plan/plan";
import { SAME_TEXT, teacherLosses, teacherOnLawText } from "../plan/predictions";
import { lawError } from "../plan/situation";

const POINTS = 37;
/** Token budgets drawn, in units of the present one. */
const SPAN = [1 / 8, 64] as const;

export interface LossPoint {
  /** The input: tokens or parameters. */
  readonly at: number;
  readonly alone: Interval;
  readonly distilled: Interval;
  readonly isOutside: boolean;
}

/** The law behind the plots: the whole voice, and its scale. */
function behind(v: Verdict): { voice: Voice; ensemble: Ensemble; scale: number; textSd: number } {
  const voice = v.sources.voices.find((one) => one.source === v.lead.source)!;
  const ensemble = voice.ensemble!;
  const { ratio: scale, sd: textSd } = v.evidence.find((e) => e.source === voice.source)?.scale ?? SAME_TEXT;
  return { voice, ensemble, scale, textSd };
}

interface At {
  n: number;
  tokens: number;
  /** Ln L_T by law. */
  teacher: Float64Array;
  /** Standard deviation of what is uncertain about this teacher alone, as a share of its loss. */
  error: number;
}

/** Both losses at one point, drawn as the verdict draws them. */
function lossesAt(v: Verdict, at: At): Omit<LossPoint, "at"> {
  const { voice, ensemble, scale } = behind(v);
  const [dOwn, d] = [false, true].map((is) => Math.log(studentTokensWorth(v.situation, at.tokens, is))) as [number, number];
  const own = Float64Array.from(ensemble, (law) => law.supervised(at.n, d));
  const taught = (by: number) =>
    Float64Array.from(ensemble, (law, k) =>
      Math.exp(law.distilled(at.n, d, Math.log(Math.exp(at.teacher[k]!) * (1 + by)), own[k]!)),
    );
  const [alone, distilled] = [Float64Array.from(ensemble, (law) => Math.exp(law.supervised(at.n, dOwn))), taught(0)];
  const [low, high] = at.error ? [taught(-at.error), taught(at.error)] : [distilled, distilled];
  const doubt = (scale * mean(high.map((x, k) => Math.abs(x - low[k]!)))) / 2;
  const outside = efoldsOutside(voice.range, {
    student_params: [Math.exp(at.n)], student_tokens: [Math.exp(dOwn), Math.exp(d)],
    teacher_loss: [mean(at.teacher.map(Math.exp))], tokens_per_param: [at.tokens / Math.exp(at.n)],
  });
  const { learnt } = voice;
  const share = learnt === null ? doubtAt(voice.doubt, outside) : learntDoubt(v.situation, learnt, outside, alone, alone, distilled, at.tokens);
  const common = scale * share * mean(alone);
  const first = drawnLosses(alone.map((x) => scale * x), common);
  const counted = countedGain(
    v.situation, learnt, outside, alone, alone, distilled, at.tokens, mean(at.teacher.map(Math.exp)),
  );
  const left = keptShare(v.situation, learnt, outside) * doubt;
  const gain = drawnGains(counted.map((x) => scale * x), common, left, 0, learnt?.common ?? constants().common);
  return {
    alone: intervalOf(first, v.level), distilled: intervalOf(difference(first, gain), v.level), isOutside: Object.keys(outside).length > 0,
  };
}

/** Loss against training tokens, for the student and the teacher of the best distillation. */
export function overTokens(v: Verdict): LossPoint[] {
  const row = best(v.headline);
  const { ensemble, scale, textSd } = behind(v);
  const teacher = teacherOnLawText({ ...SAME_TEXT, ratio: scale }, row.teacher!);
  const known = teacherLosses(ensemble, v.situation, teacher);
  const n = Math.log(row.studentParams);
  const centre = Math.log(v.headline.pretrain!.studentTokens * row.studentTokens) / 2;
  const error = teacher.loss === null ? lawError(teacher) : Math.hypot(teacher.lossSe / teacher.loss, textSd);
  return Array.from(linspace(centre + Math.log(SPAN[0]), centre + Math.log(SPAN[1]), POINTS), (x) => {
    const tokens = Math.exp(x);
    return { at: tokens, ...lossesAt(v, { n, tokens, teacher: known, error }) };
  });
}

/** Loss against the teacher's size, for teachers trained like the best one. */
export function overTeacherSize(v: Verdict): LossPoint[] {
  const row = best(v.headline);
  const { ensemble } = behind(v);
  const range = v.teachers!;
  const n = Math.log(row.studentParams);
  const chosen = row.teacher?.params ?? range.best;
  const low = Math.min(range.isOpenBelow ? range.best / 8 : range.lower / 3, row.studentParams / 2, chosen / 2);
  const high = Math.max(range.isOpenAbove ? range.best * 8 : range.upper * 3, row.studentParams * 16, chosen * 2);
  const ratio = Math.log(range.tokensPerParam);
  return Array.from(linspace(Math.log(low), Math.log(high), POINTS), (x) => {
    const teacher = Float64Array.from(ensemble, (law) => law.supervised(x, x + ratio));
    return { at: Math.exp(x), ...lossesAt(v, { n, tokens: row.studentTokens, teacher, error: 0 }) };
  });
}
