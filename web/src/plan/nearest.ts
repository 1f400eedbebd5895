/** Published outcomes nearest to the question. Mirrors `distillaw/planning/nearest.py`, which says what the rows are like. */
import { type OutcomeData, data } from "../data/bundle";
import { best } from "./evidence";
import type { Verdict } from "./plan";
import { comparison } from "./situation";

export interface Case {
  readonly row: OutcomeData;
  readonly distance: number;
  /** With the verdict; null where that is too close to call. */
  readonly agrees: boolean | null;
}

type Features = OutcomeData["features"];

/** Nearest first, at most one of a source and comparison. */
export function nearest(v: Verdict): Case[] {
  const { outcomes } = data();
  const asked = featuresOf(v);
  const verdict = v.headline.isDecisive ? v.call.verdict : "too-close";
  const found: Case[] = [];
  for (const row of outcomes.rows) {
    const distance = distanceOf(asked, row.features);
    if (distance === null) continue;
    const agrees = verdict === "too-close" ? null : ({ A: "distil", B: "pretrain" } as Record<string, string>)[row.winner] === verdict;
    found.push({ row, distance, agrees });
  }
  found.sort((a, b) => a.distance - b.distance || (a.row.id < b.row.id ? -1 : 1));
  const seen = new Set<string>();
  const apart = found.filter(({ row }) => !seen.has(row.group) && seen.add(row.group));
  return apart.slice(0, outcomes.shown).filter((c, i) => i < outcomes.fewest || c.distance < outcomes.farthest);
}

function featuresOf(v: Verdict): Features {
  const { situation: s } = v;
  const { teacher, studentParams, studentTokens } = best(v.headline);
  return {
    params: studentParams, per_param: studentTokens / studentParams,
    ratio: teacher === null || teacher.params === null ? null : teacher.params / studentParams,
    passes: s.uniqueTokens === null ? 1 : Math.max(studentTokens / s.uniqueTokens, 1),
    start: s.start, cut: false, budget: comparison(s),
  };
}

/** Null where nothing of the row's sizes is known. */
function distanceOf(asked: Features, row: Features): number | null {
  if (row.params === null && row.ratio === null) return null;
  const { scales, other } = data().outcomes;
  const names = Object.keys(scales) as (keyof typeof scales)[];
  const known = names.filter((name) => asked[name] !== null && row[name] !== null);
  const near = known.reduce((sum, name) => sum + (Math.log(asked[name]! / row[name]!) / scales[name]) ** 2, 0);
  const differs = Object.entries(other).filter(([name]) => asked[name as keyof Features] !== row[name as keyof Features]);
  const share = known.length / names.length;
  return Math.sqrt(near / share / names.length + differs.reduce((sum, [, weight]) => sum + weight ** 2, 0) + (1 - share));
}
