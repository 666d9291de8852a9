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

from cubslib import CubsError
from cubslib.datasets import SPLITS
from cubslib.disk import whole

DAMAGES = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError)


def command(about: str, name: str, parts: tuple[str, ...], data_set: type, origin: str) -> int:
    """Run a `get_` script: lay the data set out if it is not there yet, then check it.

    Args:
        about: what `--help` says.
        name: the data set's folder under the data root.
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
    target = options.data_root / name
    try:
        if target.exists():
            print(f"{target} is there already and is only checked; to replace it, move it away.")
            check(target, data_set)
        elif options.source:
            with whole(target) as draft:
                for source in options.source:
                    copy(source, draft, parts)
                require(draft, parts)
                check(draft, data_set)
            print(f"{target} is laid out.")
        else:
            print(f"Name archives by --source: nothing is downloaded yet. {origin}", file=sys.stderr)
            return 2
    except CubsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def copy(source: Path, folder: Path, parts: tuple[str, ...]) -> None:
    """Copy the files of `source` that belong to one of `parts`, however deep they lie, to `folder`.

    The name of `source` counts as a folder, so `cars_train.tgz` may hold `00001.jpg` at its top.

    Raises:
        CubsError: the source is none, is damaged, or holds a link or a path that leads out of it.
    """
    try:
        for name, file in tqdm(files(source), desc=source.name, unit=" files"):
            steps = (source.name.split(".tar")[0].removesuffix(".tgz")..., *PurePosixPath(name).parts)
            places = [place for place, step in enumerate(steps) if step in parts]
    except DAMAGES as error:
        raise CubsError(f"{source} cannot be read to its end ({error}): fetch it again.") from error
