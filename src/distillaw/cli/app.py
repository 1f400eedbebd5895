"""The `distillaw` command: which verbs exist and where each lives.

A verb is named by its import path, so that `--help` and a plan import nothing heavy. Exit codes:
0 done, 1 failed, 2 wrong usage, 130 interrupted. Answers go to stdout, progress and errors to stderr.

    distillaw --help
"""

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping

from cyclopts import App, CycloptsError

from distillaw.cli.plan_file import question_from_file
from distillaw.errors import ConfigError, DistillawError
from distillaw.version import __version__

SCHEMA_VERSION = 1

app = App(
    name="distillaw",
    help="Plan, run and verify compute-optimal distillation of language models.",
    version=__version__,
    config=(question_from_file,),
    suppress_keyboard_interrupt=False,  # `run` below says what an interrupt means here
)

# verb -> (import path, one line for --help that is known without importing the verb)
_VERBS: dict[str, tuple[str, str]] = {
    "laws": ("distillaw.cli.laws:app", "The published and fitted laws known: coefficients, source, doubts."),
    "predict": ("distillaw.cli.predict:predict", "The loss of one student under one law."),
    "fit": ("distillaw.cli.fit:fit", "Fit a law to a CSV, a Parquet file or a study folder."),
    "cost": (
        "distillaw.cli.cost:cost",
        "Parameters, FLOP, memory, time and money of a student and its teacher.",
    ),
    "teachers": (
        "distillaw.cli.teachers:teachers",
        "Real models that can be named as teachers: size, training tokens, tokenizer, sources.",
    ),
    "scout": ("distillaw.cli.scout:scout", "Measure candidate teachers on your own text, in bits per byte."),
    "gap": (
        "distillaw.cli.gap:gap",
        "The best teacher for a student under each law, and why a stronger one can hurt.",
    ),
    "plan": ("distillaw.cli.plan:plan", "The verdict: distil or pretrain, from which teacher, how sure."),
    "map": (
        "distillaw.cli.map:draw_map",
        "Where distilling pays, the best teachers, what the compute goes into: text, arrays, figures.",
    ),
    "study": ("distillaw.cli.study:app", "Design, dry-run and run a family of runs."),
    "settle": (
        "distillaw.cli.settle:settle",
        "Distil or pretrain, from which teacher: paired pilots that stop as soon as they may.",
    ),
    "train": ("distillaw.cli.train:train", "One run from a TOML file: pretrain or distil; resumable."),
    "branch": (
        "distillaw.cli.branch:branch",
        "The branch test: fork a checkpoint at several batches, find the critical one, also of distillation.",
    ),
    "cache": ("distillaw.cli.cache:app", "Teacher targets on disk: build, inspect, verify."),
    "prune": (
        "distillaw.cli.prune:prune",
        "A student cut out of its teacher, in Hugging Face format.",
    ),
    "distil": (
        "distillaw.cli.distil:distil",
        "A student from its start (cut, fresh, pretrained) with its teacher, its arms compared.",
    ),
    "recipe": (
        "distillaw.cli.recipe:app",
        "From a teacher to a small chat model: prune, distil, instruct, evaluate, report.",
    ),
    "pareto": (
        "distillaw.cli.pareto:pareto",
        "Score against training compute: your models among the published ones.",
    ),
    "regime": (
        "distillaw.cli.regime:regime",
        "Batch, learning rate and warm-up of a run: every rule with its source, what a large batch wastes.",
    ),
    "large-batch": (
        "distillaw.cli.large_batch:app",
        "Large against small batches on images, column by column, with seeds: the large-batch paper's experiments.",
    ),
    "instruct": (
        "distillaw.cli.instruct:app",
        "Chat models: fine-tuning on conversations, preferences, a teacher's answers to learn from.",
    ),
    "evaluate": (
        "distillaw.cli.evaluate:evaluate",
        "Held-out loss, calibration, benchmarks and judged chat of a finished model.",
    ),
    "vocabulary": (
        "distillaw.cli.vocabulary:app",
        "A model with more tokens for another language, or fewer: tokenizer, embedding, head.",
    ),
    "upcycle": (
        "distillaw.cli.upcycle:upcycle",
        "A mixture of experts that starts as copies of a dense model.",
    ),
    "worlds": (
        "distillaw.cli.worlds:app",
        "Synthetic languages with an exact oracle: text, entropy, teachers.",
    ),
    "verify": ("distillaw.cli.verify:app", "Predictions frozen before runs against what was measured."),
    "report": ("distillaw.cli.report:report", "One HTML file from a study folder."),
    "page": (
        "distillaw.cli.page:page",
        "The interactive planner as one HTML file that works without network.",
    ),
    "toys": (
        "distillaw.cli.toys:app",
        "The capacity gap in its simplest form: a closed form and small MLPs.",
    ),
}
for _name, (_path, _help) in _VERBS.items():
    app.command(_path, name=_name, help=_help)


def print_json(answer: Mapping[str, object]) -> None:
    """Print one JSON object with the schema version first, at full float precision."""
    json.dump({"schema_version": SCHEMA_VERSION, **answer}, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def run(call: Callable[[], object]) -> int:
    """Call a verb and turn what it raises into one clear line on stderr and an exit code."""
    try:
        result = call()
        sys.stdout.flush()
    except CycloptsError:  # cyclopts has printed its own message
        return 2
    except ConfigError as error:
        return _complain(error, 2)
    except BrokenPipeError:  # `distillaw ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        unnamed = error.filename is None and error.errno in (errno.ENOSPC, errno.EIO)
        what = OSError(f"standard output cannot be written: {error.strerror}") if unnamed else error
        return _complain(what, 1)
    except DistillawError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: finished work is kept; the same command continues\n")
        return 130
    return result if isinstance(result, int) else 0


def _complain(error: BaseException, code: int) -> int:
    sys.stderr.write(f"distillaw: {error}\n")
    return code


def main() -> None:
    """Entry point of the console script.

    One thread for numpy unless the user says otherwise: the matrices of fits and reports are small, and threads cost
    more than they bring (a report takes 5 s of CPU instead of 10).
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries: progress is ours to show
    sys.exit(run(lambda: app(exit_on_error=False, result_action="return_value")))
