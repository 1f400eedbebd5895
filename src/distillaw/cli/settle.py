"""`distillaw settle`: the cheapest paired pilots that decide between teachers and none, with a bound on regret."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.counts import Text
from distillaw.cli.names import Place
from distillaw.cli.output import Output, same_command
from distillaw.cli.typed import STUDENT
from distillaw.runs.places import check_file, check_folder


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    """The question, instead of or on top of the file's."""

    corpus: Place | None = None
    """The text: `sotu` (shipped), files, a folder; see docs/studies.md."""
    world: str | None = None
    """A synthetic language as the text: a name of `distillaw worlds list`, or a TOML file."""
    like: Place | None = None
    """A finished study's folder: its text, splits and tokenizer, so that its teachers can teach."""
    student_params: Annotated[Text | None, STUDENT] = None
    """Non-embedding parameters of the target, e.g. 0.3M."""
    student_tokens: Annotated[Text | None, Parameter(name="--tokens", alias="--student-tokens")] = None
    """Tokens the target will be trained on, e.g. 5M; the same with every teacher and with none."""
    teacher: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None
    """A teacher that exists: a model folder, a GGUF file, or an oracle of the world; once for each."""
    budget: Text | None = None
    """What pilots may cost: a share of training the target, e.g. 2%, or FLOP, e.g. 1e13."""
    margin: Annotated[float | None, Parameter(allow_leading_hyphen=True)] = None
    """Regret that does not matter, nats/token; by default 0.25 % of the best teacher's loss."""
    level: float | None = None
    """Chance that what is said holds, whenever one looks; 0.9 by default."""


def settle(
    file: Path | None = None,
    *,
    question: QuestionOptions | None = None,
    out: Path | None = None,
    dry_run: bool = False,
    workers: int = 0,
    output: Output = Output(),
) -> None:
    """Settle by paired pilots whether to distil a student, from which teacher, or pretrain it, at a bound on regret.

    Pilots share tokens, order and seeds with and without each teacher, grow from stage to stage, drop losing teachers,
    and stop as soon as the answer holds. Safe to interrupt and to repeat; a larger --budget goes on.

    Args:
        file: a study's [data], [training], [[teachers]] and [target], and a [settle] table.
        question: what is to be settled, instead of or on top of the file.
        out: folder, an ordinary study folder; default out/NAME.
        dry_run: only the next stage and what may follow: FLOP, time, disk; nothing is trained.
        workers: processes, one core each; 0 takes all cores.
    """
    from distillaw.cli.display import make_display
    from distillaw.cli.settle_view import show, show_preview
    from distillaw.cli.workers import count_workers
    from distillaw.settling.spec import read_settle
    from distillaw.sweep.study import require_trainable

    require_trainable()
    spec = read_settle(file, **asdict(question or QuestionOptions()))
    folder = out or Path("out") / spec.name
    check_folder(folder)
    check_file(folder / "verdict.json")
    from distillaw.settling.loop import preview, settle_in
    from distillaw.settling.verdict import verdict_json

    with make_display(0.0, quiet=output.quiet) as display:
        run = {"workers": count_workers(workers), "display": display, "command": same_command()}
        answer = preview(spec, folder, **run) if dry_run else verdict_json(settle_in(spec, folder, **run))
    if output.json:
        print_json(answer)
        return
    (show_preview if dry_run else show)(answer)
    output.suggest(
        same_command(without="--dry-run") if dry_run else f"distillaw report {shlex.quote(str(folder))}"
    )
