/** The gain of one teacher over student sizes and tokens: what the map draws. Equal tokens, no cost of the teacher. */
import { constants } from "../data/bundle";
import { linspace, mean } from "../laws/numerics";
import { effectiveTokens } from "../plan/bills";
import { best } from "../plan/evidence";
import type { Verdict } from "../plan/plan";
import { teacherLosses } from "../plan/predictions";
import { SAME_TEXT, teacherOnLawText } from "../plan/textScale";
import { doubtAt, efoldsOutside } from "../plan/voices";

export const COLUMNS = 56;
export const ROWS = 40;

export interface Field {
  /** Log10 of the ends of both axes. */
  readonly tokens: readonly [number, number];
  readonly params: readonly [number, number];
  /** Mean gain over the laws, row by row from the smallest student, nats/token. */
  readonly gain: Float64Array;
  /** 1 outside the fitted range. */
  readonly outside: Float64Array;
  /** The gain over what it takes to be sure of its sign: beyond 1 distilling is better, below -1 training alone. */
  readonly sure: Float64Array;
}

export function gainField(v: Verdict): Field {
  const row = best(v.headline);
  const s = v.situation;
  const voice = v.lead;
  const ensemble = voice.ensemble!;
  const scale = v.evidence.find((e) => e.source === voice.source)?.scale.ratio ?? 1;
  const t = teacherLosses(ensemble, s, teacherOnLawText({ ...SAME_TEXT, ratio: scale }, row.teacher!));
  const teacherLoss = mean(t.map(Math.exp));
  const [x, y] = [Math.log10(row.studentTokens), Math.log10(row.studentParams)];
  const box = Object.fromEntries(voice.range.map(([name, low, high]) => [name, [Math.log10(low), Math.log10(high)]]));
  const [tLow, tHigh] = box.student_tokens ?? [x, x];
  const [nLow, nHigh] = box.student_params ?? [y, y];
  const tokens = [Math.min(tLow!, x - 0.4) - 0.3, Math.max(tHigh!, x + 0.4) + 0.3] as const;
  const params = [Math.min(nLow!, y - 0.3) - 0.2, Math.max(nHigh!, y + 0.3) + 0.2] as const;
  const field = [0, 0, 0].map(() => new Float64Array(COLUMNS * ROWS)) as [Float64Array, Float64Array, Float64Array];
  const [gain, outside, sure] = field;
  const sizes = linspace(params[0], params[1], ROWS);
  const budgets = linspace(tokens[0], tokens[1], COLUMNS);
  sizes.forEach((size, i) => {
    const n = size * Math.LN10;
    budgets.forEach((budget, j) => {
      const fresh = effectiveTokens(s, 10 ** budget);
      const d = Math.log(fresh);
      let [total, squares, alone] = [0, 0, 0];
      ensemble.forEach((law, k) => {
        const own = law.supervised(n, d);
        const one = Math.exp(own) - Math.exp(law.distilled(n, d, t[k]!, own));
        total += one;
        squares += one * one;
        alone += Math.exp(own);
      });
      const at = i * COLUMNS + j;
      const middle = total / ensemble.length;
      gain[at] = scale * middle;
      const away = efoldsOutside(voice.range, {
        student_params: [10 ** size], student_tokens: [fresh], teacher_loss: [teacherLoss],
        tokens_per_param: [10 ** (budget - size)],
      });
      outside[at] = Object.keys(away).length ? 1 : 0;
      const doubt = (doubtAt(voice.doubt, away) * alone) / ensemble.length;
      const spread = Math.max(squares / ensemble.length - middle * middle, 0);
      sure[at] = middle / (constants().sure_deviations * Math.sqrt(doubt * doubt + spread));
    });
  });
  return { tokens, params, gain, outside, sure };
}
