"""Questions as people ask them, at random: for what must hold of every answer, of the command and of the page."""

import math

import numpy as np

from distillaw.quantities import format_count

NAMED = ("Llama-3.1-8B", "pythia-1.4b", "pythia-6.9b", "Qwen2.5-7B")
SCENARIOS = ("best-case", "inference", "pretraining", "pretraining-inference")


def random_question(rng: np.random.Generator) -> dict:
    """What the page keeps of a question, under its names, and `losses` of named teachers, for the command alone."""
    size = math.exp(rng.uniform(math.log(1.5e8), math.log(6e9)))
    ratio = math.exp(rng.uniform(math.log(5), math.log(400)))
    asked = {"student": format_count(size), "budgetKind": "tokens", "budget": format_count(size * ratio)}
    if rng.random() < 0.4:
        asked |= {"budgetKind": "compute", "budget": f"{6 * size**2 * ratio:.2e}"}
    kind = rng.choice(["none", "named", "own", "two", "loss alone"], p=[0.15, 0.3, 0.3, 0.15, 0.1])
    asked |= {"named": [], "own": [], "losses": []}
    if kind == "named":
        asked["named"] = [str(rng.choice(NAMED))]
        asked["losses"] = [_loss(rng)] if rng.random() < 0.6 else []
    elif kind != "none":
        is_measured = kind == "loss alone" or rng.random() < 0.6
        asked["own"] = [_own(rng, size, kind, is_measured) for _ in range(2 if kind == "two" else 1)]
        asked["trainOwn"] = bool(kind == "own" and rng.random() < 0.3)
    if rng.random() < 0.3:
        asked["scenario"] = str(rng.choice(SCENARIOS))
    if rng.random() < 0.3:
        asked["studentsServed"] = str(rng.integers(2, 40))
    if rng.random() < 0.2:
        asked["logits"] = "stored"
    if rng.random() < 0.2:
        asked["onlyExisting"] = kind != "none"
    if rng.random() < 0.15:
        asked["uniqueTokens"] = format_count(size * ratio / 3)
    if rng.random() < 0.15:
        asked["maxStudent"] = format_count(4 * size)
    return asked


def _own(rng: np.random.Generator, student: float, kind: str, is_measured: bool) -> dict[str, str]:
    loss = _loss(rng) if is_measured else ""
    if kind == "loss alone":
        return {"params": "", "tokens": "", "loss": loss}
    size = student * math.exp(rng.uniform(math.log(0.5), math.log(16)))
    tokens = size * math.exp(rng.uniform(math.log(10), math.log(2000)))
    return {"params": format_count(size), "tokens": format_count(tokens), "loss": loss}


def _loss(rng: np.random.Generator) -> str:
    return f"{rng.uniform(1.75, 2.8):.3f}"


_OPTIONS = {
    "scenario": "--scenario",
    "studentsServed": "--students-served",
    "logits": "--logits",
    "uniqueTokens": "--unique-tokens",
    "maxStudent": "--max-student",
}


def of_command(asked: dict) -> dict:
    """The same without what the command refuses: the page's field for students served is always there."""
    is_named = asked["named"] or asked["own"]
    may_train = not asked.get("onlyExisting") and not (is_named and asked["budgetKind"] == "tokens")
    is_shared = asked.get("logits") == "stored" or "pretraining" in asked.get("scenario", "") or asked.get("trainOwn")
    return {k: v for k, v in asked.items() if k != "studentsServed" or may_train or is_shared}


def words_of(asked: dict) -> list[str]:
    """The same as words of the command."""
    found = ["plan", "--student", asked["student"], f"--{asked['budgetKind']}", asked["budget"]]
    if asked["named"]:
        found += ["--teacher", *asked["named"]]
    if asked["losses"]:
        found += ["--teacher-loss", *asked["losses"]]
    for key in ("params", "tokens", "loss"):
        if asked["own"] and asked["own"][0][key]:
            found += [f"--teacher-{key}", *(one[key] for one in asked["own"])]
    found += [word for key, option in _OPTIONS.items() if key in asked for word in (option, asked[key])]
    flags = {"trainOwn": "--train-teacher", "onlyExisting": "--only-existing"}
    return found + [flag for key, flag in flags.items() if asked.get(key)]


def changed(asked: dict, flip: dict) -> dict:
    """The question with one input replaced, as a flip of the JSON says."""
    then, new = flip["then"], {**asked}
    if flip["input"] in ("tokens", "compute"):
        return {**new, "budgetKind": flip["input"], "budget": repr(then)}
    if flip["input"] == "teacher_loss":
        whose = [k for k, one in enumerate(asked["own"]) if f"{one['params']} teacher" == flip["teacher"]] or [0]
        own = [{**one, "loss": f"{then:.3f}"} if k == whose[0] else one for k, one in enumerate(asked["own"])]
        return {**new, "losses": [f"{then:.3f}" for _ in asked["losses"]], "own": own}
    if flip["input"] == "teacher":
        keep = [one for one in asked["own"] if f"{one['params']} teacher" == then]
        return {**new, "own": keep}
    names = {"student_params": "student", "students_served": "studentsServed", "scenario": "scenario"}
    return {**new, names[flip["input"]]: then if isinstance(then, str) else f"{then:.12g}"}
