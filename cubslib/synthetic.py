"""Draws the two small data sets that need no download, in the layouts of the official ones.

A picture is a list of faces, painted in order: a colour, (r, g, b) or (r, g, b, alpha) in 0-255,
and a polygon. Cars are solid: metres, x forward, y away from us, z up. The body's geometry alone
makes a class; paint, view, light and place are drawn anew for every picture.

N: corners of a polygon
"""

from collections.abc import Callable
from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
import scipy.io
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw

from cubslib import disk

Colour = tuple[int, ...]
Faces = list[tuple[Colour, np.ndarray]]
Box = tuple[int, ...]

BODY = {  # what a class of cars is: the range of each measure, spread evenly over the classes
    "wheelbase": (2.1, 3.3),  # axle to axle, m
    "front": (0.6, 0.95),  # from the front axle to the bumper, m
    "rear": (0.55, 1.2),  # from the rear axle to the bumper, m
    "hood": (0.12, 0.38),  # share of the length
    "trunk": (0.0, 0.34),  # share of the length
    "side": (0.48, 0.8),  # from the underside to the windows, m
    "cabin": (0.38, 0.8),  # from the windows' foot to the roof, m
    "screen": (0.3, 1.5),  # the windscreen's slope, m back per m up
    "back": (0.05, 1.6),  # the rear window's slope, m forward per m up
    "nose": (0.0, 0.3),  # how far the hood falls to the front, share of `side`
    "tail": (0.0, 0.2),  # how far the trunk falls to the rear, share of `side`
    "ride": (0.16, 0.4),  # clearance, m
    "wheel": (0.33, 0.43),  # radius, share of the windows' height above the ground
    "windows": (1.0, 3.99),  # on a side, rounded down
}
MAKES = ("Averro", "Belmora", "Cardel", "Dorsino", "Elvaro", "Fennick", "Galdor", "Hexley")
WIDTH = 1.7  # of every car, m
THINGS = {  # faces from back to front: colour, shape, its numbers (y down); a and b are any colours
    "ball": "a disc 0 0 1 1, b arc 0 0 1 1 0 60, b arc 0 0 1 1 120 180, b arc 0 0 1 1 240 300,"
    "pale disc 0 0 .2 .2",
    "box": "a poly -1 -.3 0 .1 0 1.1 -1 .6, b poly 0 .1 1 -.3 1 .6 0 1.1,"
    "pale poly -1 -.3 0 -.7 1 -.3 0 .1",
    "star": "a star 0 0 1 .42 5, b star 0 0 .5 .21 5",
    "cup": "a ring .7 0 .5, a poly -.8 -.8 .7 -.8 .5 .8 -.6 .8, b box -.7 -.25 .6 .1,"
    "dark disc -.05 -.8 .75 .18",
    "house": "a box -.8 -.1 .8 1, b poly -1.1 -.1 0 -1 1.1 -.1, dark box -.5 .3 -.05 1,"
    "pale box .2 .2 .6 .6",
    "tree": "dark box -.15 .6 .15 1.2, a poly -.9 .7 0 -.1 .9 .7, a poly -.7 .2 0 -.6 .7 .2,"
    "a poly -.5 -.3 0 -1.1 .5 -.3, b star 0 -1.1 .25 .1 5",
    "fish": "b poly -.6 0 -1.3 -.6 -1.1 0 -1.3 .6, b poly -.2 -.4 .3 -.8 .4 -.3,"
    "a disc 0 0 .9 .5, pale disc .5 -.12 .14 .14, dark disc .53 -.12 .07 .07",
    "key": "a ring -.8 0 .5, a box -.35 -.1 1.2 .1, a box .6 0 .75 .45, a box .95 0 1.1 .35",
    "umbrella": "dark box -.05 -.1 .05 1, dark box -.3 .9 .05 1, a arc 0 0 1 1 0 180,"
    "b arc 0 0 .45 1 0 180",
    "flower": "dark box -.07 0 .07 1.9, dark disc .35 1.3 .35 .14, a disc 0 -.6 .4 .4,"
    "a disc .57 -.19 .4 .4, a disc .35 .49 .4 .4, a disc -.35 .49 .4 .4, a disc -.57 -.19 .4 .4,"
    "b disc 0 0 .38 .38",
}
DARK, PALE, RED = (38, 38, 46), (246, 242, 230), (190, 30, 30)
SHARP = 3  # pictures are drawn this many times larger, then reduced: smooth edges
GRAY = 0.04  # share of pictures stored as grayscale JPEG, as some of the official ones are


def draw_cars196(root: Path, seed: int = 0, *, num_classes: int = 32, per_class: int = 30) -> None:
    """Draw cars into `root`, laid out like Cars196; a `root` already there is left as it is.

    Every other image of a class lies under `cars_test`. The folder appears whole or not at all,
    and is the same to the byte for the same arguments.

    Args:
        root: the set's own folder.
        seed: 0 or more.
        num_classes: 4 to 99; the first half and the second are spread alike.
        per_class: images a class, 2 or more.

    Raises:
        CubsError: the folder of `root` cannot be written.
    """
    bodies = _bodies(default_rng(seed), num_classes)

    def write(folder: Path) -> None:
        names = [_name(body, label) for label, body in enumerate(bodies, 1)]
        _save_mat(folder / "devkit/cars_meta.mat", class_names=np.array(names, object))
        for half, part in enumerate(("cars_train", "cars_test")):
            keys = [(label, i) for label in range(num_classes) for i in range(half, per_class, 2)]
            rows = []
            for number, (label, i) in enumerate(default_rng([seed, half]).permutation(keys), 1):
                image, box = _street(bodies[label], default_rng([seed, label, i]))
                _save(image, folder / part / f"{number:05}.jpg")
                rows.append((*np.uint8([*box, label + 1]), f"{number:05}.jpg"))
            columns = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
            table = np.array(rows, [(column, object) for column in columns])
            file = ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")[half]
            _save_mat(folder / file, annotations=table)

    _draw_once(root, write)


def draw_tiny_imagenet(
    root: Path, seed: int = 0, *, num_classes: int = 10, per_class: int = 60
) -> None:
    """Draw things into `root`, laid out like Tiny ImageNet; a `root` already there is left as is.

    Images are 64 x 64; `val` has a quarter of `per_class`. The folder appears whole or not at all,
    and is the same to the byte for the same arguments.

    Args:
        root: the set's own folder.
        seed: 0 or more.
        num_classes: 2 to 10.
        per_class: training images a class, 4 or more.

    Raises:
        CubsError: the folder of `root` cannot be written.
    """
    things = dict(list(THINGS.items())[:num_classes])
    wnids = [f"n{90000000 + 137 * label}" for label in range(num_classes)]

    def draw(images: Path, label: int, name: str, *key: int) -> Box:
        image, box = _still_life([*things.values()][label], default_rng([seed, *key]))
        _save(image, images / name)
        return box

    def write(folder: Path) -> None:
        for label, wnid in enumerate(wnids):
            names = [f"{wnid}_{i}.JPEG" for i in range(per_class)]
            images = folder / "train" / wnid / "images"
            rows = [(name, *draw(images, label, name, label, i)) for i, name in enumerate(names)]
            _save_rows(folder / "train" / wnid / f"{wnid}_boxes.txt", rows)
        labels = default_rng(seed).permutation(np.repeat(range(num_classes), per_class // 4))
        rows = [(f"val_{i}.JPEG", wnids[label]) for i, label in enumerate(labels)]
        for i, label in enumerate(labels):
            rows[i] += draw(folder / "val/images", label, rows[i][0], num_classes, i)
        _save_rows(folder / "val/val_annotations.txt", rows)
        _save_rows(folder / "wnids.txt", [(w,) for w in wnids[1::2] + wnids[::2]])
        _save_rows(folder / "words.txt", list(zip(wnids, things, strict=True)))

    _draw_once(root, write)


def _draw_once(root: Path, write: Callable[[Path], None]) -> None:
    with disk.lock(root.with_name(f".{root.name}.lock")):
        if not root.exists():
            with disk.whole(root) as folder:
                write(folder)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=90)


def _save_rows(path: Path, rows: list[tuple]) -> None:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def _save_mat(path: Path, **content: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content)
    with open(path, "rb+") as file:  # over the date, which no two drawings would share
        file.write(b"MATLAB 5.0 MAT-file, drawn by cubslib.synthetic".ljust(116))


def _bodies(rng: Generator, count: int) -> list[dict[str, float]]:
    """Return `count` bodies: in each half every measure takes evenly spaced values, well mixed."""
    low, high = np.array(list(BODY.values())).T

    def mixed(size: int) -> np.ndarray:  # (size, measures) in 0-1, a Latin hypercube
        return np.array([(rng.permutation(size) + 0.5) / size for _ in BODY]).T

    def nearest(points: np.ndarray) -> float:
        distances = np.linalg.norm(points[:, None] - points, axis=-1)
        return np.sort(distances, axis=1)[:, 1].min()

    halves = (count // 2, count - count // 2)
    cubes = [max((mixed(size) for _ in range(300)), key=nearest) for size in halves]
    rows = low + np.concatenate(cubes) * (high - low)
    return [dict(zip(BODY, row, strict=True)) for row in rows]


def _name(body: dict[str, float], label: int) -> str:
    """Name the body of class `label` (from 1) as a catalogue would: "Belmora Sedan 01"."""
    if body["trunk"] < 0.1:
        kind = "Van" if body["hood"] < 0.2 else "SUV" if body["ride"] > 0.28 else "Wagon"
    elif body["windows"] < 2:
        kind = "Pickup" if body["cabin"] > 0.6 else "Coupe"
    else:
        kind = "Hatch" if body["wheelbase"] < 2.6 else "Sedan"
    return f"{MAKES[label % len(MAKES)]} {kind} {label:02}"


def _street(body: dict[str, float], rng: Generator) -> tuple[Image.Image, Box]:
    """Return a picture of a car with this body in some place; its box counts pixels from 1."""
    size = rng.integers((112, 88), (137, 105))
    car, box = _set_down(_seen(_car(body, rng), rng), size, size * (0.92, 0.8), rng)
    return _picture(_place(*size, rng) + car, size, rng), tuple(edge + 1 for edge in box)


def _still_life(thing: str, rng: Generator) -> tuple[Image.Image, Box]:
    """Return a 64 x 64 picture of one of `THINGS`; its box counts pixels from 0."""
    size, (hue, wall, table) = np.array([64, 64]), rng.uniform(size=3)
    a = _hsv(hue, rng.uniform(0.5, 0.9), rng.uniform(0.6, 0.95))
    b = _hsv(hue + rng.uniform(0.2, 0.8), rng.uniform(0.4, 0.8), rng.uniform(0.5, 0.95))
    colours = {"a": a, "b": b, "dark": DARK, "pale": PALE}
    shapes = {"disc": _arc, "arc": _arc, "ring": _ring, "star": _star, "box": _box, "poly": _poly}
    faces, turn = [], _turn(rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.2), rng)
    for face in thing.split(","):
        colour, shape, *numbers = face.split()
        faces.append((colours[colour], shapes[shape](*map(float, numbers)) @ turn))
    faces, box = _set_down(faces, size, size * 0.9, rng)
    scene = _wash(_hsv(wall, 0.15, 0.95), _hsv(wall, 0.4, 0.75), 0, 64, 64)
    for x, y in rng.uniform(0, 64, (4, 2)):
        scene.append((_hsv(rng.uniform(), 0.3, 0.85), _arc(x, y, 9, 9)))
    scene.append((_hsv(table, 0.35, rng.uniform(0.4, 0.8)), _box(0, rng.uniform(36, 60), 64, 64)))
    return _picture(scene + faces, size, rng), box


def _set_down(
    faces: Faces, size: np.ndarray, room: np.ndarray, rng: Generator
) -> tuple[Faces, Box]:
    """Return the faces at 60-100 % of `room`, laid low in a picture of `size`, and their box."""
    corners = np.concatenate([points for _, points in faces])
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    scale = min(room / extent) * rng.uniform(0.6, 1)
    origin = 2 + (size - 4 - scale * extent) * (rng.uniform(), rng.uniform(0.4, 1))
    box = (*np.floor(origin), *np.ceil(origin + scale * extent) - 1)
    return [(c, (points - low) * scale + origin) for c, points in faces], tuple(map(int, box))


def _picture(faces: Faces, size: np.ndarray, rng: Generator) -> Image.Image:
    """Paint the faces on a picture of `size` (width, height) and let light fall on it."""
    image = Image.new("RGB", tuple(map(int, size * SHARP)))
    draw = ImageDraw.Draw(image, "RGBA")
    for colour, points in faces:
        draw.polygon((points * SHARP).ravel().tolist(), colour)
    x, y = (np.linspace(-1, 1, n) * rng.uniform(-0.25, 0.25) for n in size)
    light = rng.uniform(0.7, 1.15) + x + y[:, None]
    pixels = np.asarray(image.reduce(SHARP)) * light[..., None]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.convert("L") if rng.uniform() < GRAY else image


def _outline(b: dict[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a body's side view, clockwise in (x, z): hull (8, 2), cabin (4, 2), axles (2, 2)."""
    length, sill = b["rear"] + b["wheelbase"] + b["front"], b["ride"] + b["side"]
    bumper, rear = b["ride"] + 0.15, sill - b["tail"] * b["side"]
    front = sill - b["nose"] * b["side"]
    foot = np.array([b["trunk"] * length + 0.03, (1 - b["hood"]) * length])
    slopes = np.array([b["back"], b["screen"]]) * b["cabin"]
    slopes *= min(1, (foot[1] - foot[0] - 0.8) / slopes.sum())  # leave 0.8 m of roof
    roof, top = foot + slopes * (1, -1), sill + b["cabin"]
    hull = [(0.12, b["ride"]), (0, bumper), (0.02, rear), (foot[0], sill), (foot[1], sill)]
    hull += [(length - 0.08, front), (length, bumper), (length - 0.12, b["ride"])]
    cabin = [(foot[0], sill), (roof[0], top), (roof[1], top), (foot[1], sill)]
    axles = [(b["rear"], b["wheel"] * sill), (length - b["front"], b["wheel"] * sill)]
    return np.array(hull), np.array(cabin), np.array(axles)


def _car(b: dict[str, float], rng: Generator) -> Faces:
    """Return a car with the body `b`: faces with corners (N, 3), clockwise seen from outside."""
    hull, cabin, axles = _outline(b)
    (low, sill), length = hull[[0, 3], 1], hull[6, 0]
    paint = _hsv(rng.uniform(), rng.choice([0.05, 0.5, 0.8]), rng.uniform(0.4, 0.95))
    glass = _hsv(rng.uniform(0.5, 0.65), rng.uniform(0.15, 0.4), rng.uniform(0.3, 0.75))
    glow = rng.uniform(-0.25, 0.25)  # more light on the front, or on the rear

    def solid(points: np.ndarray, far: float = 0) -> np.ndarray:  # (N, 2) -> (N, 3)
        tuck = 0.3 * np.maximum(points[:, 1] - sill, 0)  # cabins narrow towards the roof
        return np.stack([points[:, 0], tuck + far * (WIDTH - 2 * tuck), points[:, 1]], axis=1)

    def across(profile: np.ndarray) -> np.ndarray:  # (N, 2) -> (N, 4, 3): strips over the width
        ends = solid(profile), solid(profile, 1)
        return np.stack([*(np.roll(end, 1, 0) for end in ends), *ends[::-1]], axis=1)

    def shell(profile: np.ndarray) -> Faces:
        run, rise = (profile - np.roll(profile, 1, 0)).T
        light = 0.75 + (0.3 * run.clip(0) - glow * rise) / np.hypot(run, rise)
        strips = [(_shade(paint, n), quad) for n, quad in zip(light, across(profile), strict=True)]
        return [*strips, (_shade(paint, 0.85), solid(profile))]

    shadow = _rounded(_box(-0.1, -0.1, length + 0.1, WIDTH + 0.1), 0.5)
    faces = [((20, 20, 30, 110), np.insert(shadow, 2, 0, axis=1))]
    faces += [(DARK, solid(_arc(x, r, r, r), y)) for y in (1, 0.85, 0.12) for x, r in axles]
    faces += shell(_rounded(hull, 0.16))
    faces += [(c, solid(points)) for c, points in _flank(low, sill, cabin[1:3, 0].mean(), length)]
    for x, r in axles:
        for colour, share in ((DARK, 1.15), ((58, 58, 64), 1), ((176, 178, 186), 0.62), (DARK, 0.2)):
            faces.append((colour, solid(_arc(x, r, share * r, share * r))))
    front, rear = np.roll(across(hull)[6], 1, 0), np.roll(across(hull)[2], -1, 0)
    for end, colour in ((front, PALE), (rear, RED)):
        faces += [(DARK, _patch(end, 0.34, 0.45, 0.66, 0.8)), (PALE, _patch(end, 0.38, 0.05, 0.62, 0.3))]
        faces += [(colour, _patch(end, u, 0.5, u + 0.2, 0.85)) for u in (0.06, 0.74)]
    faces += shell(_rounded(cabin, 0.12))
    return faces
