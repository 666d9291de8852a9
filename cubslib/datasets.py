"""A folder on disk → images and labels: Tiny ImageNet and Cars196 in their official layouts.

Opening a data set lists and checks its files without reading an image. Splits follow the
assignment and depend on nothing but the files: no seed enters them.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cubslib import CubsError, annotations
from cubslib.decoding import image_size
from cubslib.disk import fingerprint
from cubslib.packed import PackedImages

SPLITS = ("train", "val", "test")
TINY_IMAGENET_TOTAL = 110_000  # 100,000 train and 10,000 val; the official test has no labels
CARS196_TOTAL = 16_185
CARS196_TRAIN = 8_054  # of the first 98 classes

# What the official classes are: class_digest(wnids.txt, sorted), class_digest(class_names).
TINY_IMAGENET_CLASSES = "08503535f46f9493"
CARS196_CLASSES = "4ded0e0a5994d517"


def class_digest(names: Sequence[str]) -> str:
    """Return 16 hexadecimal digits of classes in their order, by their letters and digits alone.

    >>> class_digest(["Ram C/V Van"]) == class_digest(["ram c-v van"]) != class_digest(["Ram"])
    True
    """
    return fingerprint(*(re.sub("[^a-z0-9]", "", name.lower()) for name in names))


class TinyImageNet(PackedImages):
    """Tiny ImageNet (Stanford CS231n): 200 classes, 64 × 64 pixels.

    `train` and `val` are the official train images, every tenth image of a class being `val`;
    `test` is the official val. Classes are numbered by sorted wnid, as everywhere but in
    `wnids.txt`.

    Args:
        root: the folder `tiny-imagenet-200`.
        split: `train`, `val` or `test`.
        limit_classes: the first n classes only; 0 for all.

    Raises:
        UnsoundData: a file or folder is missing, or a row of a table is not as it must be.
        CubsError: `split` is none.
    """

    def __init__(self, root: str | Path, split: str, *, limit_classes: int = 0):
        root, troubles = Path(root), []
        _check_split(split)
        wnids = annotations.wnids(root / "wnids.txt", troubles)
        words = annotations.words(root / "words.txt", troubles)
        train, ignored = _train_images(root, wnids, troubles)
        rows = annotations.val_rows(root / "val" / "val_annotations.txt", wnids, troubles)
        ignored += annotations.folder(root / "val" / "images", list(rows), troubles)
        annotations.refuse(troubles)
        per_class = np.array([len(images) for images in train])
        if split == "test":
            files, labels = [f"val/images/{name}" for name in rows], np.array([*rows.values()])
            chosen = np.arange(len(files))
        else:
            files = [file for images in train for file in images]
            labels = np.repeat(np.arange(len(wnids)), per_class)
            place = np.concatenate([np.arange(count) for count in per_class])
            chosen = np.flatnonzero((place % 10 == 9) == (split == "val"))
        official = class_digest(wnids) == TINY_IMAGENET_CLASSES
        whole = (per_class == 500).all() and np.bincount([*rows.values()]).tolist() == [50] * 200
        total = int(per_class.sum()) + len(rows)
        super().__init__(
            root,
            "test" if split == "test" else "train",
            files,
            labels,
            [words.get(wnid, wnid).split(",")[0] for wnid in wnids],
            chosen[labels[chosen] < (limit_classes or len(wnids))],
            size=64,
            title="Tiny ImageNet" if official else _own(len(wnids)),
            protocol=_protocol(official, whole, total, TINY_IMAGENET_TOTAL, ignored),
        )


class Cars196(PackedImages):
    """Cars196 (Krause et al. 2013) under its zero-shot protocol, in the official layout.

    The official halves `cars_train` and `cars_test` are merged. The first half of the classes is
    `train`, less `val_classes` of them, evenly spaced, which are `val`; the second half is `test`.

    Args:
        root: the folder `cars196`.
        split: `train`, `val` or `test`.
        size: pixels a side; images are squeezed to a square.
        crop: cut each image to its annotated box first.
        val_classes: how many training classes are held back as `val`.
        limit_classes: the first n classes of each half only; 0 for all.

    Attributes:
        annotated: the boxes (N, 4) of all N files, left, upper, right, lower; None without any.

    Raises:
        UnsoundData: a file is missing, or a row of a table is not as it must be.
        CubsError: `split` is none, or `crop` is asked for where no box is annotated.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        size: int = 128,
        crop: bool = False,
        val_classes: int = 0,
        limit_classes: int = 0,
    ):
        root, troubles = Path(root), []
        _check_split(split)
        names = annotations.class_names(root / "devkit/cars_meta.mat", troubles)
        files, labels, corners, ignored = _cars(root, len(names), troubles)
        annotations.refuse(troubles)
        boxes = None if corners is None else corners - [1, 1, 0, 0]  # → Pillow's half-open box
        if crop and boxes is None:
            raise CubsError(f"crop is True, but {root} has no boxes annotated: leave it False.")
        half = len(names) // 2
        classes = _zero_shot(split, half, limit_classes, val_classes)
        official = class_digest(names) == CARS196_CLASSES
        whole = (len(files), (labels < half).sum()) == (CARS196_TOTAL, CARS196_TRAIN)
        protocol = _protocol(official, whole, len(files), CARS196_TOTAL, ignored)
        if boxes is not None and _spans_every_image(root, files, boxes):
            protocol += ", cropped copy"
        super().__init__(
            root,
            "crop" if crop else "full",
            files,
            labels,
            names,
            np.flatnonzero(np.isin(labels, classes)),
            size=size,
            boxes=boxes if crop else None,
            title="Cars196" if official else _own(len(names)),
            protocol=protocol,
        )
        self.annotated = boxes


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise CubsError(f"split is {split!r}; it is one of {', '.join(SPLITS)}.")


def _own(num_classes: int) -> str:
    return f"images of {num_classes} classes of one's own"


def _protocol(official: bool, whole: bool, found: int, total: int, ignored: int) -> str:
    """Say how images at hand stand to the official ones; `whole` is whether the counts agree."""
    if official and whole:
        text = "complete"
    elif official and found < total:
        text = f"subset: {found:,} of {total:,}"
    else:
        text = f"{found:,} images, not the official {total:,}"
    return text + (f", {ignored:,} files without labels" if ignored else "")


def _train_images(root: Path, wnids: list[str], troubles: list[str]) -> tuple[list[list[str]], int]:
    """Names of each class's training images by their numbers; how many other files lie there."""
    found, ignored = [], 0
    for wnid in wnids:
        folder = f"train/{wnid}/images"
        here = annotations.files(root / folder, troubles)
        names = sorted(
            (name for name in here if name.endswith(".JPEG")), key=lambda name: (len(name), name)
        )
        if not names:
            troubles.append(f"{root / folder} holds no images: unpack the whole data set there.")
        found.append([f"{folder}/{name}" for name in names])
        ignored += len(here) - len(names)
    train = root / "train"
    others = set(os.listdir(train) if wnids and train.is_dir() else ()) - set(wnids)
    for name in sorted(others):
        if (train / name).is_dir() and not name.startswith("."):
            troubles.append(f"{train / name} is no class of wnids.txt: list it or take it away.")
    return found, ignored


def _zero_shot(split: str, half: int, limit_classes: int, val_classes: int) -> np.ndarray:
    """The labels of a split of 2 × `half` classes."""
    count = min(limit_classes or half, half)
    if split == "test":
        return np.arange(count) + half
    held_back = (np.arange(val_classes) + 1) * count // max(val_classes, 1) - 1
    return np.flatnonzero(np.isin(np.arange(count), held_back) == (split == "val"))


def _cars(root: Path, num_classes: int, troubles: list[str]) -> tuple:
    """Files, labels and corners of both official halves; how many files have no label."""
    parts, ignored = [], 0
    for folder, table in (
        ("cars_train", "devkit/cars_train_annos.mat"),
        ("cars_test", "cars_test_annos_withlabels.mat"),
    ):
        names, labels, corners = annotations.car_rows(root / table, num_classes, troubles)
        ignored += annotations.folder(root / folder, names, troubles)
        parts.append(([f"{folder}/{name}" for name in names], labels, corners))
    files, labels, corners = zip(*parts, strict=True)
    if not (any(files) or troubles):
        troubles.append(f"{root} has no image with a label: unpack the whole data set there.")
    boxed = all(part is not None for part in corners)
    return (
        sum(files, []),
        np.concatenate(labels),
        np.concatenate(corners) if boxed else None,
        ignored,
    )


def _spans_every_image(root: Path, files: list[str], boxes: np.ndarray) -> bool:
    """Whether the boxes cover all images: then these are cut already (read only if likely)."""
    if not len(files) or (boxes[:, :2] > 0).any():
        return False
    return all(
        image_size(root / file) == (box[2], box[3]) for file, box in zip(files, boxes, strict=True)
    )
