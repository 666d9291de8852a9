"""Images → figures: grids, gates laid beside images, queries with their neighbours.

Shapes: N images, Q queries, K neighbours of each, H × W pixels, h × w places of a map.
Arrays are NumPy's or tensors on the CPU.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cubslib.pages.plots import PALETTE, STYLE, described, listed, shortened


@rc_context(STYLE)
def image_grid(images: ArrayLike, titles: Sequence[str], columns: int = 8) -> Figure:
    """Draw `images` (N, 3, H, W), uint8 or float in [0, 1], each below its title."""
    columns = min(columns, len(images)) or 1  # there may be none, say of mistakes
    figure, axes = _tiles(-(-len(images) // columns) or 1, columns, 1.3, 1.75)
    for ax, image, title in zip(axes.flat, _pixels(images), titles, strict=False):
        _tile(ax, image, title)
    numbers = [{"image": i, "title": title} for i, title in enumerate(titles, 1)]
    return described(figure, f"Grid of {len(images)} images: {listed(titles, 24)}.", numbers)


@rc_context(STYLE)
def gate_maps(images: ArrayLike, maps: ArrayLike, titles: Sequence[str]) -> Figure:
    """Draw `images` (N, 3, H, W) above their spatial gates `maps` (N, h, w) in [0, 1].

    All maps share one scale of colour, from their least to their greatest value.
    """
    images, maps = _pixels(images), np.asarray(maps)
    low, high = float(maps.min()), float(maps.max())
    figure, axes = _tiles(2, len(images), 1.5 + 1 / len(images), 1.8)
    for (top, bottom), image, gate, title in zip(axes.T, images, maps, titles, strict=True):
        _tile(top, image, title)
        drawn = bottom.imshow(gate, cmap="cividis", vmin=low, vmax=max(high, low + 1e-3))
    bar = figure.colorbar(drawn, ax=axes, label="gate at each place", shrink=0.8)
    bar.formatter.set_useOffset(False)
    ranges = [f"{gate.min():.2f} to {gate.max():.2f}" for gate in maps]
    each = [f"{title} {span}" for title, span in zip(titles, ranges, strict=True)]
    numbers = [{"image": title, "lowest": gate.min(), "mean": gate.mean(), "highest": gate.max()}
               for title, gate in zip(titles, maps, strict=True)]  # fmt: skip
    alt = f"Images above the gates at their places: {listed(each, 24)}."
    return described(figure, alt, numbers)


@rc_context(STYLE)
def gallery(
    queries: ArrayLike, neighbours: ArrayLike, right: ArrayLike, titles: Sequence[str]
) -> Figure:
    """Draw `queries` (Q, 3, H, W), a row each, and their nearest `neighbours` (Q, K, 3, H, W).

    `right` (Q, K) says which neighbours are of the query's class: a tick and an unbroken frame
    against a cross and a dashed one. `titles` name the queries.
    """
    queries, neighbours, right = _pixels(queries), _pixels(neighbours), np.asarray(right, bool)
    marks = ("✗ wrong", (0, (4, 3)), PALETTE[1]), ("✓ right", "-", PALETTE[0])
    figure, axes = _tiles(len(right), right.shape[1] + 1, 1.5, 1.9)
    for ax, query, title in zip(axes[:, 0], queries, titles, strict=True):
        _tile(ax, query, title)
    for place in np.ndindex(right.shape):
        ax, (mark, line, colour) = axes[:, 1:][place], marks[int(right[place])]
        _tile(ax, neighbours[place], mark, color=colour)
        ax.spines[:].set(visible=True, linewidth=2.5, linestyle=line, color=colour)
    each = [f"{t} {row.sum()} of {row.size} right" for t, row in zip(titles, right, strict=True)]
    numbers = [{"query": titles[row], "neighbour": column + 1, "right": bool(right[row, column])}
               for row, column in np.ndindex(right.shape)]  # fmt: skip
    alt = f"Queries with their nearest neighbours: {listed(each, 24)}."
    return described(figure, alt, numbers)


def _tiles(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Make a figure of bare axes (rows, columns), each `width` × `height` inches."""
    figure = Figure(figsize=(width * columns, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes


def _tile(ax: Axes, image: np.ndarray, title: str, **look: str) -> None:
    ax.imshow(image)
    ax.set_title(shortened(title, 18, 3), fontsize=8, pad=5, **look)


def _pixels(images: ArrayLike) -> np.ndarray:
    """Move the channels last, (…, 3, H, W) → (…, H, W, 3), floats clipped to [0, 1]."""
    images = np.moveaxis(np.asarray(images), -3, -1)
    return images if images.dtype == np.uint8 else images.clip(0, 1)
