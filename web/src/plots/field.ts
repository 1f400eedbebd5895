/** The gain of one teacher over student sizes and tokens: what the map draws. Equal tokens, no cost of the teacher. */
import { linspace, mean } from "../laws/numerics";
import { effectiveTokens } from "../plan/bills";
import { best } from "../plan/evidence";
import type { Verdict } from "../plan/plan";
import { teacherLosses } from "../plan/predictions";
import { teacherOnLawText } from "../plan/textScale";
import { efoldsOutside } from "../plan/voices";

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
  /** 1 where the laws disagree on the sign. */
  readonly split: Float64Array;
}

export function gainField(v: Verdict): Field {
  const row = best(v.headline);
  const s = v.situation;
  const voice = v.lead;
  const ensemble = voice.ensemble!;
  const scale = v.evidence.find((e) => e.source === voice.source)?.scale ?? 1;
  const t = teacherLosses(ensemble, s, teacherOnLawText({ ratio: scale, isGuess: false }, row.teacher!));
  const teacherLoss = mean(t.map(Math.exp));
  const [x, y] = [Math.log10(row.studentTokens), Math.log10(row.studentParams)];
  const box = Object.fromEntries(voice.range.map(([name, low, high]) => [name, [Math.log10(low), Math.log10(high)]]));
  const [tLow, tHigh] = box.student_tokens ?? [x, x];
  const [nLow, nHigh] = box.student_params ?? [y, y];
  const tokens = [Math.min(tLow!, x - 0.4) - 0.3, Math.max(tHigh!, x + 0.4) + 0.3] as const;
  const params = [Math.min(nLow!, y - 0.3) - 0.2, Math.max(nHigh!, y + 0.3) + 0.2] as const;
  const field = [0, 0, 0].map(() => new Float64Array(COLUMNS * ROWS)) as [Float64Array, Float64Array, Float64Array];
  const [gain, outside, split] = field;
  const sizes = linspace(params[0], params[1], ROWS);
  const budgets = linspace(tokens[0], tokens[1], COLUMNS);
  sizes.forEach((size, i) => {
    const n = size * Math.LN10;
    budgets.forEach((budget, j) => {
      const fresh = effectiveTokens(s, 10 ** budget);
      const d = Math.log(fresh);
      let [total, lowest, highest] = [0, Infinity, -Infinity];
      ensemble.forEach((law, k) => {
        const own = law.supervised(n, d);
        const one = Math.exp(own) - Math.exp(law.distilled(n, d, t[k]!, own));
        total += one;
        lowest = Math.min(lowest, one);
        highest = Math.max(highest, one);
      });
      const at = i * COLUMNS + j;
      gain[at] = (scale * total) / ensemble.length;
      split[at] = lowest < 0 && highest > 0 ? 1 : 0;
      const away = efoldsOutside(voice.range, {
        student_params: [10 ** size], student_tokens: [fresh], teacher_loss: [teacherLoss],
        tokens_per_param: [10 ** (budget - size)],
      });
      outside[at] = Object.keys(away).length ? 1 : 0;
    });
  });
  return { tokens, params, gain, outside, split };
}
