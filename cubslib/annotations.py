"""Tables that say which image is of which class: read, and checked row by row.

A reader appends what is wrong to a list of sentences, `troubles`, and returns what is sound, so
that one look at a data set finds all that is wrong with it; `refuse` ends that look.

Shapes: N rows of a table.
"""

import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from cubslib import CubsError
from cubslib.matlab import variable

CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
LARGEST = 2**26  # bytes of a table; the largest official one has 2.7 million
REPAIR = "fetch it again"


class UnsoundData(CubsError):
    """A data set is not as it must be; `troubles` has a sentence for each thing wrong with it."""

    def __init__(self, troubles: Sequence[str]):
        self.troubles = tuple(troubles)
        more = f" ({len(troubles) - 1:,} more are listed by its script in data_scripts, --check)."
        super().__init__(troubles[0][:-1] + more if troubles[1:] else troubles[0])


def refuse(troubles: Sequence[str]) -> None:
    """End the look at a data set.

    Raises:
        UnsoundData: there are troubles.
    """
    if troubles:
        raise UnsoundData(troubles)


def lines(path: Path, troubles: list[str]) -> list[str]:
    """Return the lines of a small UTF-8 text; none where it cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        troubles.append(f"{path} is missing: unpack the whole data set there.")
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        troubles.append(f"{path} row {row} is not UTF-8 text: {REPAIR}.")
    except (OSError, ValueError) as error:
        troubles.append(f"{path} cannot be read ({_why(error)}): {REPAIR}.")
    return []


def wnids(path: Path, troubles: list[str]) -> list[str]:
    """Return the classes that `wnids.txt` lists, sorted: an image's label is its class's place."""
    found = []
    for row, wnid in enumerate(lines(path, troubles), 1):
        if not is_plain(wnid) or wnid in found:
            what = "again" if wnid in found else "which is no name of a folder"
            troubles.append(f"{path} row {row} lists {wnid!r}, {what}: {REPAIR}.")
        else:
            found.append(wnid)
    if not (found or troubles):
        troubles.append(f"{path} lists no class: {REPAIR}.")
    return sorted(found)


def words(path: Path, troubles: list[str]) -> dict[str, str]:
    """Return what `words.txt` calls each wnid."""
    rows = [line.partition("\t") for line in lines(path, troubles)]
    for row, (wnid, tab, text) in enumerate(rows, 1):
        if not (wnid and tab and text.strip()):
            troubles.append(f"{path} row {row} is not a wnid, a tab and words: {REPAIR}.")
    return {wnid: text for wnid, _, text in rows}


def val_rows(path: Path, wnids: Sequence[str], troubles: list[str]) -> dict[str, int]:
    """Return the label of each file that `val_annotations.txt` names: file, wnid, box; tabs."""
    number, labels = {wnid: label for label, wnid in enumerate(wnids)}, {}
    for row, line in enumerate(lines(path, troubles), 1):
        file, wnid = (line.split("\t") + [""])[:2]
        if not is_plain(file):
            troubles.append(f"{path} row {row} names no file but {file!r}: {REPAIR}.")
        elif file in labels:
            troubles.append(f"{path} row {row} names {file} a second time: {REPAIR}.")
        elif wnids and wnid not in number:
            troubles.append(f"{path} row {row} ({file}) has {wnid!r}, no class: {REPAIR}.")
        else:
            labels[file] = number.get(wnid, 0)
    if not (labels or troubles):
        troubles.append(f"{path} names no image: {REPAIR}.")
    return labels


def mat(path: Path, field: str, troubles: list[str]) -> list:
    """Return a table of a MATLAB file, rows as dicts or texts; empty where it cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        found = variable(path.read_bytes(), field)
        return found if isinstance(found, list) else [found]
    except FileNotFoundError:
        troubles.append(f"{path} is missing: unpack the whole data set there.")
    except (OSError, ValueError) as error:
        troubles.append(f"{path} is not the official file ({_why(error)}): {REPAIR}.")
    return []


def class_names(path: Path, troubles: list[str]) -> list[str]:
    """Return the names of the classes, the first being that of official label 1."""
    found = mat(path, "class_names", troubles)
    odd = [row for row, name in enumerate(found, 1) if not (isinstance(name, str) and name.strip())]
    troubles += [f"{path} row {row} of class_names is no text: {REPAIR}." for row in odd]
    if len(found) == 1:
        troubles.append(f"{path} names one class where two or more are needed: {REPAIR}.")
    return [str(name) for name in found]


def car_rows(
    path: Path, num_classes: int, troubles: list[str]
) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Return the sound rows of `annotations`.

    Args:
        path: the MATLAB file, whose labels run from 1.
        num_classes: how many class names there are; 0 where they could not be read.
        troubles: what is wrong is appended to it.

    Returns:
        Names of files, N; labels from 0, (N,); corners x1, y1, x2, y2, counted from 1, both ends
        within, (N, 4), or None where the table has none.
    """
    table = mat(path, "annotations", troubles)
    columns = set(table[0]) if table and isinstance(table[0], dict) else set()
    lacking = [name for name in ("fname", "class") if table and name not in columns]
    if lacking:
        rows = "the official test rows have theirs in cars_test_annos_withlabels.mat"
        troubles.append(f"{path} has no column {lacking[0]}: {rows}.")
    boxed = not table or set(CORNERS) <= columns
    files, labels, boxes = {}, [], []
    for number, row in enumerate(() if lacking else table, 1):
        box = [row[corner] for corner in CORNERS] if boxed else (1, 1, 1, 1)
        odd = _oddity(row["fname"], row["class"], box, files, num_classes)
        if odd:
            troubles.append(f"{path} row {number} {odd}: {REPAIR}.")
        else:
            files[row["fname"]] = number
            labels.append(int(row["class"]) - 1)
            boxes.append([int(corner) for corner in box])
    corners = np.reshape(np.array(boxes, np.int64), (-1, 4))
    return list(files), np.array(labels, np.int64), corners if boxed else None


def is_plain(name: object) -> bool:
    """Whether `name` is that of a file in the folder at hand, and leads nowhere else."""
    plain = isinstance(name, str) and name.isprintable() and not {"/", "\\"} & set(name)
    return plain and bool(name.strip()) and not name.startswith(".")


def _oddity(file, label, box, earlier: dict[str, int], num_classes: int) -> str:
    """Say what is wrong with a row; nothing if it is sound."""
    if not is_plain(file):
        return f"has {file!r} where the name of a file must stand"
    if file in earlier:
        return f"names {file}, as row {earlier[file]} does"
    if not _is_whole(label):
        return f"({file}) has the class {label!r}, which is no whole number"
    if num_classes and not 1 <= label <= num_classes:
        return f"({file}) has the class {label}; there are {num_classes} names, from 1"
    if not all(map(_is_whole, box)):
        return f"({file}) has the box {box}, which is not four whole numbers"
    if not (1 <= box[0] <= box[2] and 1 <= box[1] <= box[3]):
        corners = ", ".join(str(int(corner)) for corner in box)
        return f"({file}) has the box {corners}; x1 ≤ x2 and y1 ≤ y2 count from 1"
    return ""


def folder(path: Path, names: Sequence[str], troubles: list[str]) -> int:
    """Look for annotated images in a folder; return how many files there have no annotation."""
    here = files(path, troubles)
    missing = [name for name in names if name not in here]
    if missing:
        troubles.append(
            f"{path} lacks {len(missing):,} of {len(names):,} annotated images, "
            f"{missing[0]} first: unpack the whole data set there."
        )
    return len(here) - len(names) + len(missing)


def files(path: Path, troubles: list[str]) -> set[str]:
    """Return the files in a folder, hidden ones apart, none of them read."""
    try:
        entries = [entry for entry in os.scandir(path) if not entry.name.startswith(".")]
        here = {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        troubles.append(f"{path} cannot be read ({_why(error)}): make it readable.")
        return set()
    for entry in entries:
        if entry.name not in here:
            kind = "a link to nothing" if entry.is_symlink() else "no file"
            troubles.append(f"{path / entry.name} is {kind}: unpack the whole data set there.")
    return here


def _is_whole(number: object) -> bool:
    return isinstance(number, Real) and float(number).is_integer()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
