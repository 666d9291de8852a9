"""Draws the two small data sets that need no download, in the layouts of the official ones.

A picture is a list of faces, painted in order: a colour, (r, g, b) or (r, g, b, alpha) in 0-255,
and a polygon. Cars are solid: metres, x forward, y away from us, z up. The body's geometry alone
makes a class; paint, view, light and place are drawn anew for every picture.

N: corners of a polygon
"""

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import scipy.io
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw

from cubslib import CubsError, disk

Faces = list[tuple[Sequence[float], np.ndarray]]
Boxed = tuple[Image.Image, tuple[int, ...]]  # a picture and its subject's first and last pixels

BODY = {  # what a class of cars is: the range of each measure, spread evenly over the classes
    "wheelbase": (2.0, 3.6),  # axle to axle, m
    "front": (0.6, 0.95),  # from the front axle to the bumper, m
    "rear": (0.55, 1.2),  # from the rear axle to the bumper, m
    "hood": (0.08, 0.40),  # share of the length
    "trunk": (0.0, 0.38),  # share of the length
    "side": (0.45, 0.85),  # from the underside to the windows, m
    "cabin": (0.35, 0.95),  # from the windows' foot to the roof, m
    "screen": (0.3, 1.5),  # the windscreen's slope, m back per m up
    "back": (0.05, 1.6),  # the rear window's slope, m forward per m up
    "nose": (0.0, 0.3),  # how far the hood falls to the front, share of `side`
    "tail": (0.0, 0.2),  # how far the trunk falls to the rear, share of `side`
    "ride": (0.14, 0.45),  # clearance, m
    "wheel": (0.28, 0.45),  # radius, share of the windows' height above the ground
    "rim": (0.35, 0.8),  # share of the wheel's radius
    "windows": (1.0, 3.99),  # on a side, rounded down
}
WIDTH = 1.7  # of every car, m
MAKES = ("Averro", "Belmora", "Cardel", "Dorsino", "Elvaro", "Fennick", "Galdor", "Hexley")
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
DARK, PALE, RED = (np.array(c) for c in ((38, 38, 46), (246, 242, 230), (190, 30, 30)))
SHARP = 3  # pictures are drawn this many times larger, then reduced: smooth edges
GRAY = 0.04  # share of pictures stored as grayscale JPEG, as some of the official ones are


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
    bodies = _bodies(default_rng(seed), num_classes)
    columns = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    with _new(root) as folder:
        names = [_name(body, label) for label, body in enumerate(bodies, 1)]
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


def _street(body: dict[str, float], rng: Generator) -> Boxed:
    """Return a picture of a car with this body in some place."""
    size = rng.integers(28, 35) * np.array([4, 3])
    return _picture(_place(*size, rng), _seen(_car(body, rng), rng), size, rng)


def _still_life(thing: str, rng: Generator) -> Boxed:
    """Return a 64 x 64 picture of one of `THINGS`."""
    hue, wall, table = rng.uniform(size=3)
    a = _hsv(hue, *rng.uniform((0.5, 0.6), (0.9, 0.95)))
    b = _hsv(hue + rng.uniform(0.2, 0.8), *rng.uniform((0.4, 0.5), (0.8, 0.95)))
    colours = {"a": a, "b": b, "dark": DARK, "pale": PALE}
    shapes = {"arc": _arc, "star": _star, "box": _box, "poly": lambda *n: np.reshape(n, (-1, 2))}
    faces, turn = [], _turn(rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.2), rng)
    for colour, shape, *numbers in map(str.split, thing.split(";")):
        faces.append((colours[colour], shapes[shape](*map(float, numbers)) @ turn))
    scene = _wash(_hsv(wall, 0.15, 0.95), _hsv(wall, 0.4, 0.75), 0, 64, 64)
    scene += [(_hsv(rng.uniform(), 0.3, 0.85), _arc(*rng.uniform(0, 64, 2), 9, 9)) for _ in "1234"]
    scene += [(_hsv(table, 0.35, rng.uniform(0.4, 0.8)), _box(0, rng.uniform(36, 60), 64, 64))]
    return _picture(scene, faces, np.array([64, 64]), rng)


def _picture(scene: Faces, subject: Faces, size: np.ndarray, rng: Generator) -> Boxed:
    """Set the subject, large or small, in a scene of `size` (width, height); light it, paint it."""
    corners = np.concatenate([p for colour, p in subject if len(colour) == 3])  # no shadow
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    scale = min((0.92, 0.8) * size / extent) * rng.uniform(0.7, 1)
    start = 2 + (size - 4 - scale * extent) * (rng.uniform(), rng.uniform(0.4, 1))
    box = (*np.floor(start), *np.ceil(start + scale * extent) - 1)

    image = Image.new("RGB", tuple(map(int, size * SHARP)))
    draws = {3: ImageDraw.Draw(image), 4: ImageDraw.Draw(image, "RGBA")}
    for colour, points in scene + [(c, (points - low) * scale + start) for c, points in subject]:
        fill = tuple(int(min(part, 255)) for part in colour)
        draws[len(fill)].polygon((points * SHARP).ravel().tolist(), fill)

    x, y = (np.linspace(-1, 1, n) * rng.uniform(-0.25, 0.25) for n in size)
    light = rng.uniform(0.8, 1.15) + x + y[:, None]
    pixels = (np.asarray(image.reduce(SHARP)) * light[..., None]).clip(0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    return image.convert("L") if rng.uniform() < GRAY else image, tuple(map(int, box))


def _outline(b: dict[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a body's side view, clockwise in (x, z): hull (8, 2), cabin (4, 2), axles (2, 2)."""
    length, sill = b["rear"] + b["wheelbase"] + b["front"], b["ride"] + b["side"]
    foot = np.array([b["trunk"] * length + 0.03, (1 - b["hood"]) * length])
    slopes = np.array([b["back"], b["screen"]]) * b["cabin"]
    slopes *= min(1, (foot[1] - foot[0] - 0.8) / slopes.sum())  # leave 0.8 m of roof
    roof, top = foot + slopes * (1, -1), sill + b["cabin"]
    low, bumper, wheel = b["ride"], b["ride"] + 0.15, b["wheel"] * sill
    rear, front = sill - b["tail"] * b["side"], sill - b["nose"] * b["side"]
    hull = [(0.12, low), (0, bumper), (0.02, rear), (foot[0], sill), (foot[1], sill)]
    hull += [(length - 0.08, front), (length, bumper), (length - 0.12, low)]
    cabin = [(foot[0], sill), (roof[0], top), (roof[1], top), (foot[1], sill)]
    axles = [(b["rear"], wheel), (length - b["front"], wheel)]
    return np.array(hull), np.array(cabin), np.array(axles)


def _car(b: dict[str, float], rng: Generator) -> Faces:
    """Return a car with the body `b`: faces with corners (N, 3), clockwise seen from outside."""
    hull, cabin, axles = _outline(b)
    sill = cabin[0, 1]
    paint = _hsv(rng.uniform(), rng.choice([0.05, 0.5, 0.8]), rng.uniform(0.4, 0.95))
    glass = _hsv(*rng.uniform((0.5, 0.15, 0.3), (0.65, 0.4, 0.75)))
    glow = rng.uniform(-0.25, 0.25)  # more light on the front, or on the rear
    faces = [((20, 20, 30, 110), np.insert(_box(0, 0, hull[6, 0], WIDTH), 2, 0, axis=1))]
    faces += [(DARK, _solid(_arc(x, r, r, r), sill, y)) for y in (1, 0.85, 0.12) for x, r in axles]
    faces += _shell(_rounded(hull, 0.16), sill, paint, glow)
    faces += [(colour, _solid(points, sill)) for colour, points in _flank(hull, axles, b["rim"])]
    for edge, turn, lamp in ((6, 1, PALE), (2, -1, RED)):  # the front, the rear
        end = np.roll(_across(hull, sill)[edge], turn, 0)
        faces += [(lamp, _patch(end, u, 0.5, u + 0.2, 0.85)) for u in (0.06, 0.74)]
        faces += [
            (DARK, _patch(end, 0.34, 0.45, 0.66, 0.8)),
            (PALE, _patch(end, 0.4, 0, 0.6, 0.25)),
        ]
    faces += _shell(_rounded(cabin, 0.12), sill, paint, glow)
    for edge, turn in ((3, 1), (1, -1)):  # the windscreen, the rear window
        pane = np.roll(_across(cabin, sill)[edge], turn, 0)
        faces.append((glass, _patch(pane, 0.08, 0.1, 0.92, 0.9)))
    wide = 0.9 / int(b["windows"])
    for u in np.arange(0.05, 0.94, wide):
        pane = _patch(cabin, u + 0.012, 0.08, u + wide - 0.012, 0.86)
        faces.append((glass, _solid(_rounded(pane, 0.06), sill)))
    return faces


def _flank(hull: np.ndarray, axles: np.ndarray, rim: float) -> Faces:
    """Return what is on a car's side below its windows, (x, z): door, lamps, wheels."""
    low, sill, length = hull[0, 1], hull[3, 1], hull[6, 0]
    seam = hull[3:5, 0].mean()
    faces = [((0, 0, 0, 70), _box(0.1, low, length - 0.1, low + 0.1))]
    faces += [((0, 0, 0, 90), _box(seam - 0.015, low + 0.1, seam + 0.015, sill))]
    faces += [((0, 0, 0, 120), _box(seam - 0.28, sill - 0.18, seam - 0.1, sill - 0.13))]
    faces += [(PALE, _arc(length - 0.13, hull[5, 1] - 0.15, 0.07, 0.07))]
    faces += [(RED, _arc(0.1, hull[2, 1] - 0.15, 0.06, 0.06))]
    rings = ((DARK, 1.12), (1.6 * DARK, 1), (0.72 * PALE, rim), (2 * DARK, 0.2))
    return faces + [(c, _arc(x, r, k * r, k * r)) for x, r in axles for c, k in rings]


def _solid(points: np.ndarray, sill: float, far: float = 0) -> np.ndarray:
    """Give points of the side view, (N, 2), their place across the car, (N, 3); `far` in 0-1."""
    tuck = 0.3 * np.maximum(points[:, 1] - sill, 0)  # above its sill a car narrows
    return np.stack([points[:, 0], tuck + far * (WIDTH - 2 * tuck), points[:, 1]], axis=1)


def _across(profile: np.ndarray, sill: float) -> np.ndarray:
    """Return the strip over the car's width that ends in each corner: (N, 2) to (N, 4, 3)."""
    near, far = _solid(profile, sill), _solid(profile, sill, 1)
    return np.stack([np.roll(near, 1, 0), np.roll(far, 1, 0), far, near], axis=1)


def _shell(profile: np.ndarray, sill: float, paint: np.ndarray, glow: float) -> Faces:
    run, rise = (profile - np.roll(profile, 1, 0)).T
    light = 0.75 + (0.3 * run.clip(0) - glow * rise) / np.hypot(run, rise)
    strips = zip(paint * light[:, None], _across(profile, sill), strict=True)
    return [*strips, (0.85 * paint, _solid(profile, sill))]


def _seen(faces: Faces, rng: Generator) -> Faces:
    """Return the faces that are turned to one of many viewpoints, as seen, (N, 2), y down."""
    x, y, z = np.concatenate([points for _, points in faces]).T - [[2], [WIDTH / 2], [0.6]]
    around, above = rng.uniform((-0.45, 0.1), (0.45, 0.25))  # radians
    x, y = x * np.cos(around) + y * np.sin(around), y * np.cos(around) - x * np.sin(around)
    down, depth = -z * np.cos(above) - y * np.sin(above), y * np.cos(above) - z * np.sin(above)
    flat = np.stack([x, down], axis=1) / (1 + depth / 14)[:, None]  # from 14 m away
    turn, seen = _turn(*rng.normal(0, 0.04, 2), rng), []
    for colour, points in faces:
        corners, flat = flat[: len(points)], flat[len(points) :]
        x, y = corners.T
        if x @ np.roll(y, -1) > y @ np.roll(x, -1):  # clockwise
            seen.append((colour, corners @ turn))
    return seen


def _place(width: int, height: int, rng: Generator) -> Faces:
    """Return a town, a countryside, a coast or a plain, with a road in front."""
    horizon, road = height * rng.uniform((0.35, 0.6), (0.55, 0.75))
    sky, land = rng.choice([0.04, 0.1, 0.5, 0.56, 0.6]), rng.uniform(0.08, 0.4)
    ground, tar = _hsv(land, 0.3, rng.uniform(0.5, 0.8)), _hsv(land, 0.08, rng.uniform(0.35, 0.65))
    faces = _wash(_hsv(sky, 0.5, 0.9), _hsv(0.12, 0.15, 1), 0, horizon, width)
    faces += [(_hsv(0.12, 0.15, 1), _arc(*rng.uniform(0, (width, horizon)), 7, 7))]
    place = rng.choice(["town", "country", "coast", "plain"])
    if place == "town":
        for x in np.arange(7) * width / 7:
            wall, top = (
                _hsv(*rng.uniform((0, 0, 0.5), (1, 0.3, 0.85))),
                horizon * rng.uniform(0.1, 0.7),
            )
            faces += [(wall, _box(x, top, x + width / 7, horizon))]
            panes = [(x + u, v) for u in (3, 10) for v in np.arange(top + 4, horizon - 4, 7)]
            faces += [(0.65 * wall, _box(u, v, u + 4, v + 4)) for u, v in panes]
    elif place == "country":
        for x, tall, shade in rng.uniform((0, 6, 0.7), (width, 24, 1), (3, 3)):
            faces += [(shade * ground, _arc(x, horizon, width / 3, tall))]
        for x, tall, hue in rng.uniform((0, 6, 0.2), (width, 11, 0.4), (5, 3)):
            faces += [((96, 72, 56), _box(x - 1, horizon - 4, x + 1, horizon))]
            faces += [(_hsv(hue, 0.5, 0.5), _arc(x, horizon - 3 - tall, 6, tall))]
    elif place == "coast":
        sea = _hsv(rng.uniform(0.48, 0.6), 0.5, 0.7)
        faces += [(sea, _box(0, horizon - rng.uniform(4, 14), width, horizon))]
    faces += _wash(ground, 0.85 * ground, horizon, road, width) + _wash(
        tar, 0.8 * tar, road, height, width
    )
    return [*faces, (1.4 * tar, _box(0, road, width, road + 1.5))]


def _arc(
    x: float, y: float, wide: float, tall: float, start: float = 0, stop: float = 360
) -> np.ndarray:
    """Return an ellipse, or the part of it between two angles in degrees and its centre."""
    t = np.radians(np.linspace(start, stop, 28))
    rim = np.stack([x + wide * np.cos(t), y - tall * np.sin(t)], axis=1)
    return rim if stop - start == 360 else np.insert(rim, 0, (x, y), axis=0)


def _star(x: float, y: float, outer: float, inner: float, points: float) -> np.ndarray:
    t = np.pi * np.arange(2 * points) / points
    radius = np.resize([outer, inner], len(t))
    return np.stack([x + radius * np.sin(t), y - radius * np.cos(t)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)], float)


def _patch(quad: np.ndarray, u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    """Return the part of a quad from u0 to u1 along its foot and from v0 to v1 up, all in 0-1."""
    u, v = _box(u0, v0, u1, v1).T[:, :, None]
    foot, top = quad[0] + u * (quad[3] - quad[0]), quad[1] + u * (quad[2] - quad[1])
    return foot + v * (top - foot)


def _rounded(corners: np.ndarray, radius: float) -> np.ndarray:
    """Cut the corners, by at most `radius` of each edge, and cut again: (N, 2) to (4 N, 2)."""
    for cut in (radius, radius / 3):
        edges = np.roll(corners, -1, 0) - corners
        step = edges * np.minimum(0.4, cut / np.linalg.norm(edges, axis=1))[:, None]
        corners = np.stack([corners + step, corners + edges - step], axis=1).reshape(-1, 2)
    return corners


def _wash(top: np.ndarray, foot: np.ndarray, y0: float, y1: float, width: float) -> Faces:
    """Return bands over the picture's width that fade from one colour to the other."""
    tall = (y1 - y0) / 24
    bands = [_box(0, y0 + i * tall, width, y0 + (i + 1) * tall + 0.5) for i in range(24)]
    return list(zip(np.linspace(top, foot, 24), bands, strict=True))


def _turn(angle: float, shear: float, rng: Generator) -> np.ndarray:
    """Return a rotation and shear, half the time mirrored, for points as rows, (2, 2)."""
    rotation = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return np.array([[rng.choice([-1, 1]), 0], [shear, 1]]) @ rotation


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(hsv_to_rgb(hue % 1, saturation, value))
