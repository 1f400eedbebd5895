/** No axis is in time. Stands for Plot's intervals and temporal scales. */
const refuse = () => {
  throw new Error("time is left out of this page's Plot (web/lean)");
};

export const intervalDuration = Symbol("intervalDuration");
export const intervalType = Symbol("intervalType");
export const timeInterval = refuse;
export const utcInterval = refuse;
export const parseTimeInterval = refuse;
export const generalizeTimeInterval = refuse;
export const inferTimeFormat = refuse;
export const createScaleTime = refuse;
export const createScaleUtc = refuse;
