"""What teacher and chat model say to the same three questions: raw generations, kept beside the scores.

A score can be wrong where its answers were never read (MiniChat-3B's AlpacaEval was published
as 76.94 and later corrected to 48.82); these are for reading, and nothing is counted from them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillaw.errors import DataError
from distillaw.runs.files import read_json_lines, write_json, write_text

QUESTIONS = (
    "What is the capital of France?",
    "Give three tips for staying healthy.",
    "Write two sentences about a river in winter.",
)
"""None of them is among the prompts inside the package, so no chat model learnt an answer to it there."""
MOST_TOKENS = 48
SAMPLES, PROMPTS = "samples.json", "samples.prompts.txt"
Say = Callable[[str], None]


def write_samples(
    models: Mapping[str, tuple[str, Path]], folder: Path, *, template: str | None, device: str, say: Say
) -> dict[str, Any]:
    """Have each model answer the questions, greedily, and write samples.json; answers that are there are read.

    Args:
        models: name -> (model, the .jsonl file of its answers).
        folder: where samples.json goes.
        template: for a model that has none.
        device: cpu or cuda.
        say: takes a line of progress.

    Returns:
        What samples.json holds; no samples, and why, where a model has no room for a question and its answer.

    Raises:
        CacheError, ConfigError, RunError: as `generate_answers`.
    """
    from distillaw.instruct.generate import generate_answers

    write_text(folder / PROMPTS, "".join(f"{question}\n" for question in QUESTIONS))
    found: dict[str, Any] = {"max_new_tokens": MOST_TOKENS, "temperature": 0.0, "samples": []}
    answers: dict[str, dict[int, Mapping[str, Any]]] = {}
    try:
        for name, (model, file) in models.items():
            generate_answers(model, folder / PROMPTS, file, max_new_tokens=MOST_TOKENS, template=template,
                             device=device, say=say)  # fmt: skip
            answers[name] = {int(str(row["prompt"])): row for row in read_json_lines(file)}
        found["samples"] = [
            {"prompt": question, "answers": {name: _answer(rows[i]) for name, rows in answers.items()}}
            for i, question in enumerate(QUESTIONS)
        ]
    except DataError as error:  # a short context or a long template: nothing else depends on these answers
        found["note"] = str(error)
        say(f"no sample answers: {error}")
    write_json(folder / SAMPLES, found)
    return found


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": row["messages"][-1]["content"], "tokens": row["tokens"], "truncated": row["truncated"]}
