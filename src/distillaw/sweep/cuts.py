"""Whether the pruned students of a study can be cut out of their teachers, asked before anything is trained."""

from collections.abc import Callable

from distillaw.accounting.shapes import Shape
from distillaw.errors import ConfigError
from distillaw.models.cut import check_cut
from distillaw.sweep.spec import Block, StudySpec
from distillaw.worlds.oracle import is_oracle


def check_cuts(spec: StudySpec, vocab_size: int, external: Callable[[str], Shape] | None = None) -> None:
    """Refuse pruned students that are no part of their teachers.

    Args:
        spec: the study.
        vocab_size: of the study; that of teachers trained in it as well.
        external: a teacher from outside as runs name it -> its shape; without it only the others are looked at.

    Raises:
        ConfigError: naming the first student and teacher that do not fit, and along which axis.
    """
    for block in spec.blocks():
        if block.cells.init == "pruned":
            _check_block(spec, block, vocab_size, external)


def _check_block(
    spec: StudySpec, block: Block, vocab_size: int, external: Callable[[str], Shape] | None
) -> None:
    for teacher in spec.teachers:
        if teacher.label not in block.teachers:
            continue
        if is_oracle(teacher.path):
            raise ConfigError(
                f"[[cells]] {block.cells.name}: init = 'pruned', but the oracle {teacher.path} has no "
                "weights to cut from. Name other teachers"
            )
        if teacher.path and external is None:
            continue
        theirs = (
            external(teacher.source) if teacher.path and external else spec.shape(teacher.params, vocab_size)
        )
        for size in block.params:
            check_cut(theirs, spec.shape(size, vocab_size), name=teacher.label,
                      label=f"[[cells]] {block.cells.name}: the student {size}")  # fmt: skip
