"""How cost grows with size: recall, loss, the blocks, reading, and the memory of training.

`slope` is that of the curve in a log–log picture, from the size before to this one: 1 is linear,
2 quadratic, 0 flat.
"""

import math
from pathlib import Path

import loss
import matplotlib
import numpy as np
import prepared
import recall
import timing
import torch
from torch import nn

from cubslib import models, sampling, training
from cubslib.augment import Augmentation
from cubslib.blocks import CubsBlock1, CubsBlock2
from cubslib.losses import MultiSimilarityLoss
from cubslib.packed import PackedImages
from cubslib.state import begin

MILLION = 1_000_000


def seconds(work) -> float:
    """Return the median time of `work`."""
    return timing.seconds({"it": work})["it"]


def recall_seconds(size: int) -> float:
    """Time the recall of N embeddings."""
    return seconds(recall.contenders(size)["ours"])


def loss_seconds(size: int) -> float:
    """Time loss and gradient of a batch."""
    leaf, labels = loss.embeddings(size)
    own = MultiSimilarityLoss()
    return seconds(lambda: torch.autograd.grad(own(leaf, labels), leaf))


def block_seconds(block: nn.Module, side: int) -> float:
    """Time a block on two maps of 64 channels, forward and backward."""
    x = torch.randn(2, 64, side, side, requires_grad=True)
    return seconds(lambda: torch.autograd.grad(block(x).sum(), x))


def gray(count: int, name: str, pixels: np.ndarray) -> PackedImages:
    """Return a data set of `pixels` (N, 3, 64, 64), without files to pack."""
    files, labels = [f"{name}/{i:06d}.jpeg" for i in range(count)], np.arange(count) % 200
    names, rows = [str(label) for label in range(200)], np.arange(count)
    data = PackedImages(prepared.scratch(), name, files, labels, names, rows, 64)
    data.__dict__["_pack"] = pixels, b""
    return data


def reading_seconds(count: int) -> float:
    """Time an epoch of reading and augmenting from a packed copy of `count` images."""
    import loading

    path, shape = prepared.scratch() / f"gray-{count}.npy", (count, 3, 64, 64)
    np.lib.format.open_memmap(path, "w+", np.uint8, shape).fill(128)
    data = gray(count, "gray", np.lib.format.open_memmap(path, "r"))
    how = Augmentation(**prepared.recipe().augmentation)
    taken = seconds(lambda: loading.epoch(data, how, 64, min(256, count)))
    path.unlink()
    return taken


def training_mib(count: int) -> float:
    """Return the peak memory of data set and four steps of T1, the mapped copy's pages apart.

    These are the system's cache, which it takes back where it needs to.
    """

    def train() -> None:
        data = gray(count, "none", np.broadcast_to(np.uint8(128), (count, 3, 64, 64)))
        run = prepared.run(data, prepared.recipe(batch_size=min(count, 64), sizes=((0, 32),)))
        state = begin(run, "classification", models.CustomCNN(len(data.classes)), 1000)
        batches = training.augmented_batches(state, sampling.shuffled)
        for _, (images, targets) in zip(range(4), batches, strict=False):
            loss = nn.functional.cross_entropy(state.network(images), targets)
            run.fabric.backward(loss)
            state.optimizer.step()
            state.optimizer.zero_grad()

    return timing.peak_mib(train)


CURVES = {  # what grows → the unit, the sizes, what measures at one
    "training's memory, images": ("MiB", (1_000, 4_000, 20_000, 100_000), training_mib),
    "loss, embeddings a batch": ("s", (64, 256, 1_024, 4_096, 8_192), loss_seconds),
    "block 1, positions a side": (
        "s", (8, 16, 32, 64, 128), lambda side: block_seconds(CubsBlock1(64), side)),
    "block 2, positions a side": (
        "s", (8, 16, 32, 64, 128), lambda side: block_seconds(CubsBlock2(64), side)),
    "reading, images an epoch": ("s", (1_000, 4_000, 20_000, 100_000), reading_seconds),
    "recall, embeddings": ("s", (1_000, 4_000, 16_000, 60_000, 200_000), recall_seconds),
}  # fmt: skip


def rows(quick: bool) -> list[dict]:
    """Return a row a point."""
    found = []
    for what, (unit, sizes, measure) in CURVES.items():
        before = None
        for size in (sizes[0] // 8, sizes[0] // 4) if quick else sizes:
            row = {"what grows": what, "size": size, "cost": measure(size), "unit": unit}
            if before:
                row["slope"] = slope(before, row)
            found.append(row)
            before = row
    return found


def slope(one: dict, other: dict) -> float:
    """Return d log(cost) / d log(size) between two points."""
    return math.log(other["cost"] / one["cost"]) / math.log(other["size"] / one["size"])


def comment(rows: list[dict]) -> str:
    """Reckon a million embeddings from the curves, and say what would be used there."""
    recalls = [row for row in rows if row["what grows"].startswith("recall")]
    last, steep = recalls[-1], slope(*recalls[-2:])
    hours = last["cost"] * (MILLION / last["size"]) ** steep / 3600
    return (
        f"**A million embeddings**, reckoned from the last two points of recall ({last['size']:,} "
        f"in {last['cost']:.3g} s, slope {steep:.2f}): {hours:.2g} hours here. Memory is no "
        f"hindrance: the embeddings take {MILLION * recall.DIM * 4 / 1e9:.1f} GB and their sorted "
        "copy as much again, as similarities are held a tile at a time. The time is the product "
        f"of the matrix with itself, {MILLION**2 * recall.DIM / 1e12:,.0f} million million "
        "multiplications and additions (half of it, as it is symmetric), so the same function on "
        "a GPU is what would be used: at 10 million million a second they take "
        f"{MILLION**2 * recall.DIM / 1e13:.0f} s. An index of approximate neighbours (inverted "
        "lists, graphs) is faster, but misses some: its recall would be the index's and not the "
        "embedding's. It is what to use for search, where a missed neighbour costs little. The "
        "loss does not see the million: it grows with the batch; nor does training's memory: "
        "images are read from a mapped file."
    )


def picture(rows: list[dict], path: Path) -> None:
    """Draw the curves, log–log, each with its last slope."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["what grows"] for row in rows))
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for name, axis in zip(names, axes.flat, strict=True):
        own = [row for row in rows if row["what grows"] == name]
        axis.loglog([row["size"] for row in own], [row["cost"] for row in own], "o-")
        axis.set_title(f"{name.split(',')[0]}\nslope at the end {own[-1]['slope']:.2f}")
        axis.set_xlabel(name.split(", ")[1])
        axis.set_ylabel(own[0]["unit"])
        axis.grid(alpha=0.3)
        if own[0]["unit"] == "MiB":
            axis.set_ylim(bottom=min(1, own[0]["cost"]))
    figure.savefig(path, dpi=100)
    plt.close(figure)
