"""What the `get_` scripts share: an archive from the web or at hand → a data set, checked."""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from archives import copy
from download import Archive, fetch
from tqdm import tqdm

from cubslib import CubsError, machine
from cubslib.annotations import UnsoundData
from cubslib.datasets import SPLITS
from cubslib.decoding import decode
from cubslib.disk import clear, lock, whole
from cubslib.packed import PackedImages

Place = Callable[[str], str | None]


@dataclass(frozen=True)
class Wanted:
    """A data set to lay out.

    Args:
        name: its folder under the data root, which is relative to the project's root.
        data_set: its class in `cubslib.datasets`.
        archive: where it is downloaded from.
        parts: the files and folders of its official layout; all are needed.
        place: a file's name in a source → where it belongs, or None if it does not.
        arrange: brings other layouts that `place` lets in to the official one.
    """

    name: str
    data_set: type[PackedImages]
    archive: Archive
    parts: tuple[str, ...]
    place: Place
    arrange: Callable[[Path], None] = lambda folder: None


def command(about: str, wanted: Wanted) -> int:
    """Run a `get_` script: download the data set and lay it out if it is not there, and check it.

    Returns:
        The exit status: 0 if the data set is there and whole, 1 if something is wrong with it or
        with a source, 130 if Ctrl-C was pressed.
    """
    parser = argparse.ArgumentParser(description=about)
    add = parser.add_argument
    add("--data-root", type=Path, default=Path("data"), help="default: data")
    use = "zip, tar or folder at hand, in place of a download; repeatable"
    add("--source", type=Path, action="append", default=[], help=use)
    add("--check", action="store_true", help="read every image and list all that is wrong")
    options = parser.parse_args()
    target = machine.project_root() / options.data_root / wanted.name
    try:
        if options.check:
            return examine(target, wanted.data_set)
        with lock(target.with_name(f".{target.name}.lock")):
            get(wanted, target, options.source)
    except CubsError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; what is downloaded stays, and the next call goes on.", file=sys.stderr)
        return 130
    finally:
        clear(target.parent)
    return 0


def get(wanted: Wanted, target: Path, sources: list[Path]) -> None:
    """Lay the data set out in `target` unless it is there, and check it.

    Args:
        wanted: the data set.
        target: its folder.
        sources: archives, folders or files at hand; without any it is downloaded.

    Raises:
        CubsError: it cannot be had, or something is wrong with what is there.
    """
    if target.exists():
        print(f"{target} is there already, so it is only checked (move it away to replace it).")
        check(target, wanted.data_set)
        return
    if sources:
        lay_out(wanted, target, sources)
    else:
        archive = fetch(wanted.archive, target.parent)
        lay_out(wanted, target, [archive], complete=True)
        archive.unlink()
    print(f"{target} is laid out.")


def lay_out(wanted: Wanted, target: Path, sources: list[Path], complete: bool = False) -> None:
    """Make the folder `target` from the sources, if they are whole together; else make nothing.

    Args:
        wanted: the data set.
        target: its folder.
        sources: archives, folders or files.
        complete: refuse less than the whole official data set.

    Raises:
        CubsError: a source cannot be used, a part is in none of them, or files are missing.
    """
    with whole(target) as draft:
        draft.mkdir(parents=True)
        for source in sources:
            copy(source.resolve(), draft, wanted.place)
        wanted.arrange(draft)
        lacking = [part for part in wanted.parts if not (draft / part).exists()]
        if lacking:
            raise CubsError(f"No source holds {lacking[0]}: name the archive that does as well.")
        try:
            protocol = check(draft, wanted.data_set)
        except CubsError as error:
            text = str(error).replace(str(draft), str(target))
            raise CubsError(f"The sources are not whole, nothing is laid out: {text}") from error
        if complete and not protocol.startswith("complete"):
            raise CubsError(
                f"{sources[0]} is not the official data set ({protocol}), nothing is laid out: "
                "remove it, and name a whole archive by --source."
            )


def below(parts: tuple[str, ...]) -> Place:
    """Return what places files that belong to one of `parts`, wherever in a source these lie.

    >>> below(("train",))("tiny/train/n1/a.JPEG"), below(("train",))("tiny/test/a.JPEG")
    ('train/n1/a.JPEG', None)
    """

    def place(name: str) -> str | None:
        steps = PurePosixPath(name).parts
        places = [number for number, step in enumerate(steps) if step in parts]
        return "/".join(steps[places[-1] :]) if places else None

    return place


def check(folder: Path, data_set: type[PackedImages]) -> str:
    """Open every split of the data set in `folder`, print what it holds, return its protocol.

    Raises:
        CubsError: something is missing.
    """
    for split in SPLITS:
        images = data_set(folder, split)
        print(f"  {split:5}  {len(images):7,} images of {len(images.classes)} classes")
    print(f"  {images.title}: {images.protocol}")
    return images.protocol


def examine(folder: Path, data_set: type[PackedImages]) -> int:
    """Print all that is wrong with the data set in `folder`; return the exit status."""
    try:
        check(folder, data_set)
        troubles = list(unreadable(folder, data_set))
    except UnsoundData as error:
        troubles = error.troubles
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    print(f"  {len(troubles):,} troubles" if troubles else "  every image can be read")
    return 1 if troubles else 0


def unreadable(folder: Path, data_set: type[PackedImages]) -> Iterator[str]:
    """Read every image, and yield a sentence for each that is none or that its box leads out of."""
    for split in SPLITS:
        images = data_set(folder, split)
        boxes = getattr(images, "annotated", None)

        def look(row: int, images=images, boxes=boxes) -> str:
            try:
                box = None if boxes is None else boxes[row]
                decode(images.root / images.files[row], images.size, box)
            except CubsError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor() as pool:
            found = pool.map(look, images.rows)
            yield from filter(None, tqdm(found, split, len(images), unit=" images"))
