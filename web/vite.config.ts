/** The page as one HTML file without a single request; `distillaw page` puts the data into it. */
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";
import { leanPlot } from "./lean/plugin";

export default defineConfig({
  plugins: [leanPlot(), svelte(), viteSingleFile({ removeViteModuleLoader: true })],
  build: {
    target: "es2022",
    outDir: "../src/distillaw/page/built",
    emptyOutDir: false,
    assetsInlineLimit: Number.MAX_SAFE_INTEGER,
    modulePreload: { polyfill: false },
    rollupOptions: { input: "planner.html" },
  },
});
