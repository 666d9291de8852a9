"""Coloured faces → a picture: shapes, scenes, light.

A picture is a list of faces, painted in order: a colour, (r, g, b) or (r, g, b, alpha) in 0-255,
and a polygon of N corners, (N, 2), x right and y down.
"""

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

Faces = list[tuple[Sequence[float], np.ndarray]]
Boxed = tuple[Image.Image, tuple[int, ...]]  # a picture and its subject's first and last pixels

DARK, PALE, RED = (np.array(c) for c in ((38, 38, 46), (246, 242, 230), (190, 30, 30)))
SHARP = 3  # pictures are drawn this many times larger, then reduced: smooth edges
GRAY = 0.04  # share of pictures stored as grayscale JPEG, as some of the official ones are


def picture(subject: Faces, size: np.ndarray, rng: Generator) -> Boxed:
    """Set the subject, large or small, in a place of `size` (width, height); light it, paint it."""
    corners = np.concatenate([p for colour, p in subject if len(colour) == 3])  # no shadow
    low, extent = corners.min(0), np.ptp(corners, axis=0)
    scale = min((0.92, 0.8) * size / extent) * rng.uniform(0.7, 1)
    start = 2 + (size - 4 - scale * extent) * (rng.uniform(), rng.uniform(0.4, 1))
    box = (*np.floor(start), *np.ceil(start + scale * extent) - 1)

    image = Image.new("RGB", tuple(map(int, size * SHARP)))
    draw = ImageDraw.Draw(image, "RGBA")
    faces = place(*size, rng) + [(colour, (p - low) * scale + start) for colour, p in subject]
    for colour, points in faces:
        draw.polygon((points * SHARP).ravel().tolist(), tuple(map(int, colour)))

    x, y = (np.linspace(-1, 1, n) * rng.uniform(-0.25, 0.25) for n in size)
    light = rng.uniform(0.8, 1.15) + x + y[:, None]
    pixels = (np.asarray(image.reduce(SHARP)) * light[..., None]).clip(0, 255)
    image = Image.fromarray(pixels.astype(np.uint8))
    return image.convert("L") if rng.uniform() < GRAY else image, tuple(map(int, box))


def place(width: int, height: int, rng: Generator) -> Faces:
    """Return a town or a countryside with a road in front."""
    horizon, road, land = rng.uniform((0.35, 0.6, 0.08), (0.55, 0.75, 0.4)) * (height, height, 1)
    ground, tar = hsv(land, 0.3, rng.uniform(0.5, 0.8)), hsv(land, 0.08, rng.uniform(0.35, 0.65))
    faces = [(hsv(rng.uniform(0.5, 0.6), 0.35, 0.95), box(0, 0, width, horizon))]
    town, wide = rng.uniform() < 0.5, width / 7
    for x in np.arange(7) * wide:
        tall, shade = rng.uniform((0.2, 0.5), (0.8, 0.9)) * (horizon, 1)
        house = (hsv(rng.uniform(), 0.2, shade), box(x, horizon - tall, x + wide, horizon))
        hill = (shade * ground, arc(x, horizon, wide, tall / 2))
        faces.append(house if town else hill)
    return [*faces, (ground, box(0, horizon, width, road)), (tar, box(0, road, width, height))]


def arc(x: float, y: float, wide: float, tall: float, start=0.0, stop=360.0) -> np.ndarray:
    """Return an ellipse, or the part of it between two angles in degrees and its centre."""
    t = np.radians(np.linspace(start, stop, 28))
    rim = np.stack([x + wide * np.cos(t), y - tall * np.sin(t)], axis=1)
    return rim if stop - start == 360 else np.insert(rim, 0, (x, y), axis=0)


def star(x: float, y: float, outer: float, inner: float, points: float) -> np.ndarray:
    """Return a star around (x, y) with so many points, its corners at two radii."""
    t = np.pi * np.arange(2 * points) / points
    radius = np.resize([outer, inner], len(t))
    return np.stack([x + radius * np.sin(t), y - radius * np.cos(t)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the rectangle between two opposite corners."""
    return np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)], float)


def turned(angle: float, shear: float, rng: Generator) -> np.ndarray:
    """Return a rotation and shear, half the time mirrored, for points as rows, (2, 2)."""
    rotation = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return np.array([[rng.choice([-1, 1]), 0], [shear, 1]]) @ rotation


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return (r, g, b) in 0-255 of three parts in [0, 1]."""
    return 255 * np.array(hsv_to_rgb(hue, saturation, value))
