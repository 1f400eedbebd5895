/** All voices on one situation, in order of trust. Mirrors `distillaw/planning/judging.py` without paired runs. */
import { constants } from "../data/bundle";
import { thinned } from "../laws/law";
import { argMin } from "../laws/numerics";
import { QuestionError, formatFlop } from "../quantities";
import { trainingTokens } from "./bills";
import type { Evidence } from "./evidence";
import { lawEvidence } from "./lawEvidence";
import { type Option, findOptions } from "./options";
import type { Situation } from "./situation";
import { type TextScale, teacherOnLawText, textScale } from "./textScale";
import { type Voice, efoldsOutside } from "./voices";

const LEAD_MEMBERS = 24;

export interface Sources {
  readonly voices: readonly Voice[];
  readonly level: number;
  /** Names of the laws that the user asked for. */
  readonly asked: readonly string[];
  /** Text scales by source that are known already. */
  readonly scales: ReadonlyMap<string, TextScale>;
}

/** Lowest irreducible loss of the laws, nats/token. */
export function floorOf(sources: Sources): number {
  const floors = sources.voices.flatMap((v) => v.ensemble?.map((law) => Math.exp(law.plain.log_E)) ?? []);
  return floors.length ? Math.min(...floors) : 0;
}

/** The law that chooses what is free, thinned: the first that reaches this student, else the nearest. */
export function leadOf(s: Situation, sources: Sources): Voice {
  const able = sources.voices.filter((v) => v.ensemble !== null);
  const trusted = able.filter((v) => !v.is_refused);
  const speaking = trusted.length ? trusted : able;
  if (!speaking.length) throw new QuestionError("no law to plan with: choose one that says something of losses");
  const away = speaking.map((v) => distance(s, v));
  const within = speaking.find((v, i) => away[i]! <= v.doubt.reach && v.may_decide);
  const voice = within ?? speaking[argMin(away)]!;
  return { ...voice, ensemble: thinned(voice.ensemble!, LEAD_MEMBERS) };
}

/** E-folds of the student outside a law's range; nothing is known of one of free size. */
function distance(s: Situation, voice: Voice): number {
  const size = s.studentParams;
  if (size === null) return 0;
  const at = { student_params: [size], student_tokens: [trainingTokens(s, size)] };
  return Math.max(0, ...Object.values(efoldsOutside(voice.range, at)));
}

/** What could be done; what is free is chosen by the lead. */
export function optionsOf(s: Situation, sources: Sources, isSketch = false): Option[] {
  const lead = leadOf(s, sources);
  const isSmall = lead.kind === "fitted" && !s.inferenceTokens;
  const scale = sources.scales.get(lead.source) ?? textScale(lead, s, null);
  const scaled = { ...s, teachers: s.teachers.map((t) => teacherOnLawText(scale, t)) };
  const prior = isSmall ? constants().size_prior : 0;
  const options = findOptions(scaled, lead.ensemble!, isSketch, prior).map((o) => {
    const j = o.teacher === null ? -1 : scaled.teachers.indexOf(o.teacher);
    return j < 0 ? o : { ...o, teacher: s.teachers[j]! };
  });
  if (options.every((o) => o.teacher === null)) {
    throw new QuestionError(
      `compute ${formatFlop(s.compute!)} pays for no teacher considered. Raise it, name a teacher of known size that ` +
        "exists, share its bill among more students, or let somebody else pay for it (best case)",
    );
  }
  return options;
}

/** Every voice in order of trust, silent ones included. */
export function consult(
  s: Situation, sources: Sources, options: readonly Option[],
): Evidence[] {
  const found: Evidence[] = [];
  for (const voice of sources.voices) {
    const knows = found.find((e) => e.kind === "fitted" && e.isDecisive);
    const scale = sources.scales.get(voice.source) ?? null;
    const asked = { s, options, level: sources.level };
    found.push(lawEvidence(asked, voice, knows?.pretrain?.loss.mean ?? null, scale));
  }
  return found;
}
