"""Are students of equal loss equally good, however they were taught? In a world known exactly.

    OMP_NUM_THREADS=1 python -m benchmarks.recipe.equal_loss --out benchmarks/results/equal_loss.json

A student of 0.02M learns a hidden Markov language (16 words) from its text, or from a teacher's whole distribution on
the same text, from the same weights: an exact teacher, one that sees a single token, one too sure of itself and one not
sure enough. Every 20 steps its excess loss KL(p, student) is measured beside what it can do; each taught student is
then held against the one that learnt alone where both have the same loss, the lowest that both reach, by a line between
measurements (not where it was better from its first measurement on). Intervals are Student's t over pairs of one seed.

    first choice   probability, in truth, of the token that the student takes for the likeliest
    choice of 4    share of prompts where it finds the text's own continuation likelier than those of three others
    sure           probability it gives its first choice, less that token's in truth (0 is right)
    calibration    expected calibration error of the first choice against truth, 21 bins
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch

from benchmarks.recipe.onpolicy import PROMPT, ROWS, Optimizer, Pupil, Setting, Students, check, fresh, losses
from benchmarks.result_file import save, typed
from distillaw.runs.paired import t_quantile
from distillaw.worlds.oracle import Oracle, OracleSpec

TEACHERS = {
    "exact": OracleSpec(),
    "sees one token": OracleSpec(window=1),
    "too sure": OracleSpec(temperature=0.7),
    "not sure enough": OracleSpec(temperature=1.4),
}
STEPS, EVERY, RATE, SEEDS, LENGTH = 160, 20, 5e-3, range(1, 6), 4
SKILLS = ("first choice", "choice of 4", "sure", "calibration")


class Exam:
    """What a student is measured on: prompts that nobody learns from."""

    def __init__(self, at: Setting) -> None:
        self.text = at.text(9_000_000, 256)
        self.truth = at.logits(at.truth, self.text[:, :-1]).double().log_softmax(-1)
        ends = self.text[:, PROMPT : PROMPT + LENGTH]
        self.questions = [torch.cat([self.text[:, :PROMPT], ends.roll(by, 0)], 1) for by in range(4)]

    @torch.no_grad()
    def measure(self, students: Students) -> list[dict[str, float]]:
        """The excess loss and the skills of each."""
        many, p = (len(students), -1, -1), self.truth
        q_S = students.logits(self.text[:, :-1].expand(*many)).double().log_softmax(-1)
        scores_S = []
        for ids in self.questions:
            logits = students.logits(ids[:, :-1].expand(*many), since=PROMPT - 1).double().log_softmax(-1)
            scores_S.append(logits.gather(-1, ids[:, PROMPT:, None].expand(*many, -1)).sum((2, 3)))
        found = torch.stack(scores_S).argmax(0) == 0
        rows = []
        for q, right in zip(q_S, found, strict=True):
            sure, first = q.exp().max(-1)
            worth = p.exp().gather(-1, first[..., None])[..., 0]
            of = np.clip((sure.flatten().numpy() * 21).astype(int), 0, 20)
            apart = np.bincount(of, (sure - worth).flatten().numpy(), minlength=21)
            rows.append(
                {
                    "excess": float((p.exp() * (p - q)).sum(-1).mean()),
                    "first choice": float(worth.mean()),
                    "choice of 4": float(right.double().mean()),
                    "sure": float((sure - worth).mean()),
                    "calibration": float(np.abs(apart).sum() / of.size),
                }
            )
        return rows


def curves(at: Setting, exam: Exam, teacher: Oracle | None) -> list[list[dict[str, float]]]:
    """Measurements of each seed's student on its way; students read the text from its first word on."""
    shape = at.shape(2e4)
    check(at, shape)
    students, way = Students(shape, [fresh(shape, seed) for seed in SEEDS]), "forward" if teacher else "data"
    optimizer, pupils = Optimizer(students), [Pupil(way, RATE, seed) for seed in SEEDS]
    found = []
    for step in range(STEPS):
        text = torch.stack([at.text(100_000 * seed + step * ROWS, ROWS) for seed in SEEDS])
        ids = text[..., :-1]
        taught = None if teacher is None else at.logits(teacher, ids.flatten(0, 1)).view(*ids.shape, -1)

        def loss(text: torch.Tensor = text, taught: torch.Tensor | None = taught) -> torch.Tensor:
            return losses(students.logits(text[..., :-1]), pupils, text[..., 1:], taught)

        optimizer.step(torch.full((len(SEEDS),), RATE), loss)
        if (step + 1) % EVERY == 0:
            found.append(exam.measure(students))
    return [list(each) for each in zip(*found, strict=True)]


def at_loss(found: list[dict[str, float]], level: float, skill: str) -> float:
    """A skill where the curve first comes down to an excess loss."""
    for before, after in itertools.pairwise(found):
        if after["excess"] <= level <= before["excess"]:
            share = (before["excess"] - level) / (before["excess"] - after["excess"])
            return before[skill] + share * (after[skill] - before[skill])
    raise ValueError(f"no measurement above an excess loss of {level}")


def compared(curves: dict[str, list[list[dict[str, float]]]]) -> dict[str, dict]:
    """What taught students can do more than those that learnt alone, at equal loss."""
    table: dict[str, dict] = {}
    for name in TEACHERS:
        pairs = list(zip(curves["alone"], curves[name], strict=True))
        levels = [max(min(row["excess"] for row in found) for found in pair) for pair in pairs]
        if any(found[0]["excess"] < level for pair, level in zip(pairs, levels, strict=True) for found in pair):
            continue  # better from its first measurement on than the other ever was
        table[name] = {"excess": float(np.mean(levels))}
        for skill in SKILLS:
            both = np.array(
                [[at_loss(found, level, skill) for found in pair] for pair, level in zip(pairs, levels, strict=True)]
            )
            gain = both[:, 1] - both[:, 0]
            half = t_quantile(0.95, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
            table[name][skill] = {
                "alone": both[:, 0].mean(),
                "taught": both[:, 1].mean(),
                "difference": [gain.mean(), gain.mean() - half, gain.mean() + half],
            }
            print(f"{name:16s} {skill:12s} {both[:, 0].mean():.4f} {gain.mean():+.4f} ± {half:.4f}", flush=True)
    return table


def main() -> None:
    """Train, match, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    at = Setting()
    exam, teachers = Exam(at), {name: Oracle(at.world, spec) for name, spec in TEACHERS.items()}
    found = {}
    for name, teacher in ({"alone": None} | teachers).items():
        found[name] = curves(at, exam, teacher)
        print(name, [round(min(each["excess"] for each in curve), 4) for curve in found[name]], flush=True)
    save(out, typed(), table=compared(found), curves=found)


if __name__ == "__main__":
    main()
