"""Freed memory stays in the process, instead of going back to the kernel after every training step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's mallopt (malloc.h)."""


def keep_freed_memory() -> bool:
    """Tell glibc's allocator so, for this process; returns whether there is one that listens.

    A training step frees and asks for the same large buffers over and over. By default each is mapped and unmapped, and
    the page faults cost 3 to 5 % of a step of a small model and up to a fifth at a vocabulary of 32k (dev/LOG.md).
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 1 << 26}
    return all([libc.mallopt(parameter, value) for parameter, value in settings.items()])
