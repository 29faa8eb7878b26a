"""Become another program that cannot outlive its parent: `python leash.py PARENT_PID USER|- PROGRAM ARGS…`.

Linux ends a process when its parent dies if the process asked for it (`prctl(2)`, PR_SET_PDEATHSIG). The request
survives `exec` but not a change of user, so the user is changed first. A separate program, and no `preexec_fn`, because
Python between fork and exec in a process with threads may deadlock (and warns so since 3.12).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1


def main(parent: int, user: str, command: list[str]) -> None:
    """Change user, ask to die with the parent, and run the command in this process. Does not return."""
    if user != "-":
        _become(user)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # The parent died before the request was made.
            os._exit(1)
    os.execvp(command[0], command)


def _become(user: str) -> None:
    import pwd

    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
