/** The draws behind every interval: the command's own, in the command's order (`distillaw/planning/law_evidence.py`). */
import { constants } from "../data/bundle";
import { normal, chiSquare } from "./normal";
import { Pcg64 } from "./pcg64";

/** What one voice draws, whatever the question: it is drawn once and kept. */
export class Draws {
  /** A member of the ensemble at random, by draw. */
  readonly pick: Uint16Array;
  /** Scale of the heavy tails, by draw. */
  readonly tails: Float64Array;
  /** The part of the doubt that all distilled students share, by draw. */
  readonly shared: Float64Array;
  private readonly bits: Pcg64;
  private normals = new Float64Array(0);
  private filled = 0;

  private constructor(
    stream: number,
    members: number,
    readonly count: number,
  ) {
    const { law_dof, law_scale } = constants();
    this.bits = new Pcg64(0, stream);
    this.pick = Uint16Array.from({ length: count }, () => this.bits.below(members));
    this.tails = Float64Array.from({ length: count }, () => law_scale * Math.sqrt(law_dof / chiSquare(this.bits, law_dof)));
    this.shared = Float64Array.from({ length: count }, () => normal(this.bits));
  }

  /** So many normal variates that follow; the beginning never changes. */
  stream(length: number): Float64Array {
    if (this.normals.length < length) {
      const longer = new Float64Array(Math.max(length, 2 * this.normals.length));
      longer.set(this.normals);
      this.normals = longer;
    }
    for (; this.filled < length; this.filled++) this.normals[this.filled] = normal(this.bits);
    return this.normals;
  }

  /** Draw ahead what more options will need, a slice at a time; done once for `options` of them. */
  static *ahead(options: number): Generator<void> {
    for (let most = 1; most <= 2 * options + 1; most++) {
      for (const drawn of Draws.kept.values()) {
        if (drawn.filled >= most * drawn.count) continue;
        yield;
        drawn.stream(most * drawn.count);
      }
    }
  }

  private static readonly kept = new Map<string, Draws>();

  /**
   * The draws of one voice.
   *
   * @param stream - place of the voice in the order of trust, from 1.
   * @param members - laws in its ensemble.
   * @param count - draws.
   */
  static of(stream: number, members: number, count: number): Draws {
    const key = `${stream}/${members}/${count}`;
    let found = Draws.kept.get(key);
    if (!found) Draws.kept.set(key, (found = new Draws(stream, members, count)));
    return found;
  }
}
