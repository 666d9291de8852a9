"""Arrays → matplotlib figures with their alt text; draws, never computes a score.

Every function returns a `Figure` whose label is its alt text, made from the very numbers it draws;
`show` keeps these numbers, where there are any, as CSV beside the picture.

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

from cubslib import CubsError, processes
from cubslib.disk import whole
from cubslib.runs.history import to_csv

# Okabe and Ito's colours, told apart with any colour vision, without the yellow (pale on white)
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
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
    """Save `figure` as a PNG at `path`, whole; in a notebook display it with its alt text.

    Its numbers, if it has any, are written beside it as CSV. Of several processes the first does
    this alone.
    """
    if processes.rank():
        return
    alt, numbers = figure.get_label(), getattr(figure, "numbers", ())
    with whole(Path(path)) as draft:
        figure.savefig(draft, format="png", dpi=125, metadata={"Description": alt})
    if numbers:
        with whole(Path(path).with_suffix(".csv")) as draft:
            draft.write_text(to_csv(numbers), encoding="utf-8")
    figure.clear()
    if get_ipython() is not None:
        display(Image(filename=path, alt=alt))


@rc_context(STYLE)
def curves(history: Sequence[Mapping], one_loss: bool = True) -> Figure:
    """Draw the training loss and the score on val against the epoch, a line a fit.

    Args:
        history: the rows of history.csv, numbers parsed, scores in [0, 1]; what is absent, such
            as the score where there is no val, is not drawn.
        one_loss: whether all fits minimise the same loss; if not, each has a panel of its own.
    """
    names = {"loss": "Training loss", "val_top1": "Val top-1", "val_recall_at_1": "Val Recall@1"}
    fits = list(dict.fromkeys(row["fit"] for row in history))
    panels = [("loss", fits)] if one_loss else [("loss", [name]) for name in fits]
    scored = {key for row in history for key, value in row.items() if value not in (None, "")}
    panels += [(key, fits) for key in list(names)[1:] if key in scored]
    figure = Figure(figsize=(1.5 + 4.2 * len(panels), 3.8))
    axes, said = figure.subplots(1, len(panels), squeeze=False)[0], []
    for ax, (key, own) in zip(axes, panels, strict=True):
        title = names[key] if len(own) == len(fits) else f"{names[key]}, {own[0]}"
        drawn = _lines(ax, [row for row in history if row["fit"] in own], key)
        said.append(f"{title}: {'; '.join(drawn)}.")
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid()
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), fontsize=9)
    return described(figure, f"Curves against the epoch. {' '.join(said)}", history)


@rc_context(STYLE)
def lines(panels: Mapping[str, Mapping[str, ArrayLike]], x: ArrayLike, label: str) -> Figure:
    """Draw named lines over `x` (n,), a panel a quantity: {quantity: {line: values (n,)}}.

    `label` says what x is.
    """
    x = np.asarray(x, float)
    figure = Figure(figsize=(1.5 + 4.2 * len(panels), 3.6))
    said, numbers = [], [{label: value} for value in x.tolist()]
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (quantity, drawn) in zip(axes, panels.items(), strict=True):
        for style, (name, values) in zip(("-", "--", ":", "-."), drawn.items(), strict=False):
            values = np.asarray(values, float)
            ax.plot(x, values, style, label=name)
            places = ((0, ""), (values.argmax(), "at most "), (-1, ""))
            told = [f"{word}{values[i]:.3g} at {x[i]:.3g}" for i, word in places]
            said += [f"{quantity} {name}: {', '.join(told)}"]
            for row, value in zip(numbers, values.tolist(), strict=True):
                row[f"{quantity}, {name}"] = value
        ax.set(title=quantity, xlabel=label)
        ax.grid()
        if len(drawn) > 1:
            ax.legend(fontsize=9)
    return described(figure, f"Against {label}: {'; '.join(said)}.", numbers)


@rc_context(STYLE)
def similarities(stages: Mapping[str, Mapping[str, ArrayLike]]) -> Figure:
    """Draw how cosines are spread, a panel a stage: {stage: {kind of pair: cosines (n,)}}."""
    figure = Figure(figsize=(1 + 4.4 * len(stages), 3.4))
    axes = figure.subplots(1, len(stages), squeeze=False, sharex=True, sharey=True)[0]
    edges, said, numbers = np.linspace(-1, 1, 81), [], []
    for ax, (stage, kinds) in zip(axes, stages.items(), strict=True):
        for (kind, cosines), hatch in zip(kinds.items(), ("", "//"), strict=False):
            cosines = np.asarray(cosines)
            heights, *_ = ax.hist(cosines, edges, density=True, alpha=0.55, label=kind, hatch=hatch)
            said += [f"{stage}, {kind} {cosines.mean():.2f} ± {cosines.std():.2f}"]
            numbers += [{"stage": stage, "pairs": kind, "cosine": f"{edge:.3f}", "density": height}
                        for edge, height in zip(edges, heights.tolist(), strict=False)]  # fmt: skip
        ax.set(title=stage, xlabel="cosine", yticks=[])
        ax.legend(fontsize=9)
    low = min(np.min(c) for kinds in stages.values() for c in kinds.values())
    axes[0].set_xlim(max(-1, low - 0.05), 1)
    return described(figure, f"Cosines of pairs, mean ± deviation: {'; '.join(said)}.", numbers)


@rc_context(STYLE)
def confusion(matrix: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw counts (n, n), true class by row and predicted class by column, for n ≤ 30.

    Raises:
        CubsError: there are more classes than can be read.
    """
    matrix, n = np.asarray(matrix), len(classes)
    if n > 30:
        raise CubsError(f"classes: a confusion matrix of {n} cannot be read; give at most 30.")
    names, few = [shortened(name, 24) for name in classes], n <= 15
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
    numbers = [{"true": classes[i]} | dict(zip(classes, row.tolist(), strict=True))
               for i, row in enumerate(matrix)]  # fmt: skip
    return described(figure, f"{alt}; {most}." if wrong.any() else f"{alt}.", numbers)


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
    ax.set_yticks(places, [shortened(classes[i], 36) for i in shown])
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.set(xlim=(0, 1.15), xlabel="share of the class's images that are right")
    ax.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    said = [f"{classes[i]} {_percent(accuracies[i])}" for i in shown]
    numbers = [{"class": classes[i], "accuracy": accuracies[i]} for i in order]
    return described(figure, f"Accuracy by class, from {said[0]} down to {said[-1]}.", numbers)


@rc_context(STYLE)
def channel_gates(gates: Mapping[str, ArrayLike]) -> Figure:
    """Draw how the channel gates (N, C) of each named stage are spread."""
    values = {stage: np.asarray(gate).ravel() for stage, gate in gates.items()}
    figure = Figure(figsize=(2 + 0.8 * len(values), 3.6))
    ax = figure.subplots()
    look = {"patch_artist": True, "boxprops": {"facecolor": PALETTE[5]}, "widths": 0.6}
    look |= {"whis": (5, 95), "showfliers": False, "medianprops": {"color": "black"}}
    ax.boxplot(list(values.values()), **look)
    ax.set_xticks(range(1, len(values) + 1), [shortened(stage, 10, 2) for stage in values])
    ax.set(ylabel="channel gate", xlabel="box: the middle half of the values; whiskers: 90 %")
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.grid(axis="y")
    medians = [f"{stage} {np.median(value):.3f}" for stage, value in values.items()]
    shares = (5, 25, 50, 75, 95)
    numbers = [{"block": stage} | {f"{share} %": np.percentile(value, share) for share in shares}
               for stage, value in values.items()]  # fmt: skip
    alt = f"Spread of the channel gates, medians: {listed(medians, 12)}."
    return described(figure, alt, numbers)


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
    numbers = [{"row": name} | {f"Recall@{k}": row[k] for k in ks} for name, row in rows.items()]
    return described(figure, f"Recall@K: {'; '.join(said)}.", numbers)


def _lines(ax: Axes, history: Sequence[Mapping], key: str) -> list[str]:
    """Draw a line a fit; return what each shows, in words."""
    said = []
    for marker, name in zip(MARKERS, dict.fromkeys(row["fit"] for row in history), strict=False):
        rows = [row for row in history if row["fit"] == name and row.get(key) not in (None, "")]
        if not rows:
            continue
        best = max(rows, key=lambda row: row[key])
        words = f"{rows[0][key]:.2f} → {rows[-1][key]:.2f}"
        if key != "loss":
            words = f"best {_percent(best[key], 1)} (epoch {best['epoch']})"
        said += [f"{name}, {words}"]
        epochs, values = [row["epoch"] for row in rows], [row[key] for row in rows]
        ax.plot(epochs, values, marker=marker, markersize=4, label=said[-1])
    if key != "loss":
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return said


def _percent(fraction: float, digits: int = 0) -> str:
    return f"{100 * fraction:.{digits}f} %"


def shortened(text: str, width: int, lines: int = 1) -> str:
    """Break `text` into at most `lines` lines of `width` characters, then an ellipsis."""
    parts = wrap(text, width)
    if len(parts) > lines:
        parts[lines - 1 :] = [" ".join(parts[lines - 1 :])[: width - 1] + "…"]
    return "\n".join(parts)


def listed(names: Sequence[str], most: int) -> str:
    """Return at most so many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def described(figure: Figure, alt: str, numbers: Sequence[Mapping] = ()) -> Figure:
    """Give a figure its alt text, and the numbers that it draws."""
    figure.set_label(alt)
    figure.numbers = list(numbers)
    return figure
