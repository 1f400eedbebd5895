/** Colours are given by name, as the page's own variables: no colour schemes. */
const refuse = (scheme) => {
  throw new Error(`colour scheme ${scheme}: schemes are left out of this page's Plot (web/lean)`);
};

export const isCategoricalScheme = () => false;
export const isDivergingScheme = () => false;
export const quantitativeScheme = refuse;
export const ordinalScheme = refuse;
export const ordinalRange = refuse;
export const maybeBooleanRange = () => undefined;
