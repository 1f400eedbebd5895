/** Figures of this page have no map projections. Stands for d3-geo. */
const refuse = () => {
  throw new Error("projections are left out of this page's Plot (web/lean)");
};

export const geoPath = refuse;
export const geoCentroid = refuse;
export const geoGraticule10 = refuse;
