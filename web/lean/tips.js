/** No tips follow the pointer: a figure says the same on paper. Stands for Plot's tip mark and its pointer transforms. */
const refuse = () => {
  throw new Error("tips are left out of this page's Plot (web/lean)");
};

export const tip = refuse;
export const pointer = refuse;
export const pointerX = refuse;
export const pointerY = refuse;
export const Tip = refuse;
