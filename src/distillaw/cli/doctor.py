"""`distillaw doctor`: whether this machine can train, how fast, and what to do about what is in the way."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from distillaw.cli.app import print_json
from distillaw.cli.output import Output


def doctor(
    *,
    out: Path = Path("out"),
    measure: Annotated[bool, Parameter(negative="--no-measure")] = True,
    output: Output = Output(),
) -> int:
    """Examine this machine: versions, devices, measured speed, disk, and whether all works offline.

    Takes a few seconds; nothing is left behind. The exit code is 0 where models can be trained, 1 where they cannot.

    Args:
        out: folder of runs, whose disk is examined; it need not exist.
        measure: compute (FLOP/s, tokens/s), write 32 MB, learn a small tokenizer; without it nothing is imported.
    """
    from distillaw.doctor.examination import examine

    with output.working("measuring"):
        found = examine(out, measure=measure)
    if output.json:
        print_json(found.to_json())
    else:
        from distillaw.cli.doctor_view import print_examination

        print_examination(found)
        if found.is_usable:
            output.suggest("distillaw study new --kind teacher-choice")
        else:
            output.suggest("distillaw doctor", first="do what stands behind `do:` above, then:")
    return 0 if found.is_usable else 1
