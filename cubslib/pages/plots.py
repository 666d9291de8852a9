"""Arrays → matplotlib figures with their alt text; draws, never computes a score.

Every function returns a `Figure` whose label is its alt text, made from the very numbers it draws.

Shapes: N images, Q queries, K neighbours of each, C channels, H × W pixels, h × w places of a map.
Arrays are NumPy's or tensors on the CPU.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
import seaborn as sns
from cycler import cycler
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from cubslib import CubsError
from cubslib.disk import whole

# Okabe and Ito's colours, told apart with any colour vision, without the yellow (pale on white)
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<>ph"
STYLE = {
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "font.size": 10,
    "grid.alpha": 0.3,
    "hatch.color": "white",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a class name is a dollar
}


def show(figure: Figure, path: Path) -> None:
    """Save `figure` as a PNG at `path`, whole; in a notebook display it with its alt text."""
    alt = figure.get_label()
    with whole(Path(path)) as draft:
        figure.savefig(draft, format="png", dpi=125, metadata={"Description": alt})
    figure.clear()
    if get_ipython() is not None:
        display(Image(filename=path, alt=alt))


@rc_context(STYLE)
def image_grid(images: ArrayLike, titles: Sequence[str], columns: int = 8) -> Figure:
    """Draw `images` (N, 3, H, W), uint8 or float in [0, 1], each below its title."""
    columns = min(columns, len(images)) or 1  # there may be none, say of mistakes
    figure, axes = _tiles(-(-len(images) // columns) or 1, columns, 1.3, 1.75)
    for ax, image, title in zip(axes.flat, _pixels(images), titles, strict=False):
        _tile(ax, image, title)
    return _described(figure, f"Grid of {len(images)} images: {_listed(titles, 12)}.")


@rc_context(STYLE)
def curves(history: Sequence[Mapping]) -> Figure:
    """Draw the training loss and the score on val against the epoch, a line a fit.

    `history` are the rows of history.csv, numbers parsed, scores in [0, 1]; what is absent, "" or
    None, such as the score where there is no val, is not drawn.
    """
    names = {"loss": "Training loss", "val_top1": "Val top-1", "val_recall_at_1": "Val Recall@1"}
    keys = [key for key in names if any(row.get(key) not in (None, "") for row in history)]
    figure = Figure(figsize=(1.5 + 4.2 * len(keys), 3.8))
    said = []
    for ax, key in zip(np.atleast_1d(figure.subplots(1, len(keys))), keys, strict=True):
        said += [f"{names[key]}: {'; '.join(_lines(ax, history, key))}."]
        ax.set(title=names[key], xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid()
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=9)
    return _described(figure, f"Curves against the epoch. {' '.join(said)}")


@rc_context(STYLE)
def confusion(matrix: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw counts (n, n), true class by row and predicted class by column, for n ≤ 30.

    Raises:
        CubsError: there are more classes than can be read.
    """
    matrix, n = np.asarray(matrix), len(classes)
    if n > 30:
        raise CubsError(f"classes: a confusion matrix of {n} cannot be read; give at most 30.")
    names, few = [_fit(name, 24) for name in classes], n <= 15
    figure = Figure(figsize=(4 + 0.3 * n, 3 + 0.3 * n))
    ax = figure.subplots()
    look = {"cmap": "Blues", "square": True, "linewidths": 0.5, "annot": few, "fmt": "d"}
    look |= {"cbar": not few, "cbar_kws": {"label": "images", "shrink": 0.6}}
    sns.heatmap(matrix, xticklabels=names, yticklabels=names, ax=ax, **look)
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(axis="x", rotation=90)
    ax.tick_params(axis="y", rotation=0)
    wrong = np.where(np.eye(n, dtype=bool), 0, matrix)
    true, taken = np.unravel_index(wrong.argmax(), wrong.shape)
    most = f"most often {classes[true]} is taken for {classes[taken]}, {wrong.max()} times"
    alt = f"Confusion matrix of {n} classes: {np.trace(matrix)} of {matrix.sum()} images right"
    return _described(figure, f"{alt}; {most}." if wrong.any() else f"{alt}.")


@rc_context(STYLE)
def worst_classes(accuracies: ArrayLike, classes: Sequence[str], count: int = 10) -> Figure:
    """Draw the `count` best and worst classes by `accuracies` (n,) in [0, 1]; all where few."""
    accuracies = np.asarray(accuracies)
    order = np.argsort(-accuracies, kind="stable")
    shown = np.append(order[:count], order[count:][-count:])
    figure = Figure(figsize=(8, 1 + 0.27 * len(shown)))
    ax = figure.subplots()
    places = np.arange(len(shown))
    places[count:] += 1  # a gap between the best and the worst
    for part, hatch in ((slice(count), ""), (slice(count, None), "//")):
        bars = ax.barh(places[part], accuracies[shown[part]], hatch=hatch)
        ax.bar_label(bars, [_percent(value) for value in accuracies[shown[part]]], padding=3)
    ax.set_yticks(places, [_fit(classes[i], 36) for i in shown])
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.set(xlim=(0, 1.15), xlabel="share of the class's images that are right")
    ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    said = [f"{classes[i]} {_percent(accuracies[i])}" for i in shown]
    return _described(figure, f"Accuracy by class, from {said[0]} down to {said[-1]}.")


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
    return _described(figure, f"Images above the gates at their places: {_listed(each, 8)}.")


@rc_context(STYLE)
def channel_gates(gates: Mapping[str, ArrayLike]) -> Figure:
    """Draw how the channel gates (N, C) of each named stage are spread."""
    values = {stage: np.asarray(gate).ravel() for stage, gate in gates.items()}
    figure = Figure(figsize=(2 + 0.8 * len(values), 3.6))
    ax = figure.subplots()
    look = {"patch_artist": True, "boxprops": {"facecolor": PALETTE[5]}, "widths": 0.6}
    look |= {"whis": (5, 95), "showfliers": False, "medianprops": {"color": "black"}}
    ax.boxplot(list(values.values()), **look)
    ax.set_xticks(range(1, len(values) + 1), [_fit(stage, 10, 2) for stage in values])
    ax.set(ylabel="channel gate", xlabel="box: the middle half of the values; whiskers: 90 %")
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="y")
    medians = [f"{stage} {np.median(value):.3f}" for stage, value in values.items()]
    return _described(figure, f"Spread of the channel gates, medians: {_listed(medians, 12)}.")


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
    return _described(figure, f"Queries with their nearest neighbours: {_listed(each, 12)}.")


@rc_context(STYLE)
def recall_bars(recalls: Mapping[str, Mapping], chance: Mapping | None = None) -> Figure:
    """Draw `recalls`, stage → K → fraction in [0, 1], side by side.

    `chance`, K → the fraction that a random order would reach, is drawn as a line.
    """
    ks = list(next(iter(recalls.values())))
    middles, width = np.arange(len(ks)), 0.8 / len(recalls)
    figure = Figure(figsize=(2.5 + 0.7 * len(ks) * len(recalls), 3.8))
    ax = figure.subplots()
    for i, (stage, recall) in enumerate(recalls.items()):
        at, values = middles + (i + 0.5) * width - 0.4, [recall[k] for k in ks]
        bars = ax.bar(at, values, 0.94 * width, label=stage, hatch=("", "//", "..", "xx")[i % 4])
        ax.bar_label(bars, [_percent(value, 1) for value in values], padding=2, fontsize=9)
    if chance:
        ends = middles - 0.45, middles + 0.45
        ax.hlines([chance[k] for k in ks], *ends, "black", "--", label="chance")
    ax.set_xticks(middles, [f"Recall@{k}" for k in ks])
    ax.set_ylim(0, 1.1 * max(0.1, *(recall[k] for recall in recalls.values() for k in ks)))
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
    rows = dict(recalls) | ({"chance": chance} if chance else {})
    said = [f"{n} " + ", ".join(f"{_percent(r[k], 1)} at {k}" for k in ks) for n, r in rows.items()]
    return _described(figure, f"Recall@K: {'; '.join(said)}.")


@rc_context(STYLE)
def embedding_map(points: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw a map `points` (N, 2) of embeddings; `labels` (N,) index `classes`.

    The twelve classes with the most points are named, by colour and marker; the others are grey.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    counts = np.bincount(labels, minlength=len(classes))
    named = [i for i in np.argsort(-counts, kind="stable")[: len(MARKERS)] if counts[i]]
    figure, axes = _tiles(1, 1, 8.5, 5)
    ax = axes[0, 0]
    for place, i in enumerate(named):
        look = {"marker": MARKERS[place], "color": PALETTE[place % len(PALETTE)], "linewidths": 0}
        ax.scatter(*points[labels == i].T, s=28, label=_fit(classes[i], 28, 2), **look)
    rest = points[~np.isin(labels, named)]
    if len(rest):
        ax.scatter(*rest.T, s=8, color="#BBBBBB", zorder=0, label="other classes")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    alt = f"Map of {len(points)} embeddings of {np.count_nonzero(counts)} classes in two dimensions"
    return _described(figure, f"{alt}; named: {_listed([classes[i] for i in named], 12)}.")


def _lines(ax: Axes, history: Sequence[Mapping], key: str) -> list[str]:
    """Draw a line a fit; return what each shows, in words."""
    said = []
    for marker, fit in zip(MARKERS, dict.fromkeys(row["fit"] for row in history), strict=False):
        rows = [row for row in history if row["fit"] == fit and row.get(key) not in (None, "")]
        if not rows:
            continue
        best = max(rows, key=lambda row: row[key])
        words = f"{rows[0][key]:.2f} → {rows[-1][key]:.2f}"
        if key != "loss":
            words = f"best {_percent(best[key], 1)} (epoch {best['epoch']})"
        said += [f"{fit}, {words}"]
        epochs, values = [row["epoch"] for row in rows], [row[key] for row in rows]
        ax.plot(epochs, values, marker=marker, markersize=4, label=said[-1])
    if key != "loss":
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return said


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
    ax.set_title(_fit(title, 18, 3), fontsize=8, pad=5, **look)


def _pixels(images: ArrayLike) -> np.ndarray:
    """Move the channels last, (…, 3, H, W) → (…, H, W, 3), floats clipped to [0, 1]."""
    images = np.moveaxis(np.asarray(images), -3, -1)
    return images if images.dtype == np.uint8 else images.clip(0, 1)


def _percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f} %"


def _fit(text: str, width: int, lines: int = 1) -> str:
    """Break `text` into at most `lines` lines of `width` characters, then an ellipsis."""
    parts = wrap(text, width)
    if len(parts) > lines:
        parts[lines - 1 :] = [" ".join(parts[lines - 1 :])[: width - 1] + "…"]
    return "\n".join(parts)


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _described(figure: Figure, alt: str) -> Figure:
    figure.set_label(alt)
    return figure
