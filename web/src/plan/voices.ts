/** Every law that may speak, as the library describes it. Mirrors `distillaw/planning/voices.py`. */
import { type DoubtData, type VoiceData, constants, data, lawsOf } from "../data/bundle";
import type { Ensemble } from "../laws/law";

export interface Voice extends Omit<VoiceData, "ensemble"> {
  readonly ensemble: Ensemble | null;
}

const made = new Map<VoiceData, Voice>();

function voiceOf(given: VoiceData): Voice {
  let found = made.get(given);
  if (!found) made.set(given, (found = { ...given, ensemble: given.ensemble && lawsOf(given.ensemble) }));
  return found;
}

/** Voices in order of trust: the laws asked for by name, then the published ones. */
export function findVoices(asked: readonly string[]): Voice[] {
  const first = asked.map((name) => voiceOf(data().asked.find((one) => one.name === name)!.voice));
  const sources = new Set(first.map((v) => v.source));
  return [...first, ...data().published.map(voiceOf).filter((v) => !sources.has(v.source))];
}

/** Standard deviation, as a share of the loss, at e-folds outside by coordinate. */
export function doubtAt(doubt: DoubtData, outside: Readonly<Record<string, number>>): number {
  const worst = Math.max(0, ...Object.values(outside));
  return Math.hypot(
    doubt.at_home,
    doubt.per_efold * (outside.student_params ?? 0),
    doubt.per_efold * (outside.student_tokens ?? 0),
    doubt.per_loss * (outside.teacher_loss ?? 0),
    doubt.per_square * worst ** 2,
  );
}

/** How many e-folds the farthest of some points lies outside a range, by coordinate; inside is left out. */
export function efoldsOutside(
  range: VoiceData["range"], coords: Readonly<Record<string, readonly number[]>>,
): Record<string, number> {
  const found: Record<string, number> = {};
  for (const [name, low, high] of range) {
    const weight = constants().efold_weight[name] ?? 1;
    const away = (coords[name] ?? []).map((v) => weight * Math.max(Math.log(low / v), Math.log(v / high)));
    const worst = Math.max(0, ...away);
    if (worst > 1e-9) found[name] = worst;
  }
  return found;
}
