"""The verbs, those of `study` too: where each lives, and its line in `--help`, so that a list imports none of them."""

from collections.abc import Mapping

from cyclopts import App, Group
from cyclopts.command_spec import CommandSpec

VERBS: dict[str, tuple[str, str]] = {
    "laws": ("distillaw.cli.laws:app", "List the laws known, and show one: coefficients, source, doubts."),
    "predict": ("distillaw.cli.laws:predict", "Predict the loss of one student under one law."),
    "fit": ("distillaw.cli.fit:fit", "Fit a law to a CSV, a Parquet file or a study folder."),
    "cost": (
        "distillaw.cli.cost:cost",
        "Count parameters, FLOP, memory, time and money of a student and its teacher.",
    ),
    "teachers": (
        "distillaw.cli.teachers:teachers",
        "List real models that can be named as teachers: size, training tokens, tokenizer, sources.",
    ),
    "scout": (
        "distillaw.cli.teachers:scout",
        "Measure candidate teachers on your own text, in bits per byte.",
    ),
    "gap": (
        "distillaw.cli.gap:gap",
        "Find the best teacher for a student under each law, and why a stronger one can hurt.",
    ),
    "plan": ("distillaw.cli.plan:plan", "Decide: distil or pretrain, from which teacher, and how sure."),
    "map": (
        "distillaw.cli.map:draw_map",
        "Draw where distilling pays, the best teachers, what the compute goes into: text, arrays, figures.",
    ),
    "study": ("distillaw.cli.verbs:study", "Design, dry-run, run, watch and extend a family of runs."),
    "settle": (
        "distillaw.cli.settle:settle",
        "Settle whether to distil, from which teacher, by paired pilots that stop as soon as they may.",
    ),
    "train": ("distillaw.cli.train:train", "Train one run from a TOML file: pretrain or distil; resumable."),
    "branch": (
        "distillaw.cli.train:branch",
        "Fork a checkpoint at several batch sizes, find the critical one, also of distillation.",
    ),
    "cache": ("distillaw.cli.cache:app", "Build, inspect and verify teacher targets on disk."),
    "prune": ("distillaw.cli.prune:prune", "Cut a student out of its teacher, in Hugging Face format."),
    "distil": (
        "distillaw.cli.prune:distil",
        "Train a student from its start (cut, fresh, pretrained) with its teacher, its arms compared.",
    ),
    "recipe": (
        "distillaw.cli.recipe:app",
        "Make a small chat model of a teacher: prune, distil, instruct, evaluate, report.",
    ),
    "pareto": (
        "distillaw.cli.pareto:pareto",
        "Draw score against training compute: your models among the published ones.",
    ),
    "regime": (
        "distillaw.cli.regime:regime",
        "Choose batch, rate and warm-up of a run: every rule with its source, what a large batch wastes.",
    ),
    "large-batch": (
        "distillaw.cli.large_batch:app",
        "Compare large with small batches on images, with seeds: the large-batch paper's experiments.",
    ),
    "instruct": (
        "distillaw.cli.instruct:app",
        "Make chat models: conversations, preferences, a teacher's answers to learn from.",
    ),
    "evaluate": (
        "distillaw.cli.evaluate:evaluate",
        "Measure a finished model: held-out loss, calibration, benchmarks, judged chat.",
    ),
    "vocabulary": (
        "distillaw.cli.vocabulary:app",
        "Give a model more tokens for another language, or fewer: tokenizer, embedding, head.",
    ),
    "upcycle": (
        "distillaw.cli.vocabulary:upcycle",
        "Make a mixture of experts that starts as copies of a dense model.",
    ),
    "worlds": (
        "distillaw.cli.worlds:app",
        "Make synthetic languages with an exact oracle: text, entropy, teachers.",
    ),
    "verify": (
        "distillaw.cli.verify:app",
        "Freeze predictions before runs, and score them on what was measured.",
    ),
    "audit": (
        "distillaw.cli.audit:audit",
        "Check that a loss, a trainer or a script computes what it is declared to compute.",
    ),
    "retrodict": (
        "distillaw.cli.verify:retrodict",
        "Compare what `plan` says of published outcomes with what happened.",
    ),
    "report": ("distillaw.cli.report:report", "Write one HTML file from a study folder."),
    "page": (
        "distillaw.cli.report:page",
        "Write the interactive planner: one HTML file that works without network.",
    ),
    "toys": (
        "distillaw.cli.toys:app",
        "Compute the capacity gap in its simplest form: a closed form and small MLPs.",
    ),
    "doctor": (
        "distillaw.cli.doctor:doctor",
        "Examine this machine: versions, devices, measured speed, disk, whether all works offline.",
    ),
    "completion": (
        "distillaw.cli.completion:completion",
        "Print the script that makes Tab complete commands, names and files in bash, zsh and fish.",
    ),
    "--install-completion": (
        "distillaw.cli.completion:install",
        "Install completion for your shell.",
    ),
}
"""verb -> (import path, one line)."""


GROUPS: dict[str, tuple[str, ...]] = {
    "Decide": ("plan", "page", "gap", "map", "teachers", "scout", "settle", "retrodict"),
    "Run studies": ("study", "verify", "report"),
    "Train and measure models": (
        "train",
        "cache",
        "prune",
        "distil",
        "vocabulary",
        "upcycle",
        "instruct",
        "evaluate",
        "audit",
        "pareto",
        "recipe",
    ),
    "Laws and costs": ("fit", "laws", "predict", "cost", "regime", "branch", "large-batch"),
    "Learn and look around": ("toys", "worlds", "doctor", "completion"),
}
"""The verbs as `--help` and the README list them; options of `distillaw` itself stand apart."""


class LazyVerb(CommandSpec):
    """A verb named by its path. The line is for lists; its own --help is its docstring, with all paragraphs."""

    def resolve(self, parent_app: App) -> App:
        """Import it; cyclopts would put the line in place of the docstring."""
        line, self.help = self.help, None
        try:
            return super().resolve(parent_app)
        finally:
            self.help = line


def add_verbs(app: App, verbs: Mapping[str, tuple[str, str]]) -> None:
    """Register verbs that are imported when they are called."""
    groups: dict[str, Group] = {}
    for place, (title, names) in enumerate(GROUPS.items()):
        groups |= dict.fromkeys(names, Group(title, sort_key=place))
    for name, (path, line) in verbs.items():
        # cyclopts wraps a path into its own CommandSpec, and has no public way to give another
        app._commands[name] = LazyVerb(import_path=path, name=name, help=line, group=groups.get(name))


study = App(name="study", help="Design, dry-run, run, watch and extend a family of runs.")
add_verbs(
    study,
    {
        "new": (
            "distillaw.cli.study_new:new",
            "Write a study file of a kind: cost and what it would identify.",
        ),
        "show": (
            "distillaw.cli.study_run:show",
            "Show the runs, FLOP, time and disk of a study before it runs.",
        ),
        "run": (
            "distillaw.cli.study_run:run",
            "Train whatever a study still lacks: here, on Slurm or on Ray.",
        ),
        "status": (
            "distillaw.cli.study_status:status",
            "Show how far a study is, what failed, what it has cost.",
        ),
        "check": (
            "distillaw.cli.study_status:study_check",
            "Check the controls: what a study's numbers rest on.",
        ),
        "next": (
            "distillaw.cli.next_runs:next_runs",
            "Propose the runs that sharpen a prediction or decision most.",
        ),
        "import": ("distillaw.cli.study_import:import_runs", "Bring runs you have already into a run table."),
    },
)
