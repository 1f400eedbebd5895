"""What `make recipe-demo` came to, in one small file: arms, chat model, scores, seconds.

python -m benchmarks.recipe.demo out/recipe --out benchmarks/results/recipe_demo.json
"""

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from distillaw.runs.files import write_text

ARM = ("arm", "taught", "start_loss", "loss", "loss_se", "behind_best", "peak_lr", "tokens", "train_flops", "seconds")
CUT = ("params", "keep", "shape", "importance", "loss", "loss_se", "lost", "lost_se")
SFT = ("before", "after", "change", "conversations", "heldout_conversations", "tokens", "all_tokens", "seconds")


def summary(record: dict) -> dict:
    """The numbers of recipe.json that a reader wants."""
    stages = record["stages"]
    cut = stages["prune"]["cuts"][-1]
    return {
        "command": record["command"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": f"2 cores, {platform.processor() or platform.machine()}, no GPU",
        "seconds": {name: round(stage["seconds"]) for name, stage in stages.items()},
        "cpu_seconds": {name: round(stage["cpu_seconds"]) for name, stage in stages.items()},
        "teacher": {"params": cut["teacher_params"], "loss": stages["distil"]["arms"][0]["teacher_loss"]},
        "cut": {key: cut[key] for key in CUT},
        "arms": [{key: row[key] for key in ARM} for row in stages["distil"]["arms"]],
        "pairs": stages["distil"]["pairs"],
        "sft": {key: stages["instruct"]["sft"][key] for key in SFT},
        "onpolicy": stages["instruct"].get("onpolicy", {}).get("onpolicy"),
        "evaluate": {
            name: {
                "heldout": model["heldout"],
                "calibration": model["calibration"],
                "chat": model.get("chat", {}),
                "scores": {
                    task: {key: score[key] for key in ("score", "se", "n", "chance")}
                    for task, score in model["scores"].items()
                },
            }
            for name, model in stages["evaluate"]["models"].items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    record = json.loads((options.recipe / "recipe.json").read_text())
    write_text(options.out, json.dumps(summary(record), indent=1) + "\n", known=True)


if __name__ == "__main__":
    main()
