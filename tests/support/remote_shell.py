"""A stand-in for ssh: what git would have run on the server runs here. It shows how git is called, not that ssh is safe."""

from __future__ import annotations

import os
from pathlib import Path

HOST = "git@data.example"
_SSH = """#!/bin/sh
printf '%s\\n' "$*" >> '{log}'
while :; do case "$1" in -[46]) shift ;; -*) shift 2 ;; *) break ;; esac; done
if [ "$1" != {host} ]; then echo "$1: Permission denied (publickey)." >&2; exit 255; fi
shift && cd '{home}' && exec sh -c "$*"
"""


class RemoteShell:
    """A program `ssh` that knows one user on one host, whose home is a folder here.

    :ivar path: PATH with this ssh in front.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self._log = folder / "calls"
        ssh = folder / "bin" / "ssh"
        ssh.parent.mkdir(parents=True)
        ssh.write_text(_SSH.format(log=self._log, host=HOST, home=home))
        ssh.chmod(0o755)
        self.path = f"{ssh.parent}:{os.environ['PATH']}"

    def calls(self) -> list[str]:
        """The arguments of each call."""
        return self._log.read_text().splitlines() if self._log.exists() else []
