"""What the benchmarks work on: images in a folder of their own, runs, and training steps."""

import dataclasses
import importlib
import logging
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from cubslib import machine, recipes
from cubslib.datasets import Cars196, TinyImageNet
from cubslib.packed import PackedImages
from cubslib.runs import Run
from cubslib.sample.layouts import draw_cars196, draw_tiny_imagenet

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # not a word a launch
SETS = {
    "Tiny ImageNet": ("tiny-imagenet-200", TinyImageNet, draw_tiny_imagenet),
    "Cars196": ("cars196", Cars196, draw_cars196),
}


def peer(name: str) -> ModuleType | None:
    """Return another library, or None where it is not installed: it then has no column."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


@cache
def scratch() -> Path:
    """Return a folder that is removed at the end."""
    scratch.folder = tempfile.TemporaryDirectory(prefix="benchmark")
    return Path(scratch.folder.name)


def open_set(title: str, quick: bool) -> tuple[PackedImages, str]:
    """Return the training images of a data set, real where they are there, and which they are."""
    name, data_set, draw = SETS[title]
    data_root = machine.project_root() / os.environ.get("CUBSLIB_DATA", "data")
    if (data_root / name).is_dir() and not quick:
        return data_set(data_root / name, "train"), f"{title}"
    drawn = scratch() / name
    if not drawn.exists():
        draw(drawn, **({"num_classes": 4, "per_class": 20} if quick else {}))
    return data_set(drawn, "train"), f"{title}, drawn sample"


@cache
def images(title: str, count: int, size: int, quick: bool = False) -> tuple[PackedImages, str]:
    """Return `count` images, evenly spaced, packed, as class folders; and which they are.

    The folder, `.root`, holds links, so that `ImageFolder` reads the same files.
    """
    whole, told = open_set(title, quick)
    root, files = scratch() / f"{title}-{count}-{size}", []
    chosen = np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(int)
    labels = whole.targets[chosen]
    for position, label in zip(chosen, labels.tolist(), strict=True):
        file = whole.root / whole.names[position]
        files.append(f"{label:03d}/{position:06d}{file.suffix.lower()}")
        (root / files[-1]).parent.mkdir(parents=True, exist_ok=True)
        (root / files[-1]).symlink_to(file.resolve())
    os.environ.pop("CUBSLIB_CACHE", None)  # the packed copy goes with the folder
    rows = np.arange(len(files))
    return PackedImages(root, "all", files, labels, whole.classes, rows, size), told


def step(model: nn.Module, batch: int, size: int, precision: str) -> Callable[[], None]:
    """Return a training step of `model` on one batch of noise."""
    model.train().to(memory_format=torch.channels_last)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    sgd = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    network, optimizer = fabric.setup(model, sgd)
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(model.fc.out_features, (batch,))

    def train() -> None:
        fabric.backward(nn.functional.cross_entropy(network(x), targets))
        optimizer.step()
        optimizer.zero_grad()

    return train


def recipe(**changes) -> recipes.Recipe:
    """Return T1's recipe of the preset `cpu`, with `changes`."""
    return dataclasses.replace(recipes.RECIPES["custom_cnn", "cpu"], **changes)


def run(train: PackedImages, how: recipes.Recipe) -> Run:
    """Return a run of T1 in an empty folder, on the processor, with `train` as val too."""
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    settled = {
        "device": "cpu",
        "precision": machine.precision("cpu"),
        "recipes": {"classification": dataclasses.asdict(how)},
        "image_size": how.test_size,
    }
    return Run("T1", folder, {"seed": 0}, settled, train, train, train)
