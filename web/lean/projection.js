/** Figures of this page have no map projections: what Plot does where none is asked for. */
const refuse = () => {
  throw new Error("projections are left out of this page's Plot (web/lean)");
};

export const createProjection = ({ projection }) => (projection == null ? undefined : refuse());
export const hasProjection = ({ projection } = {}) => projection != null && refuse();
export const projectionAspectRatio = (projection) => (projection == null ? undefined : refuse());
export const project = refuse;
export const getGeometryChannels = refuse;
export const xyProjection = refuse;
export const applyPosition = refuse;
