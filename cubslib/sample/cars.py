"""Parametric cars, seen from the side: a class's measures → coloured faces.

Metres, x to the front, y up from the ground. Shape, trim and wheels make a class; paint and view
are drawn anew for every picture.

N: corners of a polygon.
"""

import numpy as np
from numpy.random import Generator

from cubslib.sample.painting import DARK, PALE, RED, Faces, arc, box, hsv, star, turned

BODY = {  # what a class of cars is: the range of each measure, spread evenly over the classes
    "wheelbase": (2.0, 3.6),  # axle to axle, m
    "hood": (0.08, 0.40),  # share of the length
    "trunk": (0.0, 0.38),  # share of the length
    "side": (0.45, 0.85),  # from the underside to the windows, m
    "cabin": (0.35, 0.95),  # from the windows' foot to the roof, m
    "screen": (0.3, 1.5),  # the windscreen's slope, m back per m up
    "back": (0.05, 1.6),  # the rear window's slope, m forward per m up
    "ride": (0.14, 0.45),  # clearance, m
    "wheel": (0.28, 0.45),  # radius, share of the windows' height above the ground
    "rim": (0.4, 0.8),  # share of the wheel's radius
    "spokes": (3.0, 8.99),  # of a rim, rounded down
    "windows": (1.0, 3.99),  # on a side, rounded down
    "hue": (0.0, 1.0),  # of the trim: roof, stripe and rims
    "stripe": (0.1, 0.8),  # the stripe's place, share of `side`
}
OVERHANG = 0.8  # from an axle to the bumper of every car, m
MAKES = ("Averro", "Belmora", "Cardel", "Dorsino", "Elvaro", "Fennick", "Galdor", "Hexley")


def bodies(rng: Generator, count: int) -> list[dict[str, float]]:
    """Return `count` bodies: in each half every measure takes evenly spaced values, well mixed."""
    low, high = np.array(list(BODY.values())).T
    halves = (count // 2, count - count // 2)
    cubes = [[(rng.permutation(n) + 0.5) / n for _ in BODY] for n in halves]  # Latin hypercubes
    rows = low + np.concatenate(cubes, axis=1).T * (high - low)
    return [dict(zip(BODY, row, strict=True)) for row in rows]


def name(body: dict[str, float], label: int) -> str:
    """Name the body of class `label` (from 1) as a catalogue would: "Belmora Sedan 01"."""
    kind = "Van" if body["trunk"] < 0.1 else "Coupe" if body["windows"] < 2 else "Sedan"
    return f"{MAKES[label % len(MAKES)]} {kind} {label:02}"


def car(b: dict[str, float], rng: Generator) -> Faces:
    """Return a car with the body `b` in some paint: faces with corners (N, 2), y down."""
    paint = hsv(rng.uniform(), rng.choice([0.05, 0.5, 0.8]), rng.uniform(0.4, 0.95))
    glass, trim = hsv(0.58, 0.25, rng.uniform(0.3, 0.6)), hsv(b["hue"], 0.8, 0.75)
    faces = _cabin(b, paint, glass, trim) + _side(b, paint, trim)
    view = turned(*rng.normal(0, 0.04, 2), rng) * [[rng.uniform(0.85, 1)], [-1]]
    return [(colour, points @ view) for colour, points in faces]


def _cabin(b: dict[str, float], paint: np.ndarray, glass: np.ndarray, trim: np.ndarray) -> Faces:
    """Return what is above the windows' foot: paint, roof, windows."""
    length, sill = b["wheelbase"] + 2 * OVERHANG, b["ride"] + b["side"] - 0.1  # leave no gap
    foot, top = np.array([b["trunk"] * length, (1 - b["hood"]) * length]), sill + b["cabin"]
    slopes = np.array([b["back"], -b["screen"]]) * b["cabin"]
    roof = foot + slopes * min(1, (np.ptp(foot) - 0.8) / np.ptp(slopes))  # leave 0.8 m of roof
    outline = np.array([(foot[0], sill), (roof[0], top), (roof[1], top), (foot[1], sill)])
    faces = [(paint, _rounded(outline)), (trim, box(roof[0], top - 0.09, roof[1], top))]
    for u in np.linspace(0.04, 0.96, int(b["windows"]), endpoint=False):
        u, v = box(u + 0.02, 0.18, u + 0.9 / int(b["windows"]), 0.84).T  # shares of the outline
        low, high = foot[0] + u * np.ptp(foot), roof[0] + u * np.ptp(roof)
        pane = np.stack([low + v * (high - low), sill + v * b["cabin"]], axis=1)
        faces.append((glass, _rounded(pane)))
    return faces


def _side(b: dict[str, float], paint: np.ndarray, trim: np.ndarray) -> Faces:
    """Return what is below the windows: shadow, paint, stripe, lamps, wheels."""
    length, low, sill = b["wheelbase"] + 2 * OVERHANG, b["ride"], b["ride"] + b["side"]
    stripe, r = low + b["stripe"] * b["side"], b["wheel"] * sill
    rim = b["rim"] * r
    faces = [
        ((20, 20, 30, 110), box(0, -0.06, length, 0.1)),
        (paint, _rounded(box(0, low, length, sill))),
        (trim, box(0.03, stripe, length - 0.03, stripe + 0.12)),
        (PALE, box(length - 0.22, sill - 0.25, length, sill - 0.1)),
        (RED, box(0, sill - 0.25, 0.16, sill - 0.1)),
    ]
    for x in (OVERHANG, length - OVERHANG):
        faces += [(DARK, arc(x, r, r, r)), (trim, arc(x, r, rim, rim))]
        faces += [(PALE, star(x, r, rim, 0.3 * rim, int(b["spokes"])))]
    return faces


def _rounded(corners: np.ndarray) -> np.ndarray:
    """Cut the corners by at most 0.1 m of each edge: (N, 2) to (2 N, 2)."""
    edges = np.roll(corners, -1, 0) - corners
    step = edges * np.minimum(0.4, 0.1 / np.linalg.norm(edges, axis=1))[:, None]
    return np.stack([corners + step, corners + edges - step], axis=1).reshape(-1, 2)
