"""What the `get_` scripts share: archives or folders at hand → a data set's official layout."""

import argparse
import lzma
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from cubslib import CubsError, machine
from cubslib.datasets import SPLITS
from cubslib.disk import whole

DAMAGES = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError),
    *(RuntimeError, NotImplementedError),  # a zip with a password, or packed in a way unknown here
)


def command(about: str, name: str, parts: tuple[str, ...], data_set: type, origin: str) -> int:
    """Run a `get_` script: lay the data set out if it is not there yet, and check it.

    Args:
        about: what `--help` says.
        name: the data set's folder under the data root, which is relative to the project's root.
        parts: the files and folders of its official layout; all are needed.
        data_set: its class in `cubslib.datasets`.
        origin: where its archives can be had.

    Returns:
        The exit status: 0 if the data set is there and whole, 1 if something is wrong with it or
        with a source, 2 if there is nothing to make it from.
    """
    parser = argparse.ArgumentParser(description=about)
    add = parser.add_argument
    add("--data-root", type=Path, default=Path("data"), help="default: data")
    add("--source", type=Path, action="append", default=[], help="zip, tar or folder; repeatable")
    options = parser.parse_args()
    target = machine.project_root() / options.data_root / name
    if not (target.exists() or options.source):
        print(f"Name archives by --source: nothing is downloaded yet. {origin}", file=sys.stderr)
        return 2
    try:
        if target.exists():
            print(f"{target} is there already, so it is only checked (move it away to replace it).")
            check(target, data_set)
        else:
            lay_out(options.source, target, parts, data_set)
            print(f"{target} is laid out.")
    except CubsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def lay_out(sources: list[Path], target: Path, parts: tuple[str, ...], data_set: type) -> None:
    """Make the folder `target` from the sources, if they are whole together; else make nothing.

    Raises:
        CubsError: a source cannot be used, a part is in none of them, or files are missing.
    """
    with whole(target) as draft:
        for source in sources:
            copy(source.resolve(), draft, parts)
        lacking = [part for part in parts if not (draft / part).exists()]
        if lacking:
            raise CubsError(f"No source holds {lacking[0]}: name the archive that does as well.")
        try:
            check(draft, data_set)
        except CubsError as error:
            text = str(error).replace(str(draft), str(target))
            raise CubsError(f"The sources are not whole, nothing is laid out: {text}") from error


def copy(source: Path, folder: Path, parts: tuple[str, ...]) -> None:
    """Copy the files of `source` that belong to one of `parts`, however deep they lie, to `folder`.

    Raises:
        CubsError: the source is none, is damaged, or holds a link or a path that leads out of it.
    """
    used = False
    try:
        for name, file in tqdm(files(source), desc=source.name, unit=" files"):
            steps = PurePosixPath(name).parts
            places = [place for place, step in enumerate(steps) if step in parts]
            if places and not any(step.startswith((".", "__MACOSX")) for step in steps[1:]):
                copied = folder.joinpath(*steps[places[-1] :])
                copied.parent.mkdir(parents=True, exist_ok=True)
                with open(copied, "wb") as out:
                    shutil.copyfileobj(file, out)
                used = True
    except DAMAGES as error:
        raise CubsError(f"{source} could not be read to its end: {error}.") from error
    if not used:
        raise CubsError(f"{source} is no archive or folder that holds {', '.join(parts)}.")


def files(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Open each file of a folder, a zip or a tar, or `source` itself if it is none of these.

    Names begin with that of `source`, since `cars_train.tgz` may hold `00001.jpg` at its top.

    Raises:
        CubsError: an archive holds a link, a device or a path that leads out of it.
    """
    stem = source.name.partition(".")[0]
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                yield f"{source.name}/{path.relative_to(source).as_posix()}", file
    elif source.suffix.lower() == ".zip":
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                refuse(source, entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
                if not entry.is_dir():
                    with archive.open(entry) as file:
                        yield f"{stem}/{entry.filename}", file
    elif source.suffix.lower() in (".tar", ".tgz", ".gz", ".xz", ".bz2"):
        with tarfile.open(source) as archive:
            for member in archive:
                refuse(source, member.name, not (member.isfile() or member.isdir()))
                if member.isfile():
                    yield f"{stem}/{member.name}", archive.extractfile(member)
    else:
        with open(source, "rb") as file:
            yield source.name, file


def refuse(source: Path, name: str, odd: bool) -> None:
    """Refuse what an honest archive of images does not hold.

    Raises:
        CubsError: `name` leads out of the archive's folder, or the member is `odd`.
    """
    if odd or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise CubsError(f"{source} holds {name}, a link or a path out of it: use a sound one.")


def check(folder: Path, data_set: type) -> None:
    """Open every split of the data set in `folder` and print what it holds.

    Raises:
        CubsError: something is missing.
    """
    for split in SPLITS:
        images = data_set(folder, split)
        print(f"  {split:5}  {len(images):7,} images of {len(images.classes)} classes")
    print(f"  {images.protocol}")
