"""Draws cars laid out like Cars196, and simple things laid out like Tiny ImageNet."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image

from cubslib import CubsError, disk
from cubslib.sample import cars, painting

THINGS = {  # faces from back to front: colour (a, b: any), shape, its numbers (x right, y down)
    "ball": "a arc 0 0 1 1; b arc 0 0 1 1 0 60; b arc 0 0 1 1 120 180; b arc 0 0 1 1 240 300",
    "box": "a box -1 -.3 0 1; pale poly -1 -.3 0 -.8 1 -.8 0 -.3; b poly 0 -.3 1 -.8 1 .5 0 1",
    "star": "a star 0 0 1 .42 5; b star 0 0 .5 .21 5",
    "cup": "a arc .7 0 .5 .5; pale arc .7 0 .3 .3; a poly -.8 -.8 .7 -.8 .5 .8 -.6 .8",
    "house": "a box -.8 -.1 .8 1; b poly -1.1 -.1 0 -1 1.1 -.1; dark box -.5 .3 -.05 1",
    "tree": "dark box -.15 .6 .15 1.2; a poly -.9 .7 0 -.2 .9 .7; a poly -.6 .1 0 -1 .6 .1",
    "fish": "b poly -.6 0 -1.3 -.6 -1.1 0 -1.3 .6; a arc 0 0 .9 .5; dark arc .53 -.12 .1 .1",
    "key": "a arc -.8 0 .5 .5; dark arc -.9 0 .25 .25; a box -.35 -.1 1.2 .1; a box .7 0 1 .4",
    "umbrella": "dark box -.05 -.1 .05 1; a arc 0 0 1 1 0 180; b arc 0 0 .45 1 0 180",
    "flower": "dark box -.07 0 .07 1.9; a star 0 0 1 .5 7; b arc 0 0 .4 .4",
}


def draw_cars196(root: Path, seed: int = 0, *, num_classes: int = 32, per_class: int = 30) -> None:
    """Draw cars into a new folder, laid out like Cars196.

    Every other image of a class lies under `cars_test`. The folder appears whole or not at all,
    and is the same to the byte for the same arguments.

    Args:
        root: the set's own folder, which must not exist yet.
        seed: 0 or more.
        num_classes: 4 to 99; the first half and the second are spread alike.
        per_class: images a class, 2 or more.

    Raises:
        CubsError: `root` exists, or cannot be written.
    """
    bodies = cars.bodies(default_rng(seed), num_classes)
    columns = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    with _new(root) as folder:
        names = [cars.name(body, label) for label, body in enumerate(bodies, 1)]
        _save_mat(folder / "devkit/cars_meta.mat", class_names=np.array(names, object))
        for half, part in enumerate(("cars_train", "cars_test")):
            keys = [(label, i) for label in range(num_classes) for i in range(half, per_class, 2)]
            rows = []
            for number, (label, i) in enumerate(default_rng([seed, half]).permutation(keys), 1):
                rng = default_rng([seed, label, i])
                size = rng.integers(28, 35) * np.array([4, 3])
                image, box = painting.picture(cars.car(bodies[label], rng), size, rng)
                _save_image(folder / part / f"{number:05}.jpg", image)
                rows.append((*np.uint8([*box, label]) + 1, f"{number:05}.jpg"))  # counted from 1
            file = ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")[half]
            table = np.array(rows, [(column, object) for column in columns])
            _save_mat(folder / file, annotations=table)


def draw_tiny_imagenet(
    root: Path, seed: int = 0, *, num_classes: int = 10, per_class: int = 60
) -> None:
    """Draw simple things into a new folder, laid out like Tiny ImageNet.

    Images are 64 x 64; `val` has a quarter of `per_class`. The folder appears whole or not at all,
    and is the same to the byte for the same arguments.

    Args:
        root: the set's own folder, which must not exist yet.
        seed: 0 or more.
        num_classes: 2 to 10.
        per_class: training images a class, 4 or more.

    Raises:
        CubsError: `root` exists, or cannot be written.
    """
    names = list(THINGS)[:num_classes]
    wnids = [f"n{90000000 + 137 * label}" for label in range(num_classes)]
    places = [(label, f"train/{w}/images/{w}") for label, w in enumerate(wnids)]
    train = [(label, f"{place}_{i}.JPEG") for label, place in places for i in range(per_class)]
    order = default_rng(seed).permutation(np.repeat(range(num_classes), per_class // 4))
    val = [(label, f"val/images/val_{i}.JPEG") for i, label in enumerate(order)]

    with _new(root) as folder:
        boxes = {}
        for number, (label, file) in enumerate(train + val):
            image, boxes[file] = _still_life(THINGS[names[label]], default_rng([seed, number]))
            _save_image(folder / file, image)
        for label, wnid in enumerate(wnids):
            rows = [(Path(file).name, *boxes[file]) for owner, file in train if owner == label]
            _save_rows(folder / f"train/{wnid}/{wnid}_boxes.txt", rows)
        rows = [(Path(file).name, wnids[label], *boxes[file]) for label, file in val]
        _save_rows(folder / "val/val_annotations.txt", rows)
        _save_rows(folder / "wnids.txt", [(wnid,) for wnid in wnids[1::2] + wnids[::2]])
        _save_rows(folder / "words.txt", list(zip(wnids, names, strict=True)))


def _new(root: Path) -> AbstractContextManager[Path]:
    if root.exists():
        raise CubsError(f"{root} is there already: move it away to draw it anew.")
    return disk.whole(root)


def _save_image(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=90)


def _save_rows(path: Path, rows: list[tuple]) -> None:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def _save_mat(path: Path, **content: np.ndarray) -> None:
    import scipy.io  # is slow to import, and most runs draw nothing

    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content, do_compression=True)
    with open(path, "rb+") as file:  # over the date, which no two drawings would share
        file.write(b"MATLAB 5.0 MAT-file, drawn by cubslib.sample".ljust(116))


def _still_life(thing: str, rng: Generator) -> painting.Boxed:
    """Return a 64 x 64 picture of one of `THINGS`."""
    colours = {c: painting.hsv(*rng.uniform((0, 0.4, 0.6), (1, 0.8, 0.95))) for c in "ab"}
    colours |= {"dark": painting.DARK, "pale": painting.PALE}
    faces, view = [], painting.turned(*rng.uniform((-0.5, -0.2), (0.5, 0.2)), rng)
    for colour, shape, *numbers in map(str.split, thing.split(";")):
        points = np.array(numbers, float)
        poly = points.reshape(-1, 2) if shape == "poly" else getattr(painting, shape)(*points)
        faces.append((colours[colour], poly @ view))
    return painting.picture(faces, np.array([64, 64]), rng)
