"""First code of a test process: it gives itself limits that it cannot take back, and hands over to pytest.

Copied into the sandbox and run from there, as its user need not be able to read this package: standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import site
import struct
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# Landlock's system calls have one number on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_ALL_BUT_DEVICES = (1 << 15) - 1  # every right up to ABI 3
_TCP, _SIGNALS_AND_ABSTRACT_SOCKETS = 0b11, 0b11


def main() -> int:
    """Runs pytest as the first argument, a JSON object, asks for."""
    given = json.loads(sys.argv[1])
    if sys.platform == "linux":
        _bound(given["parent"])
        _fenced(given["readable"], given["writable"])
    for name, (soft, hard) in given["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    for folder in given["site"]:
        site.addsitedir(folder)
    sys.path.insert(0, os.getcwd())
    import pytest

    return int(pytest.main(given["arguments"]))


def _bound(parent: int) -> None:
    """Ends with the worker, should that be killed, and gains no privileges by programs that would give them."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, int(signal.SIGKILL)), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
    if os.getppid() != parent:
        raise RuntimeError("the worker ended before the tests began")


def _fenced(readable: list[str], writable: list[str]) -> None:
    """Reads and writes nothing but what is named, reaches no other process and opens no TCP connection, as far as the
    kernel's Landlock knows how to (5.13 files and processes, 6.7 TCP, 6.12 signals). Nothing on a kernel without it."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1 or not readable:
        return
    files = _ALL_BUT_DEVICES & ((1 << min(12 + version, 15)) - 1)
    net, scope = _TCP * (version >= 4), _SIGNALS_AND_ABSTRACT_SOCKETS * (version >= 6)
    asked = struct.pack("=QQQ", files, net, scope)[: 8 * (1 + (version >= 4) + (version >= 6))]
    rules = _called(libc, _CREATE_RULESET, asked, len(asked), 0)
    for paths, rights in ((readable, _EXECUTE | _READ_FILE | _READ_DIR), (writable, files)):
        for path in filter(os.path.exists, paths):
            _allow(libc, rules, path, rights & files)
    _called(libc, _RESTRICT_SELF, rules, 0)
    os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    handle = os.open(path, os.O_PATH)
    try:
        if not os.path.isdir(path):
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
        _called(libc, _ADD_RULE, rules, 1, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)


def _called(libc: ctypes.CDLL, call: int, *arguments: object) -> int:
    found = libc.syscall(call, *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), f"Landlock refused call {call}")
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
