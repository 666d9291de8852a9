"""Draws the two small data sets that need no download, in the layouts of the official ones.

A class of cars is a body; paint, view, light and place are drawn anew for every picture.
"""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import scipy.io
from numpy.random import Generator, default_rng
from PIL import Image

from cubslib import CubsError, cars, disk
from cubslib.painting import (
    DARK,
    PALE,
    Boxed,
    arc,
    box,
    hsv,
    picture,
    place,
    star,
    turned,
    wash,
)

THINGS = {  # faces from back to front: colour (a, b: any), shape, its numbers (x right, y down)
    "ball": """a arc 0 0 1 1; b arc 0 0 1 1 0 60; b arc 0 0 1 1 120 180; b arc 0 0 1 1 240 300;
        pale arc 0 0 .2 .2""",
    "box": """a poly -1 -.3 0 .1 0 1.1 -1 .6; b poly 0 .1 1 -.3 1 .6 0 1.1;
        pale poly -1 -.3 0 -.7 1 -.3 0 .1""",
    "star": "a star 0 0 1 .42 5; b star 0 0 .5 .21 5",
    "cup": """a arc .7 0 .5 .5; pale arc .7 0 .3 .3; a poly -.8 -.8 .7 -.8 .5 .8 -.6 .8;
        b box -.7 -.25 .6 .1; dark arc -.05 -.8 .75 .18""",
    "house": """a box -.8 -.1 .8 1; b poly -1.1 -.1 0 -1 1.1 -.1; dark box -.5 .3 -.05 1;
        pale box .2 .2 .6 .6""",
    "tree": """dark box -.15 .6 .15 1.2; a poly -.9 .7 0 -.1 .9 .7; a poly -.7 .2 0 -.6 .7 .2;
        a poly -.5 -.3 0 -1.1 .5 -.3; b star 0 -1.1 .25 .1 5""",
    "fish": """b poly -.6 0 -1.3 -.6 -1.1 0 -1.3 .6; b poly -.2 -.4 .3 -.8 .4 -.3;
        a arc 0 0 .9 .5; pale arc .5 -.12 .14 .14; dark arc .53 -.12 .07 .07""",
    "key": """a arc -.8 0 .5 .5; dark arc -.9 0 .25 .25; a box -.35 -.1 1.2 .1;
        a box .6 0 .75 .45; a box .95 0 1.1 .35""",
    "umbrella": """dark box -.05 -.1 .05 1; dark box -.3 .9 .05 1; a arc 0 0 1 1 0 180;
        b arc 0 0 .45 1 0 180""",
    "flower": """dark box -.07 0 .07 1.9; dark arc .35 1.3 .35 .14; a arc 0 -.6 .4 .4;
        a arc .57 -.19 .4 .4; a arc .35 .49 .4 .4; a arc -.35 .49 .4 .4; a arc -.57 -.19 .4 .4;
        b arc 0 0 .38 .38""",
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
                image, box = _street(bodies[label], default_rng([seed, label, i]))
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
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content, do_compression=True)
    with open(path, "rb+") as file:  # over the date, which no two drawings would share
        file.write(b"MATLAB 5.0 MAT-file, drawn by cubslib.synthetic".ljust(116))


def _street(body: dict[str, float], rng: Generator) -> Boxed:
    """Return a picture of a car with this body in some place."""
    size = rng.integers(28, 35) * np.array([4, 3])
    return picture(place(*size, rng), cars.seen(cars.car(body, rng), rng), size, rng)


def _still_life(thing: str, rng: Generator) -> Boxed:
    """Return a 64 x 64 picture of one of `THINGS`."""
    hue, wall, table = rng.uniform(size=3)
    a = hsv(hue, *rng.uniform((0.5, 0.6), (0.9, 0.95)))
    b = hsv(hue + rng.uniform(0.2, 0.8), *rng.uniform((0.4, 0.5), (0.8, 0.95)))
    colours = {"a": a, "b": b, "dark": DARK, "pale": PALE}
    shapes = {"arc": arc, "star": star, "box": box, "poly": lambda *n: np.reshape(n, (-1, 2))}
    faces, turn = [], turned(rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.2), rng)
    for colour, shape, *numbers in map(str.split, thing.split(";")):
        faces.append((colours[colour], shapes[shape](*map(float, numbers)) @ turn))
    scene = wash(hsv(wall, 0.15, 0.95), hsv(wall, 0.4, 0.75), 0, 64, 64)
    scene += [(hsv(rng.uniform(), 0.3, 0.85), arc(*rng.uniform(0, 64, 2), 9, 9)) for _ in "1234"]
    scene += [(hsv(table, 0.35, rng.uniform(0.4, 0.8)), box(0, rng.uniform(36, 60), 64, 64))]
    return picture(scene, faces, np.array([64, 64]), rng)
