"""A folder on disk → images and labels: Tiny ImageNet and Cars196 in their official layouts.

Opening a data set lists and checks its files without reading an image. Splits follow the
assignment and depend on nothing but the files: no seed enters them.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from cubslib import CubsError
from cubslib.packed import PackedImages

SPLITS = ("train", "val", "test")
TINY_IMAGENET_TOTAL = 110_000  # 100,000 train and 10,000 val; the official test has no labels
CARS196_TOTAL = 16_185


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
        CubsError: a file or folder that should be there is missing, or `split` is none.
    """

    def __init__(self, root: str | Path, split: str, *, limit_classes: int = 0):
        root = Path(root)
        _check_split(split)
        wnids = sorted(_lines(root / "wnids.txt"))
        train = [_class_images(root, wnid) for wnid in wnids]
        test = _annotated_images(root, wnids)
        if split == "test":
            files, labels = list(test), np.array(list(test.values()))
            rows = np.arange(len(files))
        else:
            files = [file for images in train for file in images]
            labels = np.repeat(np.arange(len(wnids)), [len(images) for images in train])
            place = np.concatenate([np.arange(len(images)) for images in train])
            rows = np.flatnonzero((place % 10 == 9) == (split == "val"))
        rows = rows[labels[rows] < (limit_classes or len(wnids))]
        total = sum(map(len, train)) + len(test)
        words = dict(line.partition("\t")[::2] for line in _lines(root / "words.txt"))
        super().__init__(
            root,
            "test" if split == "test" else "train",
            files,
            labels,
            [words.get(wnid, wnid).split(",")[0] for wnid in wnids],
            rows,
            size=64,
            protocol=_protocol(total, TINY_IMAGENET_TOTAL),
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

    Raises:
        CubsError: a file that should be there is missing, or `split` is none.
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
        root = Path(root)
        _check_split(split)
        names = _mat(root, "devkit/cars_meta.mat", "class_names")
        train = _mat(root, "devkit/cars_train_annos.mat", "annotations")
        test = _mat(root, "cars_test_annos_withlabels.mat", "annotations")
        files = _checked(root, "cars_train", train) + _checked(root, "cars_test", test)
        rows = np.concatenate([train, test])
        labels = rows["class"].astype(np.int64) - 1  # official labels run from 1
        corners = np.stack([rows[f"bbox_{side}"].astype(np.int64) for side in _CORNERS], axis=1)
        boxes = corners - [1, 1, 0, 0]  # 1-based, both ends within → Pillow's half-open box
        half = len(names) // 2
        count = min(limit_classes or half, half)
        classes = np.arange(count) + (half if split == "test" else 0)
        if split != "test":
            held_back = (np.arange(val_classes) + 1) * count // max(val_classes, 1) - 1
            classes = classes[np.isin(classes, held_back) == (split == "val")]
        protocol = _protocol(len(files), CARS196_TOTAL)
        if _spans_every_image(root, files, boxes):
            protocol += ", cropped copy"
        super().__init__(
            root,
            "crop" if crop else "full",
            files,
            labels,
            [str(name) for name in names],
            np.flatnonzero(np.isin(labels, classes)),
            size=size,
            boxes=boxes if crop else None,
            protocol=protocol,
        )


_CORNERS = ("x1", "y1", "x2", "y2")


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise CubsError(f"split is {split!r}; it is one of {', '.join(SPLITS)}.")


def _protocol(found: int, total: int) -> str:
    return "complete" if found == total else f"subset: {found:,} of {total:,}"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        raise CubsError(f"{path} is missing: unpack the whole data set there.") from None


def _class_images(root: Path, wnid: str) -> list[str]:
    """Names of a class's training images, in the order of their numbers."""
    folder = f"train/{wnid}/images"
    try:
        names = [name for name in os.listdir(root / folder) if name.endswith(".JPEG")]
    except FileNotFoundError:
        names = []
    if not names:
        raise CubsError(f"{root / folder} holds no images: unpack the whole data set there.")
    return [f"{folder}/{name}" for name in sorted(names, key=lambda name: (len(name), name))]


def _annotated_images(root: Path, wnids: list[str]) -> dict[str, int]:
    """The official val images with their labels; every row must have its file."""
    path = root / "val" / "val_annotations.txt"
    number = {wnid: label for label, wnid in enumerate(wnids)}
    try:
        rows = [line.split("\t") for line in _lines(path)]
        labels = {file: number[wnid] for file, wnid, *_ in rows}
    except (KeyError, ValueError):
        raise CubsError(f"{path} has a row without file and known wnid: fetch it again.") from None
    _require(root / "val" / "images", list(labels))
    return {f"val/images/{file}": label for file, label in labels.items()}


def _mat(root: Path, name: str, field: str) -> np.ndarray:
    try:
        return np.atleast_1d(loadmat(root / name, squeeze_me=True)[field])
    except FileNotFoundError:
        raise CubsError(f"{root / name} is missing: unpack the whole data set there.") from None
    except Exception as error:  # a damaged file leads SciPy to raise almost anything
        raise CubsError(
            f"{root / name} is not the official file with {field}: fetch it again."
        ) from error


def _checked(root: Path, folder: str, rows: np.ndarray) -> list[str]:
    _require(root / folder, [str(name) for name in rows["fname"]])
    return [f"{folder}/{name}" for name in rows["fname"]]


def _require(folder: Path, names: list[str]) -> None:
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [name for name in names if name not in there]
    if missing:
        raise CubsError(
            f"{folder} lacks {len(missing):,} of {len(names):,} annotated images, "
            f"{missing[0]} first: unpack the whole data set there."
        )


def _spans_every_image(root: Path, files: list[str], boxes: np.ndarray) -> bool:
    """Whether the boxes cover all images: then these are cut already (read only if likely)."""
    if (boxes[:, :2] > 0).any():
        return False
    for file, box in zip(files, boxes, strict=True):
        try:
            with Image.open(root / file) as image:
                if image.size != (box[2], box[3]):
                    return False
        except OSError:
            raise CubsError(f"{root / file} is no image: unpack the whole set there.") from None
    return True
