"""The layouts in which users hold Cars196 → the official one.

A: `cars_train/00001.jpg`, `cars_test/00001.jpg`, `devkit`, `cars_test_annos_withlabels.mat`: the
official one. B: `car_ims/000001.jpg` and `cars_annos.mat`, all images in one folder. C: folders of
classes, `train/<class>/00001.jpg` and `test/<class>/00001.jpg`, boxes in `anno_train.csv` and
`anno_test.csv` (file, x1, y1, x2, y2, class) if at all.
"""

import csv
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from lay_out import below
from scipy.io import savemat

from cubslib import CubsError, annotations

PARTS = ("cars_train", "cars_test", "devkit", "cars_test_annos_withlabels.mat")
B = ("car_ims", "cars_annos.mat")
HALVES = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
OFFICIAL = Path(__file__).with_name("cars196_classes.txt").read_text().splitlines()


def place(name: str) -> str | None:
    """Return where a source's file belongs, or None: A's and B's as they are, C's in `classes`."""
    steps = PurePosixPath(name).parts
    if found := below(PARTS + B)(name):
        return found
    if steps[-1] in ("anno_train.csv", "anno_test.csv"):
        return f"classes/{steps[-1]}"
    image = steps[-1].lower().endswith((".jpg", ".jpeg", ".png"))
    halved = len(steps) > 2 and steps[-3] in HALVES
    return "/".join(("classes", *steps[-3:])) if image and halved else None


def arrange(folder: Path) -> None:
    """Bring what `place` let into `folder` to layout A.

    Raises:
        CubsError: a table of layout B or C is not as it must be.
    """
    if (folder / "cars_annos.mat").exists() and not (folder / "devkit").exists():
        from_one_folder(folder)
    elif (folder / "classes").exists() and not (folder / "devkit").exists():
        from_classes(folder)
    shutil.rmtree(folder / "classes", ignore_errors=True)
    shutil.rmtree(folder / "car_ims", ignore_errors=True)
    (folder / "cars_annos.mat").unlink(missing_ok=True)


def from_one_folder(folder: Path) -> None:
    """Bring layout B to A; files keep their names.

    Raises:
        CubsError: `cars_annos.mat` is not the official one.
    """
    path, troubles = folder / "cars_annos.mat", []
    names = annotations.class_names(path, troubles)
    table = annotations.mat(path, "annotations", troubles)
    columns = ("relative_im_path", "class", "test", *annotations.CORNERS)
    if not troubles and not set(columns) <= set(*table[:1]):
        troubles.append(f"{path} lacks one of the columns {', '.join(columns)}: fetch it again.")
    annotations.refuse(troubles)
    files = [str(row["relative_im_path"]).rpartition("/")[2] for row in table]
    for number, (file, row) in enumerate(zip(files, table, strict=True), 1):
        if row["test"] not in (0, 1) or not annotations.is_plain(file):
            raise CubsError(f"{path.name} row {number} is not a file and its half: fetch it again.")
    for half, name in enumerate(HALVES):
        rows = []
        for row, file in zip(table, files, strict=True):
            if row["test"] == half:
                move(folder / "car_ims" / file, folder / f"cars_{name}" / file)
                rows.append((*(row[corner] for corner in annotations.CORNERS), row["class"], file))
        save(folder, name, rows, boxed=True)
    for image in (folder / "car_ims").glob("*"):  # without a label: it is counted as such
        move(image, folder / "cars_train" / image.name)
    save_names(folder, names)


def from_classes(folder: Path) -> None:
    """Bring layout C to A; files are named after their class's number and themselves.

    Classes that are the official ones, however written, are in the official order, others in that
    of their names.
    """
    found = sorted({path.name for half in HALVES for path in (folder / "classes" / half).glob("*")})
    official = {plain(name): name for name in OFFICIAL}
    own = {name: official.get(plain(name), name) for name in found}
    names = OFFICIAL if set(own.values()) <= set(OFFICIAL) else found
    for half in HALVES:
        boxes = read_boxes(folder / "classes" / f"anno_{half}.csv")
        rows = []
        for path in sorted((folder / "classes" / half).glob("*/*")):
            label = names.index(own[path.parent.name] if names is OFFICIAL else path.parent.name)
            file = f"{label + 1:03}_{path.name}"
            rows.append((*boxes.get(path.name, ()), label + 1, file))
            move(path, folder / f"cars_{half}" / file)
        boxed = bool(boxes) and all(len(row) == 6 for row in rows)
        save(folder, half, rows if boxed else [row[-2:] for row in rows], boxed)
    save_names(folder, names)


def read_boxes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the corners of each file that a table of layout C names; none without a table.

    Raises:
        CubsError: a row is not a file and four whole numbers.
    """
    if not path.exists():
        return {}
    boxes = {}
    with path.open(newline="", errors="replace") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if len(row) > 4 and all(corner.isdecimal() for corner in row[1:5]):
                boxes[row[0]] = tuple(map(int, row[1:5]))
            elif number > 1:  # the first may name the columns
                raise CubsError(f"{path.name} row {number} is not a file and its box: correct it.")
    return boxes


def plain(name: str) -> str:
    """Return the letters and digits of a class's name: folders are written in many ways."""
    return re.sub("[^a-z0-9]", "", name.lower())


def move(old: Path, new: Path) -> None:
    """Move a file, if it is there; that one is missing is found later."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.exists():
        os.replace(old, new)


def save(folder: Path, half: str, rows: Iterable[tuple], boxed: bool) -> None:
    """Write the annotations of one half in the official form."""
    (folder / f"cars_{half}").mkdir(exist_ok=True)
    columns = (*(annotations.CORNERS if boxed else ()), "class", "fname")
    table = np.array(list(rows), [(column, object) for column in columns])
    (folder / "devkit").mkdir(exist_ok=True)
    savemat(folder / HALVES[half], {"annotations": table}, do_compression=True)


def save_names(folder: Path, names: list[str]) -> None:
    """Write the class names in the official form."""
    path = folder / "devkit/cars_meta.mat"
    savemat(path, {"class_names": np.array(names, object)}, do_compression=True)
