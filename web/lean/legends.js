/** Figures of this page name their lines and areas themselves: no legends. */
export const createLegends = () => [];
export const exposeLegends = () => () => {
  throw new Error("legends are left out of this page's Plot (web/lean)");
};
export const legend = createLegends;
