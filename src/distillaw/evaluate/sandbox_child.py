"""What runs in a sandboxed process before the program does: it gives up everything the program does not need.

Started by sandbox.py as a file, in an interpreter without site packages, so it imports the standard library alone. It
reads its orders and the program from standard input, closes that, walls itself in, says on the descriptor of its first
argument which walls stand, executes the program, and repeats its password there if that ran to its end. The walls, each
where the platform has it (Linux):

- limits: CPU time, address space, file size, open files, processes, no core dumps (every Unix);
- namespaces: own users, network (without a single interface), processes (the first takes all others along when it
  dies), messages, and a file system of 16 MB on the working folder;
- landlock: files are read below the Python installation, read and written below the working folder, nowhere else;
- seccomp: no new processes, no exec, no sockets, no signals, no tracing, no mounts, no further namespaces.

None of it needs a privilege. See landlock(7), seccomp(2), namespaces(7).
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import struct
import sys

# numbers of prctl(2), landlock(7), seccomp(2), linux/audit.h, and of unshare(2)
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER_MODE, _SET_PDEATHSIG = 38, 22, 2, 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_RULE_PATH_BENEATH = 1  # linux/landlock.h
_READ = 1 << 2 | 1 << 3  # read files, list folders
# all rights that each ABI of landlock knows
_FILE_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET_RIGHTS = 1 << 0 | 1 << 1  # bind and connect TCP, from ABI 4
_SCOPES = 1 << 0 | 1 << 1  # abstract sockets, signals, from ABI 6
_NEWUSER, _NEWNET, _NEWPID, _NEWIPC, _NEWNS = 0x10000000, 0x40000000, 0x20000000, 0x08000000, 0x00020000
_PRIVATE, _NO_SUID_OR_DEVICES = 1 << 18 | 1 << 14, 2 | 4  # mount(2)

_DENIED = {
    "x86_64": (
        0xC000003E,
        (
            *(41, 42, 43, 49, 50, 53),
            *(56, 57, 58, 59, 322, 435),
            *(62, 200, 234, 129, 297, 424, 434, 438),
            *(101, 310, 311, 312, 440),
            *(109, 112, 141, 160, 203, 302),
            *(90, 91, 92, 93, 94, 260, 268, 452),
            *(188, 189, 190, 197, 198, 199),
            *(132, 235, 261, 280),
            *(155, 161, 165, 166, 272, 308, 428, 429, 430, 432, 442),
            *(164, 167, 168, 169, 170, 171, 172, 173, 227),
            *(175, 176, 246, 313, 320),
            *(248, 249, 250, 298, 317, 321, 323, 425, 426, 427),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(198, 199, 200, 201, 202, 203, 242),
            *(220, 221, 281, 435),
            *(129, 130, 131, 138, 240, 424, 434, 438),
            *(117, 270, 271, 272, 440),
            *(122, 140, 154, 157, 164, 261),
            *(52, 53, 54, 55, 452),
            *(5, 6, 7, 14, 15, 16),
            *(88,),
            *(39, 40, 41, 51, 97, 268, 428, 429, 430, 432, 442),
            *(112, 142, 161, 162, 170, 224, 225),
            *(104, 105, 106, 273, 294),
            *(217, 218, 219, 241, 277, 280, 282, 425, 426, 427),
        ),
    ),
}
"""Kernel numbers (audit architecture, system calls), from Linux's tables, see syscalls(2). Line by line: sockets, new
processes and exec, signals; tracing, sessions, limits and priorities, modes and owners; attributes, times; mounts and
namespaces, clocks and the machine; modules; keys, bpf, io_uring."""


def main() -> None:
    """Read orders, wall in, execute."""
    report = int(sys.argv[1])
    length = int.from_bytes(sys.stdin.buffer.read(8), "big")
    orders = json.loads(sys.stdin.buffer.read(length))
    program = sys.stdin.buffer.read().decode()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    walls = ["limits"]
    if sys.platform == "linux":
        walls += _namespaces(libc, report)
    _limit(orders)
    if sys.platform == "linux" and libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        walls += _landlock(libc, orders["read"], os.getcwd()) + _seccomp(libc)
    os.write(report, json.dumps(walls).encode() + b"\n")
    exec(compile(program, "program", "exec"), {"__name__": "program"})
    os.write(report, orders["password"].encode())


def _limit(orders: dict) -> None:
    """Limits of this process and all that it makes."""
    limits = {
        resource.RLIMIT_CPU: orders["seconds"],
        resource.RLIMIT_AS: orders["memory"],
        resource.RLIMIT_FSIZE: orders["file"],
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 1,
    }
    for which, most in limits.items():
        with contextlib.suppress(OSError, ValueError):  # a system that lacks one, or has a lower one
            resource.setrlimit(which, (most, most))


def _namespaces(libc: ctypes.CDLL, report: int) -> list[str]:
    """Own namespaces; the parent of the new process 1 waits for it and ends as it does."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEWUSER | _NEWNET | _NEWPID | _NEWIPC | _NEWNS) != 0:
        return ["network"] if libc.unshare(_NEWUSER | _NEWNET) == 0 else []
    walls = ["network", "processes"]
    with contextlib.suppress(OSError):
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
        walls += _small_disk(libc)
    child = os.fork()
    if child:
        os.close(report)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    libc.prctl(_SET_PDEATHSIG, 9, 0, 0, 0)
    return walls


def _small_disk(libc: ctypes.CDLL) -> list[str]:
    """A file system of its own in memory on the working folder, small, so that many files fill nothing else."""
    folder = os.getcwd()
    if libc.mount(b"none", b"/", None, _PRIVATE, None) or libc.mount(
        b"tmpfs", os.fsencode(folder), b"tmpfs", _NO_SUID_OR_DEVICES, b"size=16m,nr_inodes=1k"
    ):
        return []
    os.chdir(folder)
    return ["disk"]


def _landlock(libc: ctypes.CDLL, readable: list[str], writable: str) -> list[str]:
    """Files below the given folders alone."""
    call = libc.syscall
    abi = call(_LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return []
    rights = _FILE_RIGHTS_BY_ABI[min(abi, 5)]
    fields = [rights, _NET_RIGHTS, _SCOPES][: 1 if abi < 4 else 2 if abi < 6 else 3]
    ruleset = call(_LANDLOCK_CREATE, struct.pack(f"={len(fields)}Q", *fields), 8 * len(fields), 0)
    if ruleset < 0:
        return []
    for folder, allowed in [*((each, _READ) for each in readable), (writable, rights & ~1)]:
        with contextlib.suppress(OSError):
            place = os.open(folder, os.O_PATH)
            given = allowed if os.path.isdir(folder) else allowed & 0b110
            call(_LANDLOCK_ADD, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", given, place), 0)
            os.close(place)
    restricted = call(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return ["files"] if restricted else []


def _seccomp(libc: ctypes.CDLL) -> list[str]:
    """A filter of system calls: the denied ones fail with EPERM, those of another architecture kill."""
    if platform.machine() not in _DENIED:
        return []
    architecture, denied = _DENIED[platform.machine()]
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    code += [(above, 0, 1, 0x40000000), (give, 0, 0, kill)]  # the x32 numbers of x86_64
    for number in denied:
        code += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    code.append((give, 0, 0, allow))
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(packed)))
    return ["calls"] if libc.prctl(_SET_SECCOMP, _FILTER_MODE, program, 0, 0) == 0 else []


if __name__ == "__main__":
    main()
