"""First code of a test process: it gives itself limits that it cannot take back, and hands over to pytest.

Copied into the sandbox and run from there, as its user need not be able to read this package: standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import site
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def main() -> int:
    """Runs pytest as the first argument, a JSON object, asks for."""
    given = json.loads(sys.argv[1])
    if sys.platform == "linux":
        _bound(given["parent"])
    for name, (soft, hard) in given["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    for folder in given["site"]:
        site.addsitedir(folder)
    sys.path.insert(0, os.getcwd())
    import pytest

    return int(pytest.main(given["arguments"]))


def _bound(parent: int) -> None:
    """Ends with the worker, should that be killed, and gains no privileges by programs that would give them."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, int(signal.SIGKILL)), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
    if os.getppid() != parent:
        raise RuntimeError("the worker ended before the tests began")


if __name__ == "__main__":
    sys.exit(main())
