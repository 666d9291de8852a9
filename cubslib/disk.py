"""Files that appear whole or not at all, locks that die with their process, fingerprints."""

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cubslib import CubsError

UNWRITABLE = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}
UNWRITABLE |= {errno.EFBIG, errno.EIO}
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]  # whose processes we know


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write a file or a folder under; rename it to `path` at the end.

    A reader sees the old content or the new, never a part. If the body raises, `path` stays as it
    was and what was written is removed.

    Raises:
        CubsError: the folder of `path` cannot be written.
    """
    draft = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(draft)
        yield draft
        if draft.is_file():
            with open(draft, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        if error.errno not in UNWRITABLE and not isinstance(error, PermissionError):
            raise
        raise _unwritable(path, error) from error
    finally:
        _remove(draft)


@contextmanager
def lock(path: Path, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path`; the system frees it when the process ends, however it ends.

    On a file system without locks, such as some network drives, a file of this machine's stands in:
    it keeps out this machine's processes, and no others.

    Args:
        path: the lock file; its folder is made.
        busy: the sentence to refuse with at once where another process holds the lock; without
            one, wait.

    Raises:
        CubsError: `busy` is given and another process holds the lock, or it cannot be written.
    """
    how = {"timeout": 0 if busy else -1, "is_singleton": True, "fallback_to_soft": False}
    here = Path(tempfile.gettempdir(), f"cubslib-{fingerprint(str(path.resolve()))}.lock")
    for place in (path, here):
        held = FileLock(place, **how)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            held.acquire()
            break
        except Timeout:
            raise CubsError(busy) from None
        except OSError as error:
            if place is here or error.errno not in WITHOUT_LOCKS:
                raise _unwritable(path, error) from error
    try:
        yield
    finally:
        held.release()


def clear(folder: Path) -> None:
    """Remove what dead processes left in `folder`, its sub-folders apart: drafts and lock files.

    A draft that a process of another host may still write stays, and so does what cannot be
    removed. (A waiting process notices that a lock file is gone, and makes a new one.)
    """
    for draft in folder.glob(".*.part"):
        process = re.search(r"\.([0-9a-f]{6})-(\d+)\.part$", draft.name)
        if process and process[1] == HOST and not _lives(int(process[2])):
            with suppress(OSError):
                _remove(draft)
    for file in folder.glob(".*.lock"):
        locked = FileLock(file, timeout=0, fallback_to_soft=False)
        with suppress(OSError, RuntimeError), locked:  # not one of our own
            file.unlink()


def fingerprint(*parts: object) -> str:
    """Return 16 hexadecimal digits that change when any of `parts` does (by its bytes or `repr`).

    >>> fingerprint("a", 1) == fingerprint("a", 1), fingerprint("a", 1) == fingerprint("a", 2)
    (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _unwritable(path: Path, error: OSError) -> CubsError:
    why = error.strerror or "not permitted"
    cure = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
    return CubsError(f"{path.parent} cannot be written ({why}): {cure}.")


def _lives(process: int) -> bool:
    if os.name != "posix":  # there, 0 is no mere question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(NotADirectoryError):  # its folder is a file
            path.unlink(missing_ok=True)
