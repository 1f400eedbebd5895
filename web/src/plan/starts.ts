/** What students begin from: random weights, or a cut of a teacher. Mirrors `distillaw/planning/situation.py`. */
import { constants } from "../data/bundle";
import { type Situation, type Teacher, costShares } from "./situation";

/** The phrase that says why the law of starts does not reach a cut of this teacher; empty where it does. */
export function cutProblem(t: Teacher, studentParams: number | null, s: Situation): string {
  if (studentParams === null) return "cut of free size";
  if (!t.exists) return "cut of none";
  if (costShares(s).training > 0) return "cut is billed";
  if (t.params === null || t.tokens === null) return "cut of unknown";
  if (t.params <= studentParams) return "cut is no cut";
  const { start_law: { kept: [low, high] }, edge } = constants();
  const kept = studentParams / t.params;
  return kept >= low * (1 - edge) && kept <= high * (1 + edge) ? "" : "cut too small";
}

/** Ln of the head start of a cut, tokens: ln D0 = ln share + ln D_T + power ln(N / T), with or without a teacher. */
export function logHeadStart(s: Situation, t: Teacher, isTaught: boolean): number {
  const { share, taught, power } = constants().start_law;
  return Math.log(isTaught ? taught : share) + Math.log(t.tokens!) + power * Math.log(s.studentParams! / t.params!);
}

/** The teacher that students are cut out of: of those that the law reaches, the one with the most of a head start. */
export function cutSource(s: Situation): Teacher | null {
  const reached = s.teachers.filter((t) => !cutProblem(t, s.studentParams, s));
  const ahead = (t: Teacher) => logHeadStart(s, t, true);
  return reached.reduce<Teacher | null>((a, b) => (a === null || ahead(b) > ahead(a) ? b : a), null);
}

/** The question with students of this size that are cut out of this teacher. */
export function beginsFrom(s: Situation, teacher: Teacher, studentParams: number): Situation {
  return { ...s, start: "pruned", teachers: [teacher], studentParams };
}

/** The phrase that says why no law covers the start that was asked for; empty where one does. */
export function startProblem(s: Situation): string {
  if (s.start === "pretrained") return "pretrained unknown";
  if (s.start === "random" || cutSource(s) !== null) return "";
  return s.teachers.length ? cutProblem(s.teachers[0]!, s.studentParams, s) : "cut of none";
}
