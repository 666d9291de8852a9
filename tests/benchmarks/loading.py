"""Reading and augmenting, images/s, against ImageFolder, torchvision's v2 and DataLoader."""

import os

import prepared
import timing
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cubslib import recipes, sampling
from cubslib.augment import MEAN, STD, Augmentation, augment, draws
from cubslib.packed import PackedImages


def transforms(how: Augmentation, size: int) -> v2.Compose:
    """Return torchvision's transforms that do what `how` does."""
    colour = [v2.ColorJitter(how.colour, how.colour, how.colour)] if how.colour else []
    ratio = (1 / how.max_aspect, how.max_aspect)
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(size, (how.min_area, 1.0), ratio, antialias=True),
            v2.RandomHorizontalFlip(0.5 * how.flip),
            *colour,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def loader(root, how: Augmentation, size: int, batch: int, workers: int) -> DataLoader:
    """Return the peer's loader of the same files; its workers stay from epoch to epoch."""
    return DataLoader(
        ImageFolder(root, transforms(how, size)),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )


def epoch(data: PackedImages, how: Augmentation, size: int, batch: int) -> None:
    """Read and augment an epoch as training does, without training."""
    for step, rows in enumerate(sampling.shuffled(data.targets, batch, 0, "fit", 0)):
        if not step:
            numbers = draws(len(data), 0, "fit", 0)
        images = augment(data.read(rows), numbers[step * batch :][:batch], how, size)
        images.contiguous(memory_format=torch.channels_last)


def compare(title: str, kind: str, count: int, size: int, quick: bool) -> dict:
    """Compare on the augmentation of the recipe `kind`; the peer with its best workers."""
    data, told = prepared.images(title, count, size, quick)
    recipe = recipes.RECIPES[kind, "cpu"]
    how, batch = Augmentation(**recipe.augmentation), min(recipe.batch_size, len(data))
    data.read([0])  # packed now
    contenders = {"ours": lambda: epoch(data, how, size, batch)}
    for workers in (0,) if quick else (0, 1, os.cpu_count(), 2 * os.cpu_count()):
        theirs = loader(data.root, how, size, batch, workers)
        contenders[workers] = lambda theirs=theirs: [images.shape for images, _ in theirs]
    times = timing.seconds(contenders, 1 if quick else 5)
    read = len(data) // batch * batch
    best = min(times.keys() - {"ours"}, key=times.get)
    return {
        "data": told,
        "px": size,
        "images": read,
        "torchvision images/s": read / times[best],
        "its workers": best,
        "ours images/s": read / times["ours"],
        "ours / torchvision": times[best] / times["ours"],
    }


def rows(quick: bool) -> list[dict]:
    """Return a row a data set."""
    few = 16 if quick else 0
    return [
        compare("Tiny ImageNet", "custom_cnn", few or 5_120, 64, quick),
        compare("Cars196", "classification", few or 1_024, 128, quick),
    ]
