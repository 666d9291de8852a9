"""What "auto", "best" and 0 mean for a run that begins: data, recipes, fashion, first weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from cubslib import CubsError, blocks, machine, processes, recipes
from cubslib.datasets import Cars196, TinyImageNet
from cubslib.disk import fingerprint, lock
from cubslib.losses import CONTROL
from cubslib.packed import PackedImages
from cubslib.recipes import Recipe
from cubslib.runs import finished, published
from cubslib.runs.parameters import TASKS, compared, defaults
from cubslib.sample.layouts import draw_cars196, draw_tiny_imagenet

# A data set's folder → its class, what draws its sample, the script that lays out the real one.
DATA = {
    "tiny-imagenet-200": (TinyImageNet, draw_tiny_imagenet, "get_tiny_imagenet.py"),
    "cars196": (Cars196, draw_cars196, "get_cars196.py"),
}
ONE_FASHION = "serial_12"  # where none was chosen


def settle(task: str, asked: dict, kind: str, folder: Path) -> dict:
    """Return every parameter at its final meaning, and what else a run decides at its start.

    T3's `best` is one: all fashions are trained. The record has the one that val chose.

    Args:
        task: `T1` … `T4`.
        asked: all parameters, checked.
        kind: the data, `real` or `sample`.
        folder: the run's own; earlier runs are its siblings.

    Raises:
        CubsError: `init_from` is no checkpoint that T4 can begin from.
    """
    device = machine.device()
    preset = asked["preset"]
    if preset == "auto":
        preset = "sample" if kind == "sample" else "gpu" if device == "cuda" else "cpu"
    found = _recipes(task, asked, preset)
    first = next(iter(found.values()))
    settled = compared(asked) | {
        "task": task,
        "dataset": kind,
        "preset": preset,
        "image_size": first.test_size,
        "stem": first.stem,
        "device": device,
        "precision": machine.precision(device),
        "processes": processes.count(),
        "threads": torch.get_num_threads(),
        "recipes": {fit: dataclasses.asdict(recipe) for fit, recipe in found.items()},
        "sources": machine.IMPORTED,
        **machine.checkout(),
    }
    for fit, _, epochs in TASKS[task].fits:
        if fit in found:
            settled[epochs] = found[fit].epochs
    for name in ("batch_size", "lr"):  # T4's stages may have one each
        values = {fit: getattr(recipe, name) for fit, recipe in found.items()}
        settled[name] = getattr(first, name) if len(set(values.values())) == 1 else values
    if task == "T3" and len(found) == 1:
        settled["fashion"] = next(iter(found))
    if "fashion" in asked:
        settled["gate_bias"] = blocks.GATE_BIAS
    return settled | (_origin(asked, settled, folder) if "init_from" in asked else {})


def _recipes(task: str, asked: dict, preset: str) -> dict[str, Recipe]:
    """Return a run's fits in their order, each with its recipe."""
    own = {name: asked[name] for name in ("batch_size", "lr")}
    only = asked.get("fashion") if task == "T3" else "best"
    if task == "T3" and (only, preset) == ("best", "tour"):  # three would not fit into its hour
        only = ONE_FASHION
    found = {
        fit: _resized(
            recipes.recipe(kind, preset, asked[epochs], **own), asked.get("image_size", 0)
        )
        for fit, kind, epochs in TASKS[task].fits
        if only in ("best", fit)
    }
    if asked.get("mining") == CONTROL:  # its second stage keeps the loss of its first
        smoothing = found["classification"].label_smoothing
        found["embedding"] = dataclasses.replace(found["embedding"], label_smoothing=smoothing)
    return found


def _resized(recipe: Recipe, size: int) -> Recipe:
    """Read `size` pixels a side at test, 0 for the recipe's, and train at its shares of them."""
    scale = (size or recipe.test_size) / recipe.test_size
    sizes = tuple((share, max(round(side * scale), 32)) for share, side in recipe.sizes)
    return dataclasses.replace(recipe, sizes=sizes, test_size=size or recipe.test_size)


def _origin(asked: dict, settled: dict, folder: Path) -> dict:
    """Return T4's fashion, where its first weights come from, and their fingerprint."""
    fashion, begin = asked["fashion"], asked["init_from"]
    t3, _ = finished.earlier(folder, settled, "T3", fashion)
    if fashion == "best":
        fashion = t3.record["settings"]["fashion"] if t3 else ONE_FASHION
    if begin == "random" or (begin == "auto" and t3 is None):
        return {"fashion": fashion, "init_from": "random"}
    if begin == "auto":
        path, name = finished.weights(t3.folder), t3.folder.name
    elif begin == "published":
        found = published.find("T4")
        if not found:
            raise CubsError("init_from is 'published', but notebooks/results/ holds no weights of "
                            "T4: ask for auto, random, or a checkpoint's path.")  # fmt: skip
        path, name = finished.weights(found[0][0]), f"notebooks/results/{found[0][0].name}"
    else:
        path, name = finished.weights(machine.project_root() / begin), Path(begin).name
    config = finished.checkpoint(path)["config"]
    if config["network"] == "custom_cnn" or config["stem"] != settled["stem"]:
        raise CubsError(
            f"init_from is a {config['network']} with stem {config.get('stem')}; it must be a "
            f"ResNet-18 with stem {settled['stem']}."
        )
    theirs = config.get("fashion", fashion)
    if asked["fashion"] not in ("best", theirs):
        raise CubsError(f"fashion is {fashion!r}, but init_from was trained with {theirs!r}.")
    mark = fingerprint(path.read_bytes())
    return {"fashion": theirs, "init_from": name, "init_fingerprint": mark}


def first_weights(folder: Path, asked: dict, settled: dict) -> Path | None:
    """Return the checkpoint that the T4 run in `folder` begins from; None for random weights."""
    if "init_fingerprint" not in settled:
        return None
    if asked["init_from"] == "auto":
        return finished.weights(folder.with_name(settled["init_from"]))
    begin = settled if asked["init_from"] == "published" else asked
    return finished.weights(machine.project_root() / begin["init_from"])


def find_data(task: str, data_root: Path, kind: str) -> tuple[str, Path]:
    """Return which data serve, `real` or `sample`, and their folder; draw a missing sample.

    Raises:
        CubsError: `kind` is `real` and they are not there, or a run began with data of one's own.
    """
    if kind == "own":
        raise CubsError("this run began with splits of one's own: give them to runs.start again, "
                        "or name another run_dir.")  # fmt: skip
    name = TASKS[task].data
    _, draw, script = DATA[name]
    real, sample = data_root / name, data_root / "sample" / name
    if kind != "sample" and real.is_dir():
        return "real", real
    if kind == "real":
        raise CubsError(
            f"dataset is 'real', but data_root holds no {name}: lay it out there with "
            f"data_scripts/{script}, or ask for dataset='sample'."
        )
    with lock(sample.with_name(f".{name}.lock")):
        if not sample.is_dir():
            draw(sample)
    return "sample", sample


def own_data(task: str, asked: dict, splits: Sequence) -> str:
    """Hold splits of one's own to what a run needs; return what kind of data they are, `own`.

    Raises:
        CubsError: they are no three data sets, lack images or classes, or a parameter is asked
            for that only the official data sets have.
    """
    default = defaults(task)
    for name in ("dataset", "limit_classes", "crop", "val_classes"):
        if name in asked and asked[name] != default[name]:
            raise CubsError(f"{name} is {asked[name]!r}; with splits of one's own it must be "
                            f"{default[name]!r}.")  # fmt: skip
    given = dict(zip(("train", "val", "test"), splits, strict=False))
    if task == "T4" and len(splits) == 3 and splits[1] is None:
        del given["val"]
    if len(splits) != 3 or not all(isinstance(split, PackedImages) for split in given.values()):
        raise CubsError("splits must be three PackedImages, train, val and test; T4's val may be "
                        "None.")  # fmt: skip
    for name, split in given.items():
        if len(split.classes) < 2:
            raise CubsError(f"{name} has images of {len(split.classes)} classes; it must have two "
                            "or more.")  # fmt: skip
    train, test = set(splits[0].classes), set(splits[2].classes)
    if task == "T4" and train & test:
        raise CubsError(f"train and test share the class {min(train & test)}: T4 is tested on "
                        "classes never trained on.")  # fmt: skip
    if task != "T4" and (odd := train.union(splits[1].classes, test) - train.intersection(
            splits[1].classes, test)):  # fmt: skip
        raise CubsError(f"{min(odd)} has no image in one of train, val and test: give it more, or "
                        "leave it out.")  # fmt: skip
    return "own"


def open_data(task: str, data: Path, asked: dict, size: int) -> tuple:
    """Return (train, val, test) of a run; val is None where T4 holds no classes back.

    Raises:
        CubsError: a file is missing, or `val_classes` is more than half the training classes.
    """
    data_set, *_ = DATA[TASKS[task].data]
    options = {name: asked[name] for name in ("limit_classes", "crop", "val_classes")
               if name in asked}  # fmt: skip
    held_back = asked.get("val_classes")
    if held_back is not None:
        options["size"] = size
    train, test = (data_set(data, split, **options) for split in ("train", "test"))
    if held_back and held_back > len(train.classes):  # these are without the ones held back
        raise CubsError(
            f"val_classes is {held_back}; it must be 0, or 2 to half of train's classes."
        )
    val = data_set(data, "val", **options) if held_back != 0 else None
    if held_back is None:
        _refuse_lacking(train, val, "every tenth training image of a class is val: give it ten")
        _refuse_lacking(train, test, "unpack all of it, or list fewer classes in wnids.txt")
    return train, val, test


def _refuse_lacking(train, split, remedy: str) -> None:
    if split.classes != train.classes:
        lacking = min(set(train.classes) - set(split.classes), default="a class")
        name = "test" if split.pack_name == "test" else "val"
        raise CubsError(f"{train.root}: {lacking} has no image in {name}; {remedy}.")


def describe(train, test, kind: str, limit_classes: int) -> dict:
    """Return what the data are, how they stand to the official ones, and their fingerprint."""
    protocol = "drawn sample" if kind == "sample" else train.protocol
    if kind == "own":
        protocol = f"{len(train):,} images to train on, {len(test):,} to test"
    if limit_classes:
        protocol += f", first {len(test.classes)} classes"
    alone = (test.targets.bincount() == 1).sum()
    if isinstance(test, Cars196) and alone:  # nothing can be found for these
        protocol += f", {alone} of {len(test):,} queries the only image of their class: misses"
    mark = fingerprint(train.fingerprint, test.fingerprint)
    title = "drawn images" if kind == "sample" else train.title
    return {"title": title, "protocol": protocol, "data_fingerprint": mark}
