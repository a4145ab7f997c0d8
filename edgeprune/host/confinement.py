"""What a child process gives up before it opens a foreign file: the network, and writing outside its own folders.

Linux only, through three system calls and no privilege: Landlock for files, TCP ports and signals, and a seccomp filter
for sockets. Each part that this system lacks is left out, and `Confinement` tells which are on. It binds the calling
thread and all that come from it, so it is called before any library starts threads.

Sources: the kernel's documentation (userspace-api/landlock, userspace-api/seccomp_filter) and its headers landlock.h,
seccomp.h, audit.h and unistd.h in include/uapi.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Confinement", "confine"]

# Landlock's system calls have these numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_ABI = 1
_PATH_BENEATH = 1

# Rights in files, and the version of the interface that has them first. Reading and running stay free.
_WRITE_FILE, _TRUNCATE, _IOCTL_DEVICE = 1 << 1, 1 << 14, 1 << 15
_REMOVE_AND_MAKE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8  # remove folders and files, make folders and files
_MAKE_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12  # devices, sockets, pipes, symbolic links
_MOVE = 1 << 13
_TCP = 1 << 0 | 1 << 1  # bind, connect
_SCOPES = 1 << 0 | 1 << 1  # abstract sockets and signals of processes outside
_ABI_MOVE, _ABI_TRUNCATE, _ABI_TCP, _ABI_IOCTL, _ABI_SCOPES = 2, 3, 4, 5, 6

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_FILTER = 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _EPERM = 0x7FFF0000, 0x00050000, 1
_OTHER_ABI = 0x40000000  # x86-64: numbers from here on are those of x32
# Machine -> its number for the kernel's audit, and the calls that give a socket or pass by this filter: socket,
# socketpair, io_uring_setup. chmod stays, though Landlock does not know it: coremltools copies files with their modes.
_MACHINES: dict[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, (41, 53, 425)),
    "aarch64": (0xC00000B7, (198, 199, 425)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What binds a process: the version of Landlock's interface (0 without it), and whether sockets are filtered."""

    landlock_abi: int = 0
    seccomp: bool = False

    def __str__(self) -> str:
        if not sys.platform.startswith("linux"):
            return f"none ({platform.system()} has neither Landlock nor seccomp)"
        if not self.landlock_abi and not self.seccomp:
            return "none (this kernel or container has neither Landlock nor seccomp for us)"
        files = f"Landlock ABI {self.landlock_abi}" if self.landlock_abi else "no Landlock (may write anywhere)"
        return f"{files} and {'seccomp' if self.seccomp else 'no seccomp (may open sockets)'}"


def confine(writable: Sequence[Path]) -> Confinement:
    """From here on this thread, and what it starts, writes only beneath the folders `writable`, and opens no socket.

    Goes on without what the system lacks. Raises OSError when there is no such folder.
    """
    if not sys.platform.startswith("linux"):
        return Confinement()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *_longs(1, 0, 0, 0)):
        return Confinement()
    return Confinement(landlock_abi=_bind_files(libc, writable), seccomp=_bind_sockets(libc))


def _longs(*numbers: int) -> list[ctypes.c_long]:
    """Arguments of variadic functions: without their type the upper halves of the registers are not set."""
    return [ctypes.c_long(number) for number in numbers]


def _bind_files(libc: ctypes.CDLL, writable: Sequence[Path]) -> int:
    """Landlock's version, 0 where it could not be put on."""
    abi = int(libc.syscall(*_longs(_CREATE_RULESET, 0, 0, _GET_ABI)))
    if abi < 1:
        return 0
    attributes = _attributes(abi)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    rules = int(libc.syscall(ctypes.c_long(_CREATE_RULESET), buffer, *_longs(len(attributes), 0)))
    if rules < 0:
        return 0
    try:
        for folder in writable:
            _allow(libc, rules, folder, _rights(abi) & ~(_MAKE_SPECIAL | _IOCTL_DEVICE))
        _allow(libc, rules, Path(os.devnull), _rights(abi) & (_WRITE_FILE | _TRUNCATE))
        return 0 if libc.syscall(*_longs(_RESTRICT_SELF, rules, 0)) else abi
    finally:
        os.close(rules)


def _rights(abi: int) -> int:
    """All rights of writing that this version can withhold."""
    rights = _WRITE_FILE | _REMOVE_AND_MAKE | _MAKE_SPECIAL
    for right, since in ((_MOVE, _ABI_MOVE), (_TRUNCATE, _ABI_TRUNCATE), (_IOCTL_DEVICE, _ABI_IOCTL)):
        rights |= right if abi >= since else 0
    return rights


def _attributes(abi: int) -> bytes:
    """struct landlock_ruleset_attr, as long as this version knows it: files, TCP, scopes."""
    fields = [_rights(abi)]
    if abi >= _ABI_TCP:
        fields.append(_TCP)
    if abi >= _ABI_SCOPES:
        fields.append(_SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, place), 12)  # struct landlock_path_beneath_attr
        if libc.syscall(*_longs(_ADD_RULE, rules, _PATH_BENEATH), rule, ctypes.c_long(0)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(place)


def _bind_sockets(libc: ctypes.CDLL) -> bool:
    """Whether the filter is on."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.maxsize < 1 << 32:
        return False
    code = _filter(*machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are.
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    return not libc.prctl(_PR_SET_SECCOMP, ctypes.c_long(_SECCOMP_FILTER), program, *_longs(0, 0))


def _filter(audit: int, refused: Sequence[int]) -> bytes:
    """The filter as instructions (code, jump if true, jump if false, value): EPERM for the calls `refused`, and for all
    calls by the numbers of another architecture."""
    last = len(refused) + 5  # the instruction that refuses; the one before it allows
    steps = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_JUMP_EQUAL, 0, last - 2, audit),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_JUMP_AT_LEAST, last - 4, 0, _OTHER_ABI),
        *((_JUMP_EQUAL, last - 5 - n, 0, number) for n, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE | _EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
