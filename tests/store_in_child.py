"""Building a store of targets in a process of its own, which tests kill (a function that a forkserver can import)."""

import resource
import sys
import threading
from multiprocessing.synchronize import Event
from pathlib import Path

from distillaw.data.tokenizer import load_tokenizer
from distillaw.errors import RunError
from distillaw.models.teacher import load_teacher
from distillaw.targets.build import build_shards, opened_for_building
from distillaw.targets.make import TargetMaker


class Halt:
    """Told of computed shards: at the one numbered `at` it says so, and at the next it waits to be killed."""

    def __init__(self, at: int, reached: Event) -> None:
        self._at, self._reached, self._told = at, reached, 0

    def __call__(self, positions: int) -> None:
        self._told += 1
        if self._told == self._at:
            self._reached.set()
        elif self._told > self._at:
            threading.Event().wait()


def build(folder: Path, plan, text, teacher_folder: Path, file_limit: int, halt: Halt | None) -> None:
    """Exits with 0 when done and with 3 when it reports a full disk."""
    teacher = load_teacher(teacher_folder, load_tokenizer(str(text.tokenizer_folder)), context=plan.context)
    split = text.split("student", context=plan.context)
    maker = TargetMaker(teacher=teacher, split=split, scheme=plan.scheme, seed=plan.seed)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    try:
        with opened_for_building(folder, plan) as begun:
            build_shards(folder, begun, maker, progress=halt or (lambda positions: None))
    except RunError as error:
        sys.exit(3 if "cannot write" in str(error) and "the same command continues" in str(error) else 4)
