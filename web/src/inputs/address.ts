/** The question in the address of the page, so that a link is an answer. */
import { type Question, firstQuestion } from "./question";

const LISTS = ["named", "own"] as const;
/** A student of free size in an address. */
const FREE = "";

/** What differs from the defaults, as the part of the address after `#`. */
export function toHash(q: Question): string {
  const found = new URLSearchParams();
  for (const [key, usual] of Object.entries(firstQuestion())) {
    const value = q[key as keyof Question];
    if (key === "named") {
      for (const name of q.named) found.append("teacher", name);
    } else if (key === "own") {
      if (JSON.stringify(q.own) === JSON.stringify(usual)) continue;
      found.append("own", q.own.map((t) => [t.params, t.tokens, t.loss].map((x) => x.trim()).join("~")).join("_"));
    } else if (key === "student") {
      const isEmptied = q.student === ""; // no question yet
      if (q.student !== usual && !isEmptied) found.append(key, q.student ?? FREE);
    } else if (value !== usual) found.append(key, String(value));
  }
  return found.toString();
}

/** The question of an address; what cannot be read keeps its default. */
export function fromHash(hash: string): Question {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const q = firstQuestion();
  for (const [key, usual] of Object.entries(firstQuestion())) {
    const value = given.get(key);
    if (value === null || (LISTS as readonly string[]).includes(key)) continue;
    Object.assign(q, { [key]: typeof usual === "boolean" ? value === "true" : value });
  }
  if (q.student === FREE) q.student = null;
  q.named = given.getAll("teacher");
  const own = given.get("own");
  if (own !== null) {
    q.own = own === "" ? [] : own.split("_").map((one) => {
      const [params = "", tokens = "", loss = ""] = one.split("~");
      return { params, tokens, loss };
    });
  }
  return q;
}
