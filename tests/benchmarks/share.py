"""Reading and augmenting within a training step of T1, preset cpu: its share of the time."""

import prepared
import timing
import torch

from cubslib import machine, models
from cubslib.augment import Augmentation, augment, draws


def rows(quick: bool) -> list[dict]:
    """Return a row a size of the recipe, and one of all its steps."""
    how, found = prepared.recipe(), []
    data, told = prepared.images("Tiny ImageNet", 16 if quick else 2_048, 64, quick)
    batch = 8 if quick else how.batch_size
    numbers, order = draws(batch, 0, "fit", 0), torch.randperm(len(data))[:batch]
    ends = [share for share, _ in how.sizes[1:]] + [1]
    for (start, size), end in zip(how.sizes, ends, strict=True):

        def load(size=size):
            images = augment(data.read(order), numbers, Augmentation(**how.augmentation), size)
            images.contiguous(memory_format=torch.channels_last)

        train = prepared.step(models.CustomCNN(200), batch, size, machine.precision("cpu"))
        times = timing.seconds({"load": load, "train": train}, 1 if quick else 9)
        found.append({"px": size, "of the steps": end - start} | times)
    means = {key: sum(row[key] * row["of the steps"] for row in found) for key in ("load", "train")}
    found.append({"px": "all", "of the steps": 1} | means)
    return [
        {
            "data": told,
            "px": row["px"],
            "of the steps": row["of the steps"],
            "reading and augmenting ms": row["load"] * 1e3,
            "network ms": row["train"] * 1e3,
            "share": row["load"] / (row["load"] + row["train"]),
        }
        for row in found
    ]
