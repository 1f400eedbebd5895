"""`distillaw study ...`: a family of runs from one TOML file. Each verb is named by where it lives."""

from cyclopts import App

from distillaw.cli.verbs import add_verbs

app = App(name="study", help="Design, dry-run, run, watch and extend a family of runs.")
add_verbs(
    app,
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
