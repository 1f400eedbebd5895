"""The verbs, those of `study` too: where each lives, and its line in `--help`, so that a list imports none of them."""

from collections.abc import Mapping

from cyclopts import App, Group
from cyclopts.command_spec import CommandSpec

Verbs = Mapping[str, tuple[str, str]]
"""verb -> (module of this folder:name in it, one line)."""

GROUPS: dict[str, Verbs] = {
    "Decide": {
        "plan": ("plan:plan", "Decide: distil or pretrain, from which teacher, and how sure."),
        "page": ("report:page", "Write the interactive planner: one HTML file that works without network."),
        "gap": ("gap:gap", "Find the best teacher for a student under each law, and why a stronger one can hurt."),
        "map": (
            "map:draw_map",
            "Draw where distilling pays, the best teachers, what the compute goes into: text, arrays, figures.",
        ),
        "teachers": (
            "teachers:teachers",
            "List real models that can be named as teachers: size, training tokens, tokenizer, sources.",
        ),
        "scout": ("teachers:scout", "Measure candidate teachers on your own text, in bits per byte."),
        "settle": (
            "settle:settle",
            "Settle whether to distil, from which teacher, by paired pilots that stop as soon as they may.",
        ),
        "retrodict": ("verify:retrodict", "Compare what `plan` says of published outcomes with what happened."),
    },
    "Run studies": {
        "study": ("verbs:study", "Design, dry-run, run, watch and extend a family of runs."),
        "verify": ("verify:app", "Freeze predictions before runs, and score them on what was measured."),
        "report": ("report:report", "Write one HTML file from a study folder."),
    },
    "Train and measure models": {
        "train": ("train:train", "Train one run from a TOML file: pretrain or distil; resumable."),
        "cache": ("cache:app", "Build, inspect and verify teacher targets on disk."),
        "prune": ("prune:prune", "Cut a student out of its teacher, in Hugging Face format."),
        "distil": (
            "prune:distil",
            "Train a student from its start (cut, fresh, pretrained) with its teacher, its arms compared.",
        ),
        "vocabulary": (
            "vocabulary:app",
            "Give a model more tokens for another language, or fewer: tokenizer, embedding, head.",
        ),
        "upcycle": ("vocabulary:upcycle", "Make a mixture of experts that starts as copies of a dense model."),
        "instruct": (
            "instruct:app",
            "Make chat models: conversations, preferences, a teacher's answers to learn from.",
        ),
        "evaluate": (
            "evaluate:evaluate",
            "Measure a finished model: held-out loss, calibration, benchmarks, judged chat.",
        ),
        "audit": ("audit:audit", "Check that a loss, a trainer or a script computes what it is declared to compute."),
        "pareto": ("pareto:pareto", "Draw score against training compute: your models among the published ones."),
        "recipe": ("recipe:app", "Make a small chat model of a teacher: prune, distil, instruct, evaluate, report."),
    },
    "Laws and costs": {
        "fit": ("fit:fit", "Fit a law to a CSV, a Parquet file or a study folder."),
        "laws": ("laws:app", "List the laws known, and show one: coefficients, source, doubts."),
        "predict": ("laws:predict", "Predict the loss of one student under one law."),
        "cost": ("cost:cost", "Count parameters, FLOP, memory, time and money of a student and its teacher."),
        "regime": (
            "regime:regime",
            "Choose batch, rate and warm-up of a run: every rule with its source, what a large batch wastes.",
        ),
        "branch": (
            "train:branch",
            "Fork a checkpoint at several batch sizes, find the critical one, also of distillation.",
        ),
        "large-batch": (
            "large_batch:app",
            "Compare large with small batches on images, with seeds: the large-batch paper's experiments.",
        ),
    },
    "Learn and look around": {
        "toys": ("toys:app", "Compute the capacity gap in its simplest form: a closed form and small MLPs."),
        "worlds": ("worlds:app", "Make synthetic languages with an exact oracle: text, entropy, teachers."),
        "doctor": (
            "doctor:doctor",
            "Examine this machine: versions, devices, measured speed, disk, whether all works offline.",
        ),
        "completion": (
            "completion:completion",
            "Print the script that makes Tab complete commands, names and files in bash, zsh and fish.",
        ),
    },
}
"""The verbs as `--help` and the README list them."""
VERBS: Verbs = {verb: where for verbs in GROUPS.values() for verb, where in verbs.items()} | {
    "--install-completion": ("completion:install", "Install completion for your shell.")
}


class LazyVerb(CommandSpec):
    """A verb named by its path. The line is for lists; its own --help is its docstring, with all paragraphs."""

    def resolve(self, parent_app: App) -> App:
        """Import it; cyclopts would put the line in place of the docstring."""
        line, self.help = self.help, None
        try:
            return super().resolve(parent_app)
        finally:
            self.help = line


def add_verbs(app: App, groups: Mapping[str, Verbs]) -> None:
    """Register verbs that are imported when they are called; the group '' has no heading of its own."""
    for place, (title, verbs) in enumerate(groups.items()):
        group = Group(title, sort_key=place) if title else None
        for name, (path, line) in verbs.items():
            # cyclopts wraps a path into its own CommandSpec, and has no public way to give another
            spec = LazyVerb(import_path=f"distillaw.cli.{path}", name=name, help=line, group=group)
            app._commands[name] = spec


study = App(name="study", help="Design, dry-run, run, watch and extend a family of runs.")
_OF_STUDY: Verbs = {
    "new": ("study_new:new", "Write a study file of a kind: cost and what it would identify."),
    "show": ("study_run:show", "Show the runs, FLOP, time and disk of a study before it runs."),
    "run": ("study_run:run", "Train whatever a study still lacks: here, on Slurm or on Ray."),
    "status": ("study_status:status", "Show how far a study is, what failed, what it has cost."),
    "check": ("study_status:study_check", "Check the controls: what a study's numbers rest on."),
    "next": ("next_runs:next_runs", "Propose the runs that sharpen a prediction or decision most."),
    "import": ("study_import:import_runs", "Bring runs you have already into a run table."),
}
add_verbs(study, {"": _OF_STUDY})
