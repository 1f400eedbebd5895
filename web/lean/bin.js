/** Nothing is counted by intervals. Stands for Plot's bin transform, which lines and areas ask whether they have one. */
const unlessIntervals = (options = {}) => {
  if (options.interval == null) return options;
  throw new Error("intervals are left out of this page's Plot (web/lean)");
};

export const maybeDenseIntervalX = unlessIntervals;
export const maybeDenseIntervalY = unlessIntervals;
export const maybeThresholds = unlessIntervals;
export const bin = unlessIntervals;
export const binX = unlessIntervals;
export const binY = unlessIntervals;
