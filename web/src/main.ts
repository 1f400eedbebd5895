/** Reads the embedded data and mounts the page; `window.distillaw` answers the same questions in the console. */
import { mount } from "svelte";
import App from "./App.svelte";
import { type Bundle, type EnsembleData, DATA_ID, lawsOf, useBundle } from "./data/bundle";
import { argumentsOf, commandOf } from "./inputs/command";
import { type Question, levelOf, situationOf, usualQuestion } from "./inputs/question";
import { best } from "./plan/evidence";
import { findFlips } from "./plan/flips";
import { plan, verdictJson } from "./plan/plan";
import "./page.css";

const found = JSON.parse(document.getElementById(DATA_ID)!.textContent!) as Bundle | null;
if (found === null) document.getElementById("app")!.textContent = "This file holds no data: `distillaw page --out planner.html` makes one that does.";
else {
  useBundle(found);
  mount(App, { target: document.getElementById("app")! });
}

/** With the defaults for what is not given; an empty student is free, as in an address. */
function complete(given: Partial<Question>): Question {
  const q = { ...usualQuestion(), ...given };
  return { ...q, student: q.student || null };
}

Object.assign(window, {
  distillaw: {
    /** A verdict under the names of `distillaw plan --json`. */
    plan: (given: Partial<Question>): unknown => {
      const q = complete(given);
      return JSON.parse(JSON.stringify(verdictJson(plan(situationOf(q), q.law ? [q.law] : [], levelOf(q)))));
    },
    /** What would change the answer, as `flips` of `distillaw plan --json`. */
    flips: (given: Partial<Question>): unknown => {
      const q = complete(given);
      const v = plan(situationOf(q), q.law ? [q.law] : [], levelOf(q));
      if (!v.headline.isDecisive) return [];
      const search = findFlips(v.asked, v.sources, v.call.verdict, best(v.headline).kind === "train-teacher");
      for (;;) {
        const step = search.next();
        if (step.done) return JSON.parse(JSON.stringify(step.value));
      }
    },
    command: (q: Partial<Question>) => commandOf(complete(q)),
    arguments: (q: Partial<Question>) => argumentsOf(complete(q)),
    /** Losses of a law given by its coefficients, nats/token. */
    losses: (law: EnsembleData, params: number, tokens: number, teacherLoss: number) => {
      const [n, d] = [Math.log(params), Math.log(tokens)];
      const own = lawsOf(law)[0]!;
      const taught = own.student && Math.exp(own.distilled(n, d, Math.log(teacherLoss)));
      return [Math.exp(own.supervised(n, d)), taught];
    },
  },
});
