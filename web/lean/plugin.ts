/**
 * Leaves out of Observable Plot what no figure of this page uses, a quarter of the file.
 *
 * Plot reaches projections, legends, tips, colour schemes, time and curves from its core, so that no bundler can know that
 * they are not called. Each has a stand-in here that does what Plot does without it and refuses to do more.
 */
import { fileURLToPath } from "node:url";
import type { Plugin } from "vite";

const PLOT = "@observablehq/plot/src/";
const STAND_INS: Record<string, string> = {
  [`${PLOT}projection.js`]: "projection.js",
  [`${PLOT}legends.js`]: "legends.js",
  [`${PLOT}marks/tip.js`]: "tips.js",
  [`${PLOT}interactions/pointer.js`]: "tips.js",
  [`${PLOT}scales/schemes.js`]: "schemes.js",
  [`${PLOT}scales/temporal.js`]: "time.js",
  [`${PLOT}time.js`]: "time.js",
  [`${PLOT}curve.js`]: "curve.js",
  [`${PLOT}transforms/bin.js`]: "bin.js",
};
/** Packages of d3 of which only parts that are left out have need. */
const PACKAGES: Record<string, string> = { "d3-time-format": "timeFormat.js", "d3-geo": "geo.js" };

export function leanPlot(): Plugin {
  const file = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  return {
    name: "lean-plot",
    enforce: "pre",
    async resolveId(source, importer, options) {
      if (PACKAGES[source]) return file(PACKAGES[source]);
      if (!importer?.includes(PLOT)) return null;
      const found = await this.resolve(source, importer, { ...options, skipSelf: true });
      const name = Object.keys(STAND_INS).find((path) => found?.id.endsWith(path));
      return name ? file(STAND_INS[name]!) : null;
    },
  };
}
