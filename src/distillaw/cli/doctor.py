"""d."""

from distillaw.cli.output import Output


def doctor(*, output: Output = Output()) -> int:
    """Examine this machine."""
    return 0
