"""A disk of a few megabytes of one's own: a tmpfs, for who may mount (root; or anyone under `unshare -Urm`).

with SmallDisk(megabytes=5) as disk:
    url = f"sqlite:///{disk.path}/pot.db"
    disk.fill()          # every process that writes there now gets ENOSPC
    disk.free()
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import subprocess

from tests.rig.closing import Closing
from tests.rig.ports import fresh_directory

#: Mounts, says so, and unmounts when its input ends: also when whoever asked for it was killed.
_HOLD = 'mount -t tmpfs -o size={size}m,mode=700 none "$1" && echo mounted && cat && umount -l "$1"'
_BLOCK = bytes(4096)


class SmallDisk(Closing):
    """Mounted when it is entered; gone, with all that is on it, when it is left."""

    def __init__(self, megabytes: int) -> None:
        self.path = fresh_directory("disk")
        self._holder = subprocess.Popen(
            ["sh", "-c", _HOLD.format(size=megabytes), "sh", self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"mounted\n":
            self.close()
            raise RuntimeError("mounting is not allowed here")

    def fill(self) -> int:
        """Take what room there is, and go on while others give some back. Returns the bytes taken."""
        taken = 0
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            while True:
                try:
                    taken += ballast.write(_BLOCK)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return taken

    def free(self) -> None:
        """Give the room back."""
        (self.path / "ballast").unlink(missing_ok=True)

    def room(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_bsize

    def close(self) -> None:
        """Unmount it."""
        with contextlib.suppress(OSError):
            self._holder.communicate()


@functools.cache
def is_possible() -> bool:
    """Whether this process may mount."""
    try:
        with SmallDisk(1):
            return True
    except (OSError, RuntimeError):
        return False
