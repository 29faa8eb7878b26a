"""Where the bytes of files are kept outside the database: a folder, S3, Google's storage, whatever fsspec opens.

One object a piece, `<place>/<file id>/<start byte>`: a piece is written whole or not at all, a broken upload leaves
nothing but objects of its own folder, and a growing file grows by objects. The database knows which pieces there are.
Files of a folder are their owner's alone, whatever the umask: they hold prompts and answers.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.base import private
from worker.base.errors import SettingsError, Unreachable
from worker.base.payloads import Payloads, Unreadable
from worker.db.files.pieces import place as place_of

#: Bytes of a piece: a row that SQLite writes in milliseconds, and an object that is worth a request.
DATABASE_PIECE = 1024 * 1024
OBJECT_PIECE = 4 * 1024 * 1024


#: Storages whose first folder is a bucket, and which need no folders else: fsspec would make a bucket of a slip of the pen.
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "obs", "tos"})


def check(place: str | None) -> str | None:
    """The place as it is kept with each file; None is the database.

    Raises:
        SettingsError: fsspec, or what it needs for this kind of URL, is not installed, or knows no such kind.
    """
    if place is None:
        return None
    _opened(place)
    return place.rstrip("/")


@functools.cache
def _opened(place: str) -> tuple[Any, str]:
    try:
        import fsspec  # an extra
    except ModuleNotFoundError:
        raise SettingsError("STOCKPOT_FILE_STORE: fsspec is missing; pip install 'stockpot[storage]'") from None
    try:
        filesystem, path = fsspec.core.url_to_fs(place, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise SettingsError(f"STOCKPOT_FILE_STORE: {error}") from None
    return filesystem, path.rstrip("/")


def probe(place: str) -> None:
    """Write an object, read it and remove it.

    Raises:
        SettingsError: as `check`.
        Unreachable: the storage does not answer, or refuses.
    """
    file, data = f"probe-{uuid.uuid4().hex}", b"stockpot"
    payloads = Payloads()
    put(place, file, 0, data, payloads)
    get(place, file, 0, len(data), payloads)
    remove(place, file)


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, Unreadable):
        raise
    except Exception as error:  # each storage has errors of its own
        raise _unreachable(f"{type(error).__name__}: {error}") from error


def _unreachable(why: str) -> Unreachable:
    mend = "Compare STOCKPOT_FILE_STORE and the storage's own credentials; `stockpot doctor` tries them."
    return Unreachable("the file storage", f"STOCKPOT_FILE_STORE: {' '.join(why.split())[:300]}", mend)


def put(place: str, file: str, start: int, data: bytes, payloads: Payloads) -> None:
    """Write a piece, over what was there, encrypted where payloads are.

    Raises:
        Unreachable: the storage does not answer, or has no such bucket.
    """
    filesystem, root = _opened(place)
    try:
        with _answers():
            if _is_folder(filesystem):
                private.make_directory(Path(root, file))
            elif not _protocols(filesystem) & _BUCKETS:
                filesystem.makedirs(f"{root}/{file}", exist_ok=True)
            _write(filesystem, f"{root}/{file}/{start:015d}", payloads.seal_bytes(data, place_of(file, start)))
    except FileNotFoundError as error:
        raise _unreachable(f"there is no such bucket or folder ({error})") from error


def _protocols(filesystem: Any) -> set[str]:
    return {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)


def _is_folder(filesystem: Any) -> bool:
    """Whether it is this machine's own; object storage has rights of its own."""
    return "file" in _protocols(filesystem)


def _write(filesystem: Any, path: str, data: bytes) -> None:
    if not _is_folder(filesystem):
        filesystem.pipe_file(path, data)
        return
    with private.open_binary(Path(path), "wb") as file:
        file.write(data)


def get(place: str, file: str, start: int, size: int, payloads: Payloads) -> bytes:
    """Read the first `size` bytes of a piece.

    Raises:
        Unreachable: the storage does not answer, or has lost the piece.
        Unreadable: its key is not here.
    """
    filesystem, root = _opened(place)
    try:
        with _answers():
            kept = bytes(filesystem.cat_file(f"{root}/{file}/{start:015d}"))
    except FileNotFoundError:
        kept = b""
    data = payloads.open_bytes(kept, place_of(file, start))[:size]
    if len(data) != size:
        raise Unreachable("the file storage", f"bytes {start:,} and on of {file} are not in {place}")
    return data


def reseal(place: str, file: str, start: int, payloads: Payloads) -> bool:
    """Encrypt a piece with the first key; False when it is already, or is gone.

    Raises:
        Unreachable: the storage does not answer.
        Unreadable: its key is not here.
    """
    filesystem, root = _opened(place)
    path = f"{root}/{file}/{start:015d}"
    with contextlib.suppress(FileNotFoundError), _answers():
        kept = bytes(filesystem.cat_file(path))
        if not kept.startswith(payloads.current()[1]):
            spot = place_of(file, start)
            _write(filesystem, path, payloads.seal_bytes(payloads.open_bytes(kept, spot), spot))
            return True
    return False


def remove(place: str, file: str) -> None:
    """Remove all pieces of a file, those of a broken upload too. Nothing there is fine.

    Raises:
        Unreachable: the storage does not answer.
    """
    filesystem, root = _opened(place)
    with contextlib.suppress(FileNotFoundError), _answers():
        filesystem.rm(f"{root}/{file}", recursive=True)
