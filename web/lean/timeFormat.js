/** No axis is in time. Stands for d3-time-format. */
const refuse = () => {
  throw new Error("time is left out of this page's Plot (web/lean)");
};

export const utcFormat = refuse;
export const timeFormat = refuse;
