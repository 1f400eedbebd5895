"""`distillaw settle`: the cheapest paired pilots that decide between teachers and none, with a bound on regret."""

import shlex
import sys
from pathlib import Path

from distillaw.cli.app import print_json
from distillaw.cli.output import Output, check_place, same_command
from distillaw.cli.settle_options import QuestionOptions


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
    from distillaw.cli.settle_options import read_settle
    from distillaw.cli.workers import count_workers
    from distillaw.sweep.study import require_trainable

    require_trainable()
    spec = read_settle(file, question or QuestionOptions())
    folder = out or Path("out") / spec.name
    check_place("--out", folder, is_folder=True)
    check_place("--out", folder / "verdict.json")
    cores = count_workers(workers)
    command = shlex.join(["distillaw", *sys.argv[1:]])
    with make_display(0.0, quiet=output.quiet) as display:
        if dry_run:
            from distillaw.cli.settle_preview import preview

            answer = preview(spec, folder, workers=cores, display=display, command=command)
        else:
            from distillaw.cli.settle_run import settle_in
            from distillaw.cli.settle_verdict import verdict_json

            answer = verdict_json(settle_in(spec, folder, workers=cores, display=display, command=command))
    if output.json:
        print_json(answer)
        return
    from distillaw.cli.settle_view import show, show_preview

    (show_preview if dry_run else show)(answer)
    output.suggest(
        same_command(without="--dry-run") if dry_run else f"distillaw report {shlex.quote(str(folder))}"
    )
