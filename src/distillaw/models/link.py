"""Between processes of students and processes of their teacher: tokens there, hidden states back.

Of the processes that start together the last ones hold the teacher and nothing else. Students and teachers are a
process group each, so either side shards and saves as if the other were not there; this is what lies between them. A
hidden state is D numbers a token where logits are V. A student asks for a batch before it needs it, and what comes back
is received while it computes.

Messages are gloo's, through the memory of the hosts, from GPUs too.
"""

import contextlib
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, auto

import torch
from torch import distributed

from distillaw.errors import DistillawError

_REQUEST, _ANSWER = 1, 2
"""Tags of what students send, and of what teachers send."""


class _Wish(IntEnum):
    OPEN = auto()
    READ = auto()
    END = auto()


@dataclass(slots=True, eq=False)
class ReadRequest:
    """Tokens that a teacher reads, or has read."""

    teacher: int
    tokens: torch.Tensor
    works: list[distributed.Work] = field(default_factory=list)
    """Still under way."""
    kept: list[torch.Tensor] = field(default_factory=list)
    """What is being sent."""
    parts: list[torch.Tensor] = field(default_factory=list)
    """Hidden states from each of the teacher's processes."""


@dataclass(slots=True, eq=False)
class Link:
    """One end of it."""

    group: distributed.ProcessGroupGloo
    """Of students and teachers."""
    rank: int
    """In the group, where students come first."""
    students: int
    teachers: int
    waited: float = 0.0
    """Seconds in which this student had nothing to do but wait for its teacher; for measurements."""
    holds: bool = True
    """Whether nobody at the other end has been missed."""
    _asked: list[ReadRequest] = field(default_factory=list)
    _opened: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def is_teacher(self) -> bool:
        """Whether the teacher is in this process."""
        return self.rank >= self.students

    @property
    def partners(self) -> list[int]:
        """Whom this process talks to; several where the other side is larger."""
        mine, theirs, first = (self.students, self.teachers, self.students)
        own = self.rank
        if self.is_teacher:
            mine, theirs, first, own = self.teachers, self.students, 0, self.rank - self.students
        return [first + other for other in (range(own, theirs, mine) if theirs > mine else [own % theirs])]

    def open(self, key: str, *arguments: object) -> dict[str, object]:
        """Have a teacher loaded by these arguments of `serve`'s `load`, once for a key; what is known of it.

        Raises:
            DistillawError: what loading it raised there.
        """
        if key in self._opened:
            return self._opened[key]
        wish = pickle.dumps((key, arguments))
        for partner in self.partners:
            self._send(torch.tensor([_Wish.OPEN, len(wish), 0, 0]), partner, _REQUEST)
            self._send(torch.frombuffer(bytearray(wish), dtype=torch.uint8), partner, _REQUEST)
        answers = []
        for partner in self.partners:
            length = int(self._received(torch.empty(1, dtype=torch.int64), partner))
            answers.append(pickle.loads(bytes(self._received(torch.empty(length, dtype=torch.uint8), partner).numpy())))
        for answer in answers:
            if isinstance(answer, DistillawError):
                answer.is_told = self.rank > 0
                raise answer
        self._opened[key] = answers[0]
        return answers[0]

    def ask(self, teacher: int, tokens_BT: torch.Tensor, width: int, dtype: torch.dtype) -> ReadRequest:
        """Send tokens, int64, to a teacher of a number and a width D, unless they are on their way already."""
        for each in self._asked:
            if each.teacher == teacher and torch.equal(each.tokens, tokens_BT):
                return each
        asked = ReadRequest(teacher, tokens_BT)
        for partner, rows in zip(self.partners, tokens_BT.cpu().tensor_split(len(self.partners)), strict=True):
            # a sharded teacher computes in one process only while it does in all: none gets nothing
            told = rows if len(rows) else tokens_BT[:1].cpu()
            asked.kept += [torch.tensor([_Wish.READ, teacher, *told.shape]), told.contiguous()]
            into = torch.empty(*told.shape, width, dtype=dtype)
            asked.works += [self.group.send([tensor], partner, _REQUEST) for tensor in asked.kept[-2:]]
            asked.works.append(self.group.recv([into], partner, _ANSWER))
            asked.parts.append(into[: len(rows)])
        self._asked.append(asked)
        return asked

    def take(self, asked: ReadRequest) -> torch.Tensor:
        """Hidden states, shape (B, T, D), on the CPU; what was asked of this teacher before it and not taken goes."""
        began, done = time.perf_counter(), self._asked.index(asked) + 1
        for each in self._asked[:done]:
            for work in each.works:
                self._wait(work)
            each.works.clear()
        self.waited += time.perf_counter() - began
        self._asked[:done] = [each for each in self._asked[:done] if each.teacher != asked.teacher]
        return asked.parts[0] if len(asked.parts) == 1 else torch.cat(asked.parts)

    def end(self) -> None:
        """Let the teachers go, if they are still there; what they were asked for besides is not waited for."""
        with contextlib.suppress(RuntimeError):
            for partner in self.partners if self.holds else []:
                self._send(torch.tensor([_Wish.END, 0, 0, 0]), partner, _REQUEST)

    def serve(self, load: Callable[..., tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, object]]]) -> None:
        """Read for the students until the last of them has ended.

        Ctrl-C and SIGTERM are theirs to heed: they finish a step with this teacher, save and end.

        Args:
            load: makes of `open`'s arguments what reads tokens, and what students are told of it.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        known: dict[str, object] = {}
        readers: list[Callable[[torch.Tensor], torch.Tensor]] = []
        sending: dict[int, tuple[distributed.Work, torch.Tensor]] = {}
        left = set(self.partners)
        while left:
            head = torch.empty(4, dtype=torch.int64)
            work = self.group.recv_anysource([head], _REQUEST)
            work.wait()
            student, (wish, *said) = work._source_rank(), head.tolist()
            if wish == _Wish.END:
                left.discard(student)
            elif wish == _Wish.OPEN:
                asked = self._received(torch.empty(said[0], dtype=torch.uint8), student, _REQUEST)
                key, arguments = pickle.loads(asked.numpy().tobytes())
                if key not in known:
                    try:
                        reader, facts = load(*arguments)
                        readers.append(reader)
                        known[key] = {"number": len(readers) - 1, **facts}
                    except DistillawError as error:
                        known[key] = error
                answer = torch.frombuffer(bytearray(pickle.dumps(known[key])), dtype=torch.uint8)
                self._send(torch.tensor([len(answer)]), student, _ANSWER)
                self._send(answer, student, _ANSWER)
            else:
                number, *shape = said
                hidden = readers[number](self._received(torch.empty(shape, dtype=torch.int64), student, _REQUEST))
                if student in sending:
                    sending[student][0].wait()
                sending[student] = (self.group.send([hidden], student, _ANSWER), hidden)

    def _send(self, tensor: torch.Tensor, partner: int, tag: int) -> None:
        self._wait(self.group.send([tensor], partner, tag))

    def _received(self, tensor: torch.Tensor, partner: int, tag: int = _ANSWER) -> torch.Tensor:
        self._wait(self.group.recv([tensor], partner, tag))
        return tensor

    def _wait(self, work: distributed.Work) -> None:
        self.holds = False  # once a process is lost, what is under way may never end: nobody waits for it again
        work.wait()
        self.holds = True
