"""Archives and folders at hand → files in one folder. A source is trusted in nothing.

Whatever a source holds, no file is written outside the folder, no link is followed out of the
source, and no more is written than a data set can have.
"""

import errno
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from cubslib import CubsError

LARGEST_FILE, LARGEST, MOST = 2**27, 2**33, 400_000  # bytes, bytes of all, number of files
DAMAGES = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError),
    *(RuntimeError, NotImplementedError),  # a zip with a password, or packed in a way unknown here
    *(ValueError, OverflowError, UnicodeError),  # a head that is nonsense
)


class Member(tarfile.TarInfo):
    """A member of a tar. tarfile takes a damaged head, or no head at all, for the tar's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Read the next head.

        Raises:
            tarfile.ReadError: there is none, nor the mark of the end.
        """
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is cut or damaged, {error}") from error


def copy(source: Path, folder: Path, place: Callable[[str], str | None]) -> None:
    """Copy what is wanted of `source`, however deep it lies, to `folder`.

    Args:
        source: a zip, a tar, a folder or a file.
        folder: where to.
        place: a name in the source → the path in `folder`, or None for what is not wanted.

    Raises:
        CubsError: the source is none, is damaged, holds nothing that is wanted, a link or a path
            that leads out of it, two different files for one place, or too much.
    """
    count = size = 0
    try:
        for name, file in tqdm(files(source, place), desc=source.name, unit=" files"):
            content = file.read(LARGEST_FILE + 1)
            count, size = count + 1, size + len(content)
            if len(content) > LARGEST_FILE or size > LARGEST or count > MOST:
                raise CubsError(f"{source} holds more than a data set of images: use a sound one.")
            copied = folder / name
            if copied.exists() and copied.read_bytes() != content:
                raise CubsError(f"{source} holds a second, different {name}: name what is right.")
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(content)
    except DAMAGES as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # it is not the source's fault
        why = str(error).partition("\n")[0].rstrip(":.") or "it is cut"
        raise CubsError(f"{source} could not be read to its end: {why}.") from error
    if not count:
        raise CubsError(f"{source} is no archive or folder that holds anything of the data set.")


def files(source: Path, place: Callable[[str], str | None]) -> Iterator[tuple[str, IO[bytes]]]:
    """Open each wanted file of a folder, a zip or a tar, or `source` itself if it is none of these.

    Names begin with that of `source`, since `cars_train.tgz` may hold `00001.jpg` at its top.

    Yields:
        The place of the file, and the file.
    """
    ending = source.suffix.lower()
    if source.is_dir():
        found = in_folder(source)
    elif ending == ".zip":
        found = in_zip(source)
    elif ending in (".tar", ".tgz", ".gz", ".xz", ".bz2"):
        found = in_tar(source)
    else:
        found = iter([(source.name, lambda: source.open("rb"))])
    for name, opened in found:
        steps = PurePosixPath(name).parts
        if any(step.startswith((".", "__MACOSX")) for step in steps[1:]):
            continue
        if wanted := place(name):
            with opened() as file:
                yield wanted, file


def in_folder(source: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Yield the names of a folder's files and what opens them.

    A link is not followed: it is refused when it is opened, or as a folder when it is met.
    """

    def opened(path: Path) -> IO[bytes]:
        refuse(source, str(path.relative_to(source)), path.is_symlink() or not path.is_file())
        return open(path, "rb")

    for where, folders, names in os.walk(source):
        folders.sort()
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        for name in sorted(names + links):
            path = Path(where) / name
            yield f"{source.name}/{path.relative_to(source).as_posix()}", lambda at=path: opened(at)


def in_zip(source: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Yield the names of a zip's members and what opens them; their checksums are compared."""
    stem = source.name.partition(".")[0]
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            refuse(source, entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
            if not entry.is_dir():
                yield f"{stem}/{entry.filename}", lambda at=entry: archive.open(at)


def in_tar(source: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Yield the names of a tar's members and what opens them; a compressed one is read to its sum.

    Raises:
        CubsError: it holds a link or a device.
        tarfile.ReadError: it is cut or damaged.
    """
    stem = source.name.partition(".")[0]
    with tarfile.open(source, tarinfo=Member) as archive:
        for member in archive:
            refuse(source, member.name, not (member.isfile() or member.isdir()))
            if member.isfile():
                yield f"{stem}/{member.name}", lambda at=member: archive.extractfile(at)
        while archive.fileobj.read(2**20):
            pass


def refuse(source: Path, name: str, odd: bool) -> None:
    """Refuse what an honest source of images does not hold.

    Raises:
        CubsError: `name` leads out of the archive's folder, or the member is `odd`.
    """
    leads_out = name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts
    if odd or leads_out or not name.isprintable():
        shown = name if name.isprintable() else ascii(name)
        raise CubsError(f"{source} holds {shown}, a link or a path out of it: use a sound one.")
