"""Networks as boxes and arrows: our CNN, the residual block, the two CUBS blocks, the fashions.

A diagram is rows of boxes, each row a path from left to right; extra arrows join the rows.
"""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cubslib.pages.plots import PALETTE, STYLE, described

Box = tuple[float, float, str]  # its centre, in columns and rows, and its text
WIDTH, HEIGHT = 0.8, 0.5
LOOK = {"arrowstyle": "->", "color": "#444444", "shrinkA": 0, "shrinkB": 0}


def custom_cnn() -> Figure:
    """Draw T1's network in two rows: the first three stages; the last stage and the head."""
    boxes, above, below = [(0, 0, "image\n3 × 64²")], [], []
    for channels, side, residuals in ((64, 32, 1), (128, 16, 1), (256, 8, 2)):
        boxes.append((len(boxes), 0, f"conv 3×3\nstride 2\n{channels} × {side}²"))
        for number in range(residuals):
            at = len(boxes)
            (below if number else above).append((at - 1, at + 1))
            boxes += [(at, 0, "conv 3×3"), (at + 1, 0, "+")]
    end = len(boxes) + 1
    boxes += [(end - 1, 0, "gate"), (end, 0, "256 × 8²")]
    last = ["256 × 8²", "conv 3×3\nstride 2\n384 × 4²", "conv 3×3", "+", "gate",
            "mean and\nmaximum\n768", "norm", "dense\nclasses"]  # fmt: skip
    boxes += [(at, 1.8, text) for at, text in enumerate(last)]
    above.append((end + 2, end + 4))
    paths = [(i, i + 1) for i in range(len(boxes) - 1) if i != end]
    alt = (
        "T1's network from left to right: four stages, each a 3 × 3 convolution of stride 2 and "
        "one whose output is added to its input, with 64, 128, 256 and 384 channels. The third "
        "stage has two such sums; the last two stages end in a gate. Then each channel's mean and "
        "maximum, a normalisation and a dense layer."
    )
    return _draw(boxes, [above, below], alt, paths, {end, end + 1})


def residual_block() -> Figure:
    """Draw ResNet's basic block: what is learned is added to what came in."""
    boxes = [(0, 0, "x"), (1, 0, "conv 3×3\nnorm, relu"), (2, 0, "conv 3×3\nnorm"), (3, 0, "+"),
             (4, 0, "relu"), (5, 0, "y")]  # fmt: skip
    alt = "A residual block: x through two 3 × 3 convolutions, plus x itself, then ReLU."
    return _draw(boxes, [[(0, 3)]], alt)


def channel_block() -> Figure:
    """Draw CUBS block 1: a gate for each channel."""
    boxes = [(0, 0, "x\nC × H × W"), (1, 0, "g\nmean, C"), (2, 0, "q, k, v\ndense, N"),
             (3, 0, "softmax(q kᵀ) v\nN"), (4, 0, "dense\nC"), (5, 0, "+ g"), (6, 0, "σ"),
             (7, 0, "x · gate")]  # fmt: skip
    alt = (
        "CUBS block 1: the mean g of each channel, three dense layers to q, k and v, softmax of "
        "their products times v, a dense layer back to the channels, plus g, a sigmoid; x is "
        "multiplied by it channel by channel."
    )
    return _draw(boxes, [[(1, 5)], [(0, 7)]], alt)


def spatial_block() -> Figure:
    """Draw CUBS block 2: a gate for each position."""
    boxes = [(0, 0, "x\nC × H × W"), (1, 0, "q, k, v\nconv 1×1, H·W"),
             (2, 0, "softmax(q kᵀ) v\nH·W"), (3, 0, "σ"), (4, 0, "x · gate")]  # fmt: skip
    alt = (
        "CUBS block 2: three 1 × 1 convolutions to one channel give q, k and v, softmax of their "
        "products times v, a sigmoid; x is multiplied by it position by position."
    )
    return _draw(boxes, [[(0, 4)]], alt)


def fashions() -> Figure:
    """Draw the three fashions in which the blocks are joined after a residual block."""
    rows = [["serial_12", "x", "block 1", "block 2", "y"], ["serial_21", "x", "block 2", "block 1",
            "y"]]  # fmt: skip
    boxes = [(c, r, text) for r, row in enumerate(rows) for c, text in enumerate(row)]
    boxes += [(0, 2.5, "parallel"), (1, 2.5, "x"), (2, 2.1, "block 1"), (2, 2.9, "block 2"),
              (3, 2.5, "+"), (4, 2.5, "y")]  # fmt: skip
    paths = [(1, 2), (2, 3), (3, 4), (6, 7), (7, 8), (8, 9), (11, 12), (11, 13), (12, 14),
             (13, 14), (14, 15)]  # fmt: skip
    alt = (
        "The fashions: serial_12 is block 1 then block 2, serial_21 block 2 then block 1, parallel "
        "the sum of both blocks of x."
    )
    return _draw(boxes, [], alt, paths, bare={0, 5, 10})


@rc_context(STYLE)
def _draw(
    boxes: Sequence[Box],
    skips: Sequence[Sequence[tuple[int, int]]],
    alt: str,
    paths: Sequence[tuple[int, int]] | None = None,
    bare: frozenset[int] | set[int] = frozenset(),
) -> Figure:
    """Draw boxes, arrows between neighbours (or `paths`) and `skips` above and below them."""
    columns, rows = (max(box[i] for box in boxes) for i in (0, 1))
    figure = Figure(figsize=(min(1.3 * (columns + 1), 15.5), 1.0 + 0.75 * (rows + len(skips))))
    ax = figure.subplots()
    for number, (x, y, text) in enumerate(boxes):
        frame = {"boxstyle": "round,pad=0.35", "fc": "#EAF2F8", "ec": PALETTE[0]}
        ax.text(x, -y, text, ha="center", va="center", fontsize=8.5,
                bbox=None if number in bare else frame)  # fmt: skip
    for start, stop in paths or [(i, i + 1) for i in range(len(boxes) - 1)]:
        (x0, y0, _), (x1, y1, _) = boxes[start], boxes[stop]
        ax.annotate("", (x1 - WIDTH / 2, -y1), (x0 + WIDTH / 2, -y0), arrowprops=LOOK, zorder=0)
    for level, pairs in enumerate(skips):
        for start, stop in pairs:
            _skip(ax, boxes[start], boxes[stop], HEIGHT * (1 if level == 0 else -1))
    ax.set(xlim=(-0.6, columns + 0.6), ylim=(-rows - 0.9, 0.9))
    ax.axis("off")
    return described(figure, alt)


def _skip(ax: Axes, start: Box, stop: Box, height: float) -> None:
    """Draw a path around the boxes of a row, from one of them to another."""
    (x0, y, _), (x1, *_) = start, stop
    top = 1.3 * height - y
    ax.plot([x0, x0, x1], [0.4 * height - y, top, top], color=LOOK["color"], lw=1, zorder=0)
    ax.annotate("", (x1, 0.5 * height - y), (x1, top), arrowprops=LOOK, zorder=0)
