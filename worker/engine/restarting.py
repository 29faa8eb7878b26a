"""Loops that last as long as the engine: want of file descriptors is waited out, any other end of one is a defect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from worker.base.errors import out_of_files
from worker.base.log import get_logger

log = get_logger(__name__)

#: Between two tries while the process may open no file, in seconds: descriptors come back as calls end.
NO_FILES_PAUSE = 1.0


async def restarting(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a loop to its end; one that ended because the process may open no file is begun again after a pause."""
    while True:
        try:
            return await loop()
        except Exception as error:
            if not out_of_files(error):
                raise
            log.error("no_file_descriptors", hint="raise the limit on open files (ulimit -n)")
            await asyncio.sleep(NO_FILES_PAUSE)
