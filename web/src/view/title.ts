/** The verdict in a word or two, as the page heads it. */
import type { CellData } from "../data/bundle";
import type { Verdict } from "../plan/plan";
import { TITLES } from "../plan/wording";

/** What the user's own runs say comes first; where no law reaches there is nothing to call. */
export function titleOf(verdict: Verdict, measured: CellData | null): string {
  if (measured) return TITLES[measured.verdict];
  return verdict.headline.isDecisive ? TITLES[verdict.call.verdict] : "Unknown";
}
