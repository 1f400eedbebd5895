"""What is a student's learning on its own answers worth? By rollouts, teacher and size, in worlds known exactly.

    OMP_NUM_THREADS=1 python -m benchmarks.recipe.onpolicy --cells out/onpolicy.jsonl [--minutes 10]
    python -m benchmarks.recipe.onpolicy --cells out/onpolicy.jsonl --out benchmarks/results/onpolicy.json

The first trains what is not in the file yet (a kill costs one cell), the second says what came of it; to go on from a
result, `jq -c '.cells[]' benchmarks/results/onpolicy.json > out/onpolicy.jsonl` first. `--table RESULT` prints the arms
in pairs as they stand in docs/instruct.md. The languages are
hidden Markov models, so truth p, teacher and student are known at every position; teachers see 1 to 3 words, or their
log-probabilities are wrong by a fixed table. A student that has read some text goes on from the same weights, on
prompts of 8 words with answers of 16:

    data                 the text's own answers, cross-entropy
    answers              the teacher's answers, cross-entropy
    text, forward        the text's own answers, KL(teacher, student) over the vocabulary
    text, reverse        the same answers, KL(student, teacher)
    own, forward         the student's own answers, KL(teacher, student)
    own, reverse         the student's own answers, KL(student, teacher)

so that what comes from whose answers is told from what comes from the divergence. Every way has its own best rate for
its own world, teacher, size and number of steps, of rates a factor 4 apart, on a seed that is not reported; the search
goes on until the best rate is no end of what was tried. Measured on prompts nobody learnt from: KL(p, student) on the
text (the excess loss) and KL(student, p) on the student's own answers, nats per answered word; the rate is chosen by
their sum. Only words count: documents do not end within a sequence, so the end of text, which an oracle would expect
there, is left out of every distribution. (With it the divergences are mostly those of an end that never comes.)

A token learnt costs 3 forward passes, one sampled 1, the teacher's TEACHER of the student's. At equal FLOP: the other
way's loss at the steps that the own answers' FLOP buy, by a line in log loss and log steps between measurements.

Students of a cell are trained side by side: their weights are stacked and every product is batched over them, which is
what makes small students cheap. `check` holds logits against the package's model and losses against its `loss_parts`.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from benchmarks.result_file import save, typed
from distillaw.distill.losses import loss_parts
from distillaw.models.fresh import ROPE_BASE, build_model
from distillaw.models.teacher import head_of, hidden_states
from distillaw.runs.files import append_json_lines, read_json, read_json_lines
from distillaw.runs.paired import t_quantile
from distillaw.shapes import Shape, count_non_embedding, shape_for_params
from distillaw.worlds.oracle import Oracle, OracleSpec, parse_oracle
from distillaw.worlds.spec import PRESETS
from distillaw.worlds.world import World

PROMPT, ANSWER, ROWS, TEACHER = 8, 16, 16, 4.0
"""Words, words, rows of a step, forward passes of the student that one of the teacher costs."""
COST = {"data": 3.0, "answers": 3.0 + TEACHER}
COST |= {f"text, {kl}": 3.0 + TEACHER for kl in ("forward", "reverse")}
COST |= {f"own, {kl}": 4.0 + TEACHER for kl in ("forward", "reverse")}
"""Per token, in forward passes of the student; the teacher's answers cost one of its own to write."""
PAIRS = (
    ("tiny", "oracle"),
    ("tiny", "oracle:window=1"),
    ("hmm", "oracle:window=2"),
    ("hmm", "oracle"),
    ("tiny", "oracle:noise=0.3"),
    ("tiny", "oracle:window=3"),
)
"""Worlds and teachers, in the order in which they are asked."""
SIZES = (3.4e3, 2.5e4, 1.26e4)
"""Non-embedding parameters of students, in the order in which they are trained; the last in the small world alone."""
STEPS = (15, 60, 240)
KINDS = (("data",), ("answers",), ("text, forward", "text, reverse"), ("own, forward", "own, reverse"))
"""Ways that are trained side by side: those that read the same kind of answers."""
BEGUN = {"tiny": (60, 5e-3), "hmm": (240, 5e-3)}
"""Steps on text, and their rate, that a student has behind it."""
FIRST_RATE, BETWEEN, RUNGS = 4e-3, 4.0, range(-5, 4)
"""Rates that can be tried: FIRST_RATE * BETWEEN ** rung."""
TUNING, SEEDS = 0, (1, 2, 3, 4)
EVALUATED, EVALUATION = 128, 9_000_000
"""Prompts that are measured, and the first of them."""
RMS_EPSILON = 1e-6
"""That of transformers' Llama."""


class Setting:
    """A world, its text and the distributions of its words; teachers are oracles of the world."""

    def __init__(self, name: str = "tiny") -> None:
        self.world = World(PRESETS[name])
        self.words = self.world.vocab - 1
        self.truth, self.teacher = Oracle(self.world, OracleSpec()), Oracle(self.world, OracleSpec(window=3))

    def text(self, first: int, rows: int) -> torch.Tensor:
        """Beginnings of documents, (rows, PROMPT + ANSWER)."""
        found = self.world.documents("student", first, rows)[:, : PROMPT + ANSWER]
        return torch.from_numpy(np.ascontiguousarray(found))

    def logits(self, oracle: Oracle, ids: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the words, given that the document goes on, (B, T, W)."""
        scores = torch.from_numpy(oracle.probs(ids.numpy())[..., :-1]).clamp(min=1e-30).log()
        return scores.log_softmax(-1).float()

    def shape(self, params: float) -> Shape:
        """A student's shape."""
        return shape_for_params(params, vocab=self.words, context=PROMPT + ANSWER)


Weights = dict[str, torch.Tensor]
Caches = list[tuple[torch.Tensor, torch.Tensor]]


class Students:
    """S students of one shape; every weight has the students as its first axis.

    Shape suffixes: S student, B sequence, T position, N all positions, D width, W word.
    """

    def __init__(self, shape: Shape, models: list[Weights]) -> None:
        self.shape = shape
        self.weights = {name: torch.stack([model[name] for model in models]) for name in models[0]}
        half = shape.head_dim // 2
        angle = torch.arange(shape.context)[:, None] * ROPE_BASE ** (-torch.arange(half) / half)
        self._cos, self._sin = (torch.cat([f(angle)] * 2, dim=-1) for f in (torch.cos, torch.sin))

    def each(self) -> list[Weights]:
        """The weights of each student, to begin others from."""
        return [{name: w[i].detach().clone() for name, w in self.weights.items()} for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.weights["head"])

    def logits(self, ids_SBT: torch.Tensor, *, caches: Caches | None = None, first: int = 0, since: int = 0):
        """(S, B, T - since, W), of positions from `since` on; with caches the ids are those from `first` on."""
        w, shape = self.weights, self.shape
        students, rows, length = ids_SBT.shape
        cos, sin = self._cos[first : first + length], self._sin[first : first + length]
        at_S = torch.arange(students)[:, None, None] * shape.vocab
        x_SND = functional.embedding((ids_SBT + at_S).view(students, -1), w["embed"].view(-1, shape.width))
        for layer in range(shape.layers):
            parts = self._after_norm(x_SND, f"{layer}.norm1", f"{layer}.qkv")
            parts = parts.view(students * rows, length, 3, shape.heads, -1).permute(2, 0, 3, 1, 4)
            (query, key), value = parts[:2] * cos + _turned(parts[:2]) * sin, parts[2]
            if caches is not None:
                for kept, new in zip(caches[layer], (key, value), strict=True):
                    kept[:, :, first : first + length] = new
                key, value = (kept[:, :, : first + length] for kept in caches[layer])
            seen = functional.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
            seen_SND = seen.transpose(1, 2).reshape(students, rows * length, -1)
            x_SND = x_SND + torch.bmm(seen_SND, w[f"{layer}.out"].mT)
            gate, up = self._after_norm(x_SND, f"{layer}.norm2", f"{layer}.gate_up").chunk(2, dim=-1)
            x_SND = x_SND + torch.bmm(functional.silu(gate) * up, w[f"{layer}.down"].mT)
        last_SND = x_SND.view(students, rows, length, -1)[:, :, since:].reshape(students, -1, shape.width)
        return self._after_norm(last_SND, "norm", "head").view(students, rows, length - since, -1)

    def _after_norm(self, x_SND: torch.Tensor, norm: str, product: str) -> torch.Tensor:
        """A product of what RMSNorm gives; its gains go into the matrix, which has fewer rows than there are tokens."""
        normed_SND = x_SND * torch.rsqrt(x_SND.square().mean(-1, keepdim=True) + RMS_EPSILON)
        return torch.bmm(normed_SND, (self.weights[product] * self.weights[norm][:, None]).mT)

    @torch.no_grad()
    def answered(self, prompt_SBP: torch.Tensor, uniform_SBA: torch.Tensor) -> torch.Tensor:
        """Prompts and what was sampled after them with these uniform numbers, (S, B, PROMPT + ANSWER)."""
        (students, rows, _), shape = prompt_SBP.shape, self.shape
        room = students * rows, shape.heads, shape.context, shape.head_dim
        caches = [(torch.empty(room), torch.empty(room)) for _ in range(shape.layers)]
        ids, new = [prompt_SBP], prompt_SBP
        for at in range(ANSWER):
            first = 0 if at == 0 else PROMPT + at - 1
            scores = self.logits(new, caches=caches, first=first, since=new.shape[2] - 1)[:, :, 0]
            new = drawn(scores, uniform_SBA[:, :, at, None])
            ids.append(new)
        return torch.cat(ids, dim=2)


def _turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def drawn(scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Words by inverse cumulative distributions, (..., 1); scores (..., W), uniform (..., 1) in [0, 1)."""
    cumulative = scores.double().softmax(-1).cumsum(-1)
    return (cumulative < uniform * cumulative[..., -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)


def fresh(shape: Shape, seed: int) -> Weights:
    """The package's fresh model of a seed, by the names used here."""
    state = build_model(shape, seed=seed, end_of_text=shape.vocab - 1).state_dict()
    found = {"embed": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
    found["head"] = state["lm_head.weight"]
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        found[f"{layer}.norm1"] = state[at + "input_layernorm.weight"]
        found[f"{layer}.norm2"] = state[at + "post_attention_layernorm.weight"]
        found[f"{layer}.qkv"] = torch.cat([state[f"{at}self_attn.{name}_proj.weight"] for name in "qkv"])
        found[f"{layer}.out"] = state[at + "self_attn.o_proj.weight"]
        found[f"{layer}.gate_up"] = torch.cat([state[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up")])
        found[f"{layer}.down"] = state[at + "mlp.down_proj.weight"]
    return found


class Pupil(NamedTuple):
    """How one student of a stack goes on."""

    way: str
    rate: float
    seed: int


def losses(
    logits: torch.Tensor, pupils: list[Pupil], labels: torch.Tensor, taught: torch.Tensor | None
) -> torch.Tensor:
    """The objective of each student, (S,), of logits and the teacher's log-probabilities (S, B, A, W).

    Labels, (S, B, A), are learnt where no teacher says anything.
    """
    q = logits.log_softmax(-1)
    if taught is None:
        return -q.gather(-1, labels[..., None]).mean((1, 2, 3))
    forward = torch.tensor([pupil.way.endswith("forward") for pupil in pupils])[:, None, None, None]
    return (torch.where(forward, taught, q).exp() * (taught - q) * torch.where(forward, 1, -1)).sum(-1).mean((1, 2))


class Lessons:
    """What students of a teacher read, by seed and step: text, the teacher's answers, its distributions on text."""

    def __init__(self, at: Setting, teacher: Oracle | None, steps: int) -> None:
        self.at, self.teacher, self._steps = at, teacher, steps
        self._text, self._taught, self._answers = (cache(f) for f in (self.all_text, self.all_taught, self.all_answers))

    def all_text(self, seed: int) -> torch.Tensor:
        """(steps * ROWS, PROMPT + ANSWER)."""
        return self.at.text(100_000 * seed + 10_000, self._steps * ROWS)

    def all_taught(self, seed: int) -> torch.Tensor:
        """The teacher's log-probabilities of the text's answers, (steps * ROWS, ANSWER, W)."""
        return torch.cat([self.said(ids) for ids in self._text(seed).split(64 * ROWS)])

    def all_answers(self, seed: int) -> torch.Tensor:
        """The text's prompts with the teacher's answers; a window needs no more than what it sees."""
        ids, spec, generator = self._text(seed)[:, :PROMPT], self.teacher.spec, torch.Generator().manual_seed(seed)
        for _ in range(ANSWER):
            seen = ids if spec.window is None else ids[:, -max(spec.window + 1, 2) :]
            scores = self.at.logits(self.teacher, seen)[:, -1]
            ids = torch.cat([ids, drawn(scores, torch.rand(len(ids), 1, generator=generator))], dim=1)
        return ids

    def said(self, ids: torch.Tensor) -> torch.Tensor:
        """The teacher's log-probabilities of the answers, (..., ANSWER, W) of ids (..., PROMPT + ANSWER)."""
        found = self.at.logits(self.teacher, ids[..., :-1].flatten(0, -2))[:, PROMPT - 1 :]
        return found.view(*ids.shape[:-1], ANSWER, -1)

    def step(self, students: Students, pupils: list[Pupil], step: int, chance: list[torch.Generator]):
        """Sequences and what the teacher says of their answers (None: nothing), for each student."""
        rows, (way, *_) = slice(step * ROWS, (step + 1) * ROWS), pupils[0].way.split(", ")

        def of_seeds(lesson) -> torch.Tensor:
            return torch.stack([lesson(pupil.seed)[rows] for pupil in pupils])

        if way == "answers":
            return of_seeds(self._answers), None
        text = of_seeds(self._text)
        if way != "own":
            return text, of_seeds(self._taught) if way == "text" else None
        uniform = torch.stack([torch.rand(ROWS, ANSWER, generator=each) for each in chance])
        own = students.answered(text[..., :PROMPT], uniform)
        return own, self.said(own)


class Optimizer:
    """Adam for stacked students, each with its own rate, its gradients clipped to a norm of 1."""

    def __init__(self, students: Students) -> None:
        self._weights = list(students.weights.values())
        self._first, self._second = ([torch.zeros_like(w) for w in self._weights] for _ in range(2))
        self._steps = 0

    def step(self, rate_S: torch.Tensor, loss: Callable[[], torch.Tensor]) -> None:
        """Lower the losses, (S,)."""
        for w in self._weights:
            w.requires_grad_(True)
        gradients = torch.autograd.grad(loss().sum(), self._weights)
        for w in self._weights:
            w.requires_grad_(False)
        self._steps += 1
        norm_S = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
        clip_S = (1 / (norm_S + 1e-6)).clamp(max=1)
        unbiased = (1 - 0.999**self._steps) ** 0.5
        for w, g, m, v in zip(self._weights, gradients, self._first, self._second, strict=True):
            over = (-1, *[1] * (g.dim() - 1))
            m.lerp_(g * clip_S.view(over), 0.1)
            v.lerp_((g * clip_S.view(over)).square_(), 0.001)
            change = m / v.sqrt().add_(1e-8 * unbiased)
            w.sub_(change.mul_(rate_S.view(over) * unbiased / (1 - 0.9**self._steps)))


def trained(lessons: Lessons, shape: Shape, start: list[Weights], pupils: list[Pupil], steps: int) -> Students:
    """Students that went on from `start`, all on the same kind of answers; rates fall to zero in a line."""
    students = Students(shape, start)
    optimizer, rates = Optimizer(students), torch.tensor([pupil.rate for pupil in pupils])
    chance = [torch.Generator().manual_seed(pupil.seed) for pupil in pupils]
    for step in range(steps):
        ids, taught = lessons.step(students, pupils, step, chance)

        def loss(ids: torch.Tensor = ids, taught: torch.Tensor | None = taught) -> torch.Tensor:
            return losses(students.logits(ids[..., :-1], since=PROMPT - 1), pupils, ids[..., PROMPT:], taught)

        optimizer.step(rates * (1 - step / steps), loss)
    return students


@torch.no_grad()
def measured(at: Setting, students: Students) -> list[dict[str, float]]:
    """Both divergences from the truth of each student, nats per answered word, on prompts of their own."""
    lessons, text = Lessons(at, at.truth, 0), at.text(EVALUATION, EVALUATED)
    generator, many = torch.Generator().manual_seed(0), (len(students), -1, -1)
    uniform = torch.rand(EVALUATED, ANSWER, generator=generator)
    own = students.answered(text[:, :PROMPT].expand(*many), uniform.expand(*many))
    found = {}
    for name, ids, p in (
        ("text", text.expand(*many), lessons.said(text).expand(len(students), -1, -1, -1)),
        ("own", own, lessons.said(own)),
    ):
        q = students.logits(ids[..., :-1], since=PROMPT - 1).log_softmax(-1)
        first, second = (p, q) if name == "text" else (q, p)
        found[name] = (first.exp() * (first - second)).sum(-1, dtype=torch.float64).mean((1, 2))
    return [{name: float(values[i]) for name, values in found.items()} for i in range(len(students))]


def check(at: Setting, shape: Shape) -> None:
    """Stop unless logits, cached ones too, and losses are the package's own, to rounding."""
    models = [build_model(shape, seed=seed, end_of_text=at.words - 1) for seed in (1, 2)]
    students = Students(shape, [fresh(shape, seed) for seed in (1, 2)])
    text = at.text(0, 2 * ROWS).view(2, ROWS, -1)
    lessons = Lessons(at, at.teacher, 1)
    taught, labels = lessons.said(text), text[:, :, 1:].clone()
    labels[:, :, : PROMPT - 1] = -100
    mine = students.logits(text[..., :-1], since=PROMPT - 1)
    for i, model in enumerate(models):
        theirs = model(text[i, :, :-1]).logits[:, PROMPT - 1 :]
        torch.testing.assert_close(mine[i], theirs, rtol=1e-4, atol=1e-4)
        for way in COST:
            signal = (
                {"teacher_logits": at.logits(at.teacher, text[i, :, :-1])} if "," in way else {"distill_weight": 0.0}
            )
            kind = "reverse-kl" if way.endswith("reverse") else "forward-kl"
            hidden, head = hidden_states(model, text[i, :, :-1]), head_of(model)
            wanted = loss_parts(hidden, head, labels[i], divergence=kind, **signal).total
            found = losses(mine, [Pupil(way, 0, 0)] * 2, text[..., PROMPT:], taught if "," in way else None)[i]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    uniform = torch.rand(2, ROWS, ANSWER)
    own = students.answered(text[..., :PROMPT], uniform)
    again = drawn(students.logits(own[..., :-1], since=PROMPT - 1), uniform[..., None])[..., 0]
    assert (again == own[..., PROMPT:]).double().mean() > 0.999, "words drawn with a cache are others than without"


class Bench:
    """Cells of the grid, trained once each and kept in a file of lines."""

    def __init__(self, file: Path, until: float) -> None:
        self.file, self.until = file, until
        self.rows = read_json_lines(file) if file.exists() else []

    def run(self) -> None:
        """Train what is missing."""
        settings = {world: Setting(world) for world, _ in PAIRS}
        for params, (world, teacher) in itertools.product(SIZES, PAIRS):
            if params == SIZES[-1] and world != "tiny":
                continue
            at = settings[world]
            shape, oracle = at.shape(params), Oracle(at.world, parse_oracle(teacher))
            lessons, starts = Lessons(at, oracle, max(STEPS)), dict[int, Weights]()
            for kind, steps in itertools.product(KINDS, STEPS):
                of = teacher if kind != ("data",) else None
                cell = {"world": world, "teacher": of, "params": count_non_embedding(shape), "steps": steps}
                if self._known(cell, kind[0]) or (kind == ("answers",) and teacher == "oracle"):
                    continue  # an exact teacher's answers are text
                if time.monotonic() > self.until:
                    return
                starts = starts or self._begun(at, shape, cell)
                began = time.process_time()
                rows = self._cell(lessons, shape, starts, kind, cell)
                seconds = round(time.process_time() - began, 1)
                self._keep([row | {"gap": gap(at, oracle) if of else None, "cpu_seconds": seconds} for row in rows])

    def _known(self, cell: dict, way: str) -> dict | None:
        wanted = cell | {"way": way}
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def _keep(self, rows: list[dict]) -> None:
        append_json_lines(self.file, rows)
        self.rows += rows
        for row in rows:
            means = {name: np.mean([each[name] for each in row["found"]]) for name in ("text", "own")}
            print(*(str(row.get(k)) for k in ("world", "teacher", "params", "steps", "way", "rate")), means, flush=True)

    def _begun(self, at: Setting, shape: Shape, cell: dict) -> dict[int, Weights]:
        """Students that have read some text, by seed."""
        check(at, shape)
        seeds, (steps, rate) = (TUNING, *SEEDS), BEGUN[cell["world"]]
        pupils = [Pupil("data", rate, 50 + seed) for seed in seeds]
        made = trained(Lessons(at, None, steps), shape, [fresh(shape, seed) for seed in seeds], pupils, steps)
        start = cell | {"teacher": None, "steps": 0}
        if not self._known(start, "start"):
            self._keep([start | {"way": "start", "found": measured(at, made)[1:]}])
        return dict(zip(seeds, made.each(), strict=True))

    def _cell(self, lessons: Lessons, shape: Shape, starts: dict[int, Weights], kind: tuple[str, ...], cell: dict):
        """Find each way's rate on the seed for it, then train all seeds."""
        tried: dict[str, dict[int, dict[str, float]]] = {way: {} for way in kind}

        def go_on(pupils: list[Pupil]) -> list[dict[str, float]]:
            students = trained(lessons, shape, [starts[each.seed] for each in pupils], pupils, cell["steps"])
            return measured(lessons.at, students)

        while missing := [(way, rung) for way in kind for rung in self._wanted(tried[way], way, cell)]:
            found = go_on([Pupil(way, FIRST_RATE * BETWEEN**rung, TUNING) for way, rung in missing])
            for (way, rung), each in zip(missing, found, strict=True):
                tried[way][rung] = each
        best = {way: min(tried[way], key=lambda rung: total(tried[way][rung])) for way in kind}
        pupils = [Pupil(way, FIRST_RATE * BETWEEN ** best[way], seed) for way in kind for seed in SEEDS]
        found = iter(go_on(pupils))
        return [
            cell
            | {"way": way, "rung": best[way], "rate": FIRST_RATE * BETWEEN ** best[way]}
            | {"edge": best[way] in (RUNGS[0], RUNGS[-1]), "tried": dict(sorted(tried[way].items()))}
            | {"found": [next(found) for _ in SEEDS]}
            for way in kind
        ]

    def _wanted(self, tried: dict[int, dict[str, float]], way: str, cell: dict) -> list[int]:
        """Rungs still to be tried: the best so far and its neighbours, from the best of fewer steps on."""
        if tried:
            centre = min(tried, key=lambda rung: total(tried[rung]))
        else:
            at = STEPS.index(cell["steps"])
            before = self._known(cell | {"steps": STEPS[at - 1]}, way) if at else None
            centre = before["rung"] if before else 0
        return [rung for rung in (centre - 1, centre, centre + 1) if rung in RUNGS and rung not in tried]


def total(found: dict[str, float]) -> float:
    """What rates are chosen by; a student that diverged is worse than any."""
    return float(np.nan_to_num(found["text"] + found["own"], nan=np.inf))


@cache
def _evaluation(at: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    text = at.text(EVALUATION, EVALUATED)
    return text, Lessons(at, at.truth, 0).said(text).double()


def gap(at: Setting, teacher: Oracle) -> float:
    """KL(truth, teacher) on the text, nats per answered word."""
    text, p = _evaluation(at)
    return float((p.exp() * (p - Lessons(at, teacher, 0).said(text))).sum(-1).mean())


AXES = ("world", "teacher", "params", "steps")
Cells = dict[tuple[str, str | None, int, int, str], dict]
FORMS = {
    "constant": (),
    "steps": ("steps",),
    "gap": ("gap",),
    "size": ("size",),
    "steps, gap, size": ("steps", "gap", "size"),
}
"""What ln(another's loss / loss on own answers) may be linear in: ln steps, gap over the start's loss, ln size."""


def values(cells: Cells, key: tuple, way: str, where: str, *, cost: float | None = None) -> np.ndarray:
    """A way's loss of each seed in a cell; with a cost, at the steps that this cost per token buys for as much FLOP."""
    world, teacher, params, steps = key
    of = None if way in ("data", "start") else teacher
    if way == "start":
        steps = 0

    def found(steps: int) -> np.ndarray:
        return np.array([each[where] for each in cells[world, of, params, steps, way]["found"]])

    if cost is None or cost == COST[way]:
        return found(steps)
    wanted, tried = steps * cost / COST[way], [each for each in STEPS if (world, of, params, each, way) in cells]
    low = max((each for each in tried[:-1] if each <= wanted), default=tried[0])
    high = tried[tried.index(low) + 1]
    share = np.log(wanted / low) / np.log(high / low)
    return np.exp(np.log(found(low)) * (1 - share) + np.log(found(high)) * share)


def interval(found: np.ndarray) -> list[float]:
    """Mean and 90 % interval over seeds."""
    half = t_quantile(0.95, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return [float(found.mean()), float(found.mean() - half), float(found.mean() + half)]


def compared(cells: Cells, keys: list[tuple], kl: str, where: str) -> dict[str, list[float]]:
    """Own answers against others, means over cells paired by seed; above 0 where own answers are the better ones."""

    def less(way: str, cost: float | None = None) -> np.ndarray:
        own, one = f"own, {kl}", partial(values, cells, where=where)
        return np.mean([one(key, way, cost=cost) - one(key, own) for key in keys], axis=0)

    flop = {"text at equal FLOP": interval(less(f"text, {kl}", COST["own, reverse"]))}
    if all(
        key[3] < STEPS[-1] for key in keys
    ):  # text alone, whose steps cost less, would reach beyond what was trained
        flop["data at equal FLOP"] = interval(less("data", COST["own, reverse"]))
    return {"text": interval(less(f"text, {kl}")), **flop, "start": interval(less("start"))}


def pairs(cells: Cells, keys: list[tuple]) -> list[dict[str, object]]:
    """Every two ways: loss of the one less that of the other, means over cells of a world, paired by seed.

    At equal FLOP both have what the costlier of the two costs, cells that would need more steps than were trained are
    left out.
    """

    def trained(key: tuple, way: str) -> list[int]:
        of = None if way == "data" else key[1]
        return [steps for steps in STEPS if (key[0], of, key[2], steps, way) in cells]

    found: list[dict[str, object]] = []
    for world, (one, other) in itertools.product(sorted({key[0] for key in keys}), itertools.combinations(COST, 2)):
        both = [k for k in keys if k[0] == world and all(k[3] in trained(k, way) for way in (one, other))]
        dearer = max(COST[one], COST[other])
        for equal, cost in (("tokens", None), ("FLOP", dearer)):
            chosen = [
                key
                for key in both
                if cost is None or all(key[3] * cost / COST[way] <= max(trained(key, way)) for way in (one, other))
            ]
            if not chosen:
                continue
            about = {"world": world, "pair": [one, other], "equal": equal, "cells": len(chosen)}
            for where in ("text", "own"):
                less = [
                    values(cells, k, one, where, cost=cost) - values(cells, k, other, where, cost=cost) for k in chosen
                ]
                about[where] = interval(np.mean(less, axis=0))
            found.append(about)
    return found


ARMS = {
    "SFT on data": "data",
    "SFT on the teacher's answers": "answers",
    "off-policy, forward KL": "text, forward",
    "on-policy, reverse KL": "own, reverse",
}
"""What is done with a chat model, and the way that stands for it."""


def table(found: list[dict]) -> str:
    """`pairs` of the four arms as a table in Markdown, thousandths of a nat per word."""
    known = {(row["world"], *row["pair"], row["equal"]): row for row in found}
    columns = [(world, equal) for world in sorted({row["world"] for row in found}) for equal in ("tokens", "FLOP")]
    heads = [f"{world}, equal {equal}: {where}" for world, equal in columns for where in ("on text", "on own answers")]
    lines = ["| the first's loss less the second's | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for one, other in itertools.combinations(ARMS, 2):
        cells = []
        for world, equal in columns:
            row = known.get((world, ARMS[one], ARMS[other], equal))
            for where in ("text", "own"):
                mean, low, high = (1000 * x for x in row[where]) if row else (0.0, 0.0, 0.0)
                cells.append(f"{mean:+.1f} ± {(high - low) / 2:.1f} ({row['cells']})" if row else "-")
        lines.append(f"| {one}; {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def law(cells: Cells, keys: list[tuple], kl: str, where: str, beside: str) -> dict[str, dict]:
    """Forms of ln(loss of `beside` / loss on own answers), fitted without each world, teacher, size, number of steps.

    Returns:
        By form: coefficients with 90 % intervals; root mean square error of what was left out and its share inside
        90 % intervals, by what was left out.
    """

    def losses_of(way: str) -> np.ndarray:
        return np.array([values(cells, key, way, where).mean() for key in keys])

    ratio = np.log(losses_of(beside) / losses_of(f"own, {kl}"))
    gaps = [cells[(*k, f"own, {kl}")]["gap"] / values(cells, k, "start", "text").mean() for k in keys]
    columns = {"steps": [np.log(k[3]) for k in keys], "gap": gaps, "size": [np.log(k[2]) for k in keys]}
    parts = [(at, part) for at in range(4) for part in sorted({key[at] for key in keys}, key=str)]
    left_out = [np.array([key[at] == part for key in keys]) for at, part in parts]
    found = {}
    for form, names in FORMS.items():
        x = np.column_stack([np.ones(len(keys)), *(columns[name] for name in names)])
        by_axis: dict[str, list[np.ndarray]] = {}
        for (at, _), out in zip(parts, left_out, strict=True):
            if (~out).sum() <= x.shape[1] or np.linalg.matrix_rank(x[~out]) < x.shape[1]:
                continue  # what is left says nothing of what is asked
            guess, half = predicted(x[~out], ratio[~out], x[out])
            by_axis.setdefault(AXES[at], []).append(np.column_stack([guess - ratio[out], half]))
        errors = {axis: np.concatenate(each) for axis, each in by_axis.items()}
        fitted, half = predicted(x, ratio, np.eye(x.shape[1]), new=0)
        found[form] = {
            "coefficients": {
                name: [float(c), float(c - h), float(c + h)]
                for name, c, h in zip(("constant", *names), fitted, half, strict=True)
            },
            "held_out_error": {axis: float(np.sqrt(np.mean(e[:, 0] ** 2))) for axis, e in errors.items()},
            "inside_90": {axis: float(np.mean(np.abs(e[:, 0]) <= e[:, 1])) for axis, e in errors.items()},
        }
    return found


def predicted(x: np.ndarray, y: np.ndarray, at: np.ndarray, new: float = 1) -> tuple[np.ndarray, np.ndarray]:
    """Least squares: values at other rows, and half the width of the 90 % interval of new ones (0: of the line)."""
    coefficients, dof = np.linalg.lstsq(x, y, rcond=None)[0], len(y) - x.shape[1]
    variance = np.sum((y - x @ coefficients) ** 2) / dof
    inner = np.einsum("ij,jk,ik->i", at, np.linalg.pinv(x.T @ x), at)
    return at @ coefficients, t_quantile(0.95, dof) * np.sqrt(variance * (new + inner))


def summary(rows: list[dict]) -> dict[str, object]:
    """What a reader wants of the cells: every comparison, those that fail, groups, laws."""
    cells: Cells = {(r["world"], r["teacher"], r["params"], r["steps"], r["way"]): r for r in rows}
    keys = [key[:4] for key in cells if key[4] == "own, reverse"]
    kinds = list(itertools.product(("forward", "reverse"), ("text", "own")))
    each = [
        {"world": w, "teacher": t, "params": n, "steps": steps, "divergence": kl, "on": where}
        | {
            "loss": {
                way: float(values(cells, (w, t, n, steps), way, where).mean()) for way in _ways(cells, (w, t, n, steps))
            }
        }
        | compared(cells, [(w, t, n, steps)], kl, where)
        for (w, t, n, steps), (kl, where) in itertools.product(keys, kinds)
    ]
    groups = []
    for axes in (("world",), ("teacher",), ("params",), ("steps",), ("teacher", "steps")):
        at = [AXES.index(axis) for axis in axes]
        parts = {(key[0], *(key[i] for i in at)) for key in keys}
        for (world, *part), (kl, where) in itertools.product(sorted(parts, key=str), kinds):
            chosen = [key for key in keys if key[0] == world and [key[i] for i in at] == part]
            about = {"world": world} | dict(zip(axes, part, strict=True)) | {"cells": len(chosen)}
            groups.append(about | {"divergence": kl, "on": where} | compared(cells, chosen, kl, where))
    gaps = {f"{r['world']}, {r['teacher']}": r["gap"] for r in rows if r["teacher"]}
    return {
        "cpu_minutes": sum({(*k[:4], k[4].split(",")[0]): r.get("cpu_seconds", 0.0) for k, r in cells.items()}.values())
        / 60,
        "gaps": gaps,
        "edges": [list(key) for key, row in cells.items() if row.get("edge")],
        "worse_than_text": [_named(row) for row in each if row["text"][2] < 0],
        "worse_than_start": [_named(row) for row in each if row["start"][2] < 0],
        "groups": groups,
        "pairs": pairs(cells, keys),
        "laws": {
            f"{beside} / own, {kl}, on {where}": law(cells, keys, kl, where, beside)
            for kl, where in kinds
            for beside in (f"text, {kl}", "start")
        },
        "comparisons": each,
        "cells": rows,
    }


def _ways(cells: Cells, key: tuple) -> list[str]:
    return ["start", *(way for way in COST if (key[0], None if way == "data" else key[1], *key[2:], way) in cells)]


def _named(row: dict) -> list:
    return [row[name] for name in ("world", "teacher", "params", "steps", "divergence", "on")]


def main() -> None:
    """Train, or say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, help="finished cells, one a line")
    parser.add_argument("--table", type=Path, help="a result, whose arms in pairs are printed")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no cell after so long")
    parser.add_argument("--out", type=Path, help="where the result goes; nothing is trained then")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table is not None:
        print(table(read_json(options.table)["pairs"]))
    elif options.cells is None:
        parser.error("give --cells, or --table and a result")
    elif options.out is None:
        Bench(options.cells, time.monotonic() + 60 * options.minutes).run()
    else:
        save(options.out, typed(), **summary(read_json_lines(options.cells)))


if __name__ == "__main__":
    main()
