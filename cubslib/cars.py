"""Parametric cars: a body's measures → faces, and the faces as seen from a viewpoint.

Cars are solid: metres, x forward, y away from us, z up. The body's geometry alone makes a class.

N: corners of a polygon.
"""

import numpy as np
from numpy.random import Generator

from cubslib.painting import DARK, PALE, RED, Faces, arc, box, hsv, turned

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


def bodies(rng: Generator, count: int) -> list[dict[str, float]]:
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


def name(body: dict[str, float], label: int) -> str:
    """Name the body of class `label` (from 1) as a catalogue would: "Belmora Sedan 01"."""
    if body["trunk"] < 0.1:
        kind = "Van" if body["hood"] < 0.2 else "SUV" if body["ride"] > 0.28 else "Wagon"
    elif body["windows"] < 2:
        kind = "Pickup" if body["cabin"] > 0.6 else "Coupe"
    else:
        kind = "Hatch" if body["wheelbase"] < 2.6 else "Sedan"
    return f"{MAKES[label % len(MAKES)]} {kind} {label:02}"


def car(b: dict[str, float], rng: Generator) -> Faces:
    """Return a car with the body `b`: faces with corners (N, 3), clockwise seen from outside."""
    hull, cabin, axles = _outline(b)
    sill = cabin[0, 1]
    paint = hsv(rng.uniform(), rng.choice([0.05, 0.5, 0.8]), rng.uniform(0.4, 0.95))
    glass = hsv(*rng.uniform((0.5, 0.15, 0.3), (0.65, 0.4, 0.75)))
    glow = rng.uniform(-0.25, 0.25)  # more light on the front, or on the rear
    faces = [((20, 20, 30, 110), np.insert(box(0, 0, hull[6, 0], WIDTH), 2, 0, axis=1))]
    faces += [(DARK, _solid(arc(x, r, r, r), sill, y)) for y in (1, 0.85, 0.12) for x, r in axles]
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


def _flank(hull: np.ndarray, axles: np.ndarray, rim: float) -> Faces:
    """Return what is on a car's side below its windows, (x, z): door, lamps, wheels."""
    low, sill, length = hull[0, 1], hull[3, 1], hull[6, 0]
    seam = hull[3:5, 0].mean()
    faces = [((0, 0, 0, 70), box(0.1, low, length - 0.1, low + 0.1))]
    faces += [((0, 0, 0, 90), box(seam - 0.015, low + 0.1, seam + 0.015, sill))]
    faces += [((0, 0, 0, 120), box(seam - 0.28, sill - 0.18, seam - 0.1, sill - 0.13))]
    faces += [(PALE, arc(length - 0.13, hull[5, 1] - 0.15, 0.07, 0.07))]
    faces += [(RED, arc(0.1, hull[2, 1] - 0.15, 0.06, 0.06))]
    rings = ((DARK, 1.12), (1.6 * DARK, 1), (0.72 * PALE, rim), (2 * DARK, 0.2))
    return faces + [(c, arc(x, r, k * r, k * r)) for x, r in axles for c, k in rings]


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


def seen(faces: Faces, rng: Generator) -> Faces:
    """Return the faces that are turned to one of many viewpoints, as seen, (N, 2), y down."""
    x, y, z = np.concatenate([points for _, points in faces]).T - [[2], [WIDTH / 2], [0.6]]
    around, above = rng.uniform((-0.45, 0.1), (0.45, 0.25))  # radians
    x, y = x * np.cos(around) + y * np.sin(around), y * np.cos(around) - x * np.sin(around)
    down, depth = -z * np.cos(above) - y * np.sin(above), y * np.cos(above) - z * np.sin(above)
    flat = np.stack([x, down], axis=1) / (1 + depth / 14)[:, None]  # from 14 m away
    turn, seen = turned(*rng.normal(0, 0.04, 2), rng), []
    for colour, points in faces:
        corners, flat = flat[: len(points)], flat[len(points) :]
        x, y = corners.T
        if x @ np.roll(y, -1) > y @ np.roll(x, -1):  # clockwise
            seen.append((colour, corners @ turn))
    return seen


def _patch(quad: np.ndarray, u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    """Return the part of a quad from u0 to u1 along its foot and from v0 to v1 up, all in 0-1."""
    u, v = box(u0, v0, u1, v1).T[:, :, None]
    foot, top = quad[0] + u * (quad[3] - quad[0]), quad[1] + u * (quad[2] - quad[1])
    return foot + v * (top - foot)


def _rounded(corners: np.ndarray, radius: float) -> np.ndarray:
    """Cut the corners, by at most `radius` of each edge, and cut again: (N, 2) to (4 N, 2)."""
    for cut in (radius, radius / 3):
        edges = np.roll(corners, -1, 0) - corners
        step = edges * np.minimum(0.4, cut / np.linalg.norm(edges, axis=1))[:, None]
        corners = np.stack([corners + step, corners + edges - step], axis=1).reshape(-1, 2)
    return corners
