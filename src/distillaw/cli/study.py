"""`distillaw study ...`: a family of runs from one TOML file. Each verb is named by where it lives."""

from cyclopts import App

app = App(name="study", help="Design, dry-run, run, watch and extend a family of runs.")
app.command(
    "distillaw.cli.study_new:new",
    name="new",
    help="A study file from a template: cost and what it would identify, before it runs.",
)
app.command(
    "distillaw.cli.study_show:show",
    name="show",
    help="The runs, FLOP, time and disk of a study, before it runs.",
)
app.command(
    "distillaw.cli.study_run:run",
    name="run",
    help="Train whatever a study still lacks: here, on Slurm or on Ray.",
)
app.command(
    "distillaw.cli.study_status:status",
    name="status",
    help="How far a study is, what failed, what it has cost.",
)
app.command(
    "distillaw.cli.study_check:study_check",
    name="check",
    help="The controls of a study: what its numbers rest on, and what is missing.",
)
app.command(
    "distillaw.cli.next_runs:next_runs",
    name="next",
    help="The runs that sharpen a prediction or decision most.",
)
app.command(
    "distillaw.cli.study_import:import_runs", name="import", help="Runs you have already, into a run table."
)
