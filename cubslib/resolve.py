"""What "auto", "best" and 0 mean for a run that begins: data, recipes, fashion, first weights."""

import dataclasses
from pathlib import Path

from cubslib import CubsError, records, settings
from cubslib.datasets import Cars196, TinyImageNet
from cubslib.disk import fingerprint, lock
from cubslib.sample import layouts

FASHIONS = settings.PARAMETERS["fashion"].choices[1:]


def plan(task: str, asked: dict, kind: str, folder: Path) -> dict:
    """Return all that a run settles before it looks at an image.

    Args:
        task: `T1` … `T4`.
        asked: all parameters, checked.
        kind: the data, `real` or `sample`.
        folder: the run's own; earlier runs are its siblings.

    Raises:
        CubsError: `init_from` is no checkpoint that T4 can begin from.
    """
    device = settings.device()
    preset = asked["preset"]
    if preset == "auto":
        preset = "sample" if kind == "sample" else "gpu" if device == "cuda" else "cpu"
    fits = recipes(task, asked, preset)
    first = next(iter(fits.values()))
    planned = {
        "task": task,
        "dataset": kind,
        "preset": preset,
        "device": device,
        "precision": settings.precision(device),
        "image_size": first.test_size,
        "stem": first.stem,
        "recipes": {fit: dataclasses.asdict(recipe) for fit, recipe in fits.items()},
    }
    return planned | (origin(asked, folder, kind, first.stem) if task == "T4" else {})


def recipes(task: str, asked: dict, preset: str) -> dict[str, settings.Recipe]:
    """Return a run's fits in their order, each with its recipe."""
    common = {"batch_size": asked["batch_size"], "lr": asked["lr"]}
    if task == "T4":
        epochs = {"classification": asked["classify_epochs"], "embedding": asked["embed_epochs"]}
        size = asked["image_size"]
        return {
            fit: _resized(settings.recipe(fit, preset, count, **common), size)
            for fit, count in epochs.items()
        }
    fits = ["classification"]
    if task == "T3":
        fits = FASHIONS if asked["fashion"] == "best" else [asked["fashion"]]
    return {fit: settings.recipe("recognition", preset, asked["epochs"], **common) for fit in fits}


def _resized(recipe: settings.Recipe, size: int) -> settings.Recipe:
    """Read `size` pixels a side at test, 0 for the recipe's, and train at its shares of them."""
    scale = (size or recipe.test_size) / recipe.test_size
    sizes = tuple((share, max(round(side * scale), 32)) for share, side in recipe.sizes)
    return dataclasses.replace(recipe, sizes=sizes, test_size=size or recipe.test_size)


def origin(asked: dict, folder: Path, kind: str, stem: str) -> dict:
    """Return the fashion that T4 takes, and where its first weights come from."""
    fashion, begin = asked["fashion"], asked["init_from"]
    t3 = records.earlier(folder, "T3", kind, stem, fashion)
    if begin in ("auto", "random"):
        if fashion == "best":
            fashion = t3[1]["settings"]["fashion"] if t3 else "serial_12"
        if begin == "random" or t3 is None:
            return {"fashion": fashion, "origin": "random weights"}
        path = _weights(t3[0])
        return {"fashion": fashion, "origin_run": t3[0].name, "origin": _label(t3[0].name, path)}
    path = _weights(records.project_root() / begin)
    config = records.checkpoint(path)["config"]
    if config["network"] == "custom_cnn" or config["stem"] != stem:
        raise CubsError(
            f"init_from is a {config['network']} with stem {config.get('stem')}; it must be a "
            f"ResNet-18 with stem {stem}."
        )
    theirs = config.get("fashion", "serial_12" if fashion == "best" else fashion)
    if fashion not in ("best", theirs):
        raise CubsError(f"fashion is {fashion!r}, but init_from was trained with {theirs!r}.")
    return {"fashion": theirs, "origin": _label(Path(begin).name, path)}


def first_weights(folder: Path, asked: dict, resolved: dict) -> Path | None:
    """Return the checkpoint that the T4 run in `folder` begins from; None for random weights."""
    if resolved["origin"] == "random weights":
        return None
    if "origin_run" in resolved:
        return _weights(folder.with_name(resolved["origin_run"]))
    return _weights(records.project_root() / asked["init_from"])


def _label(name: str, path: Path) -> str:
    return f"{name} ({fingerprint(path.read_bytes())})"


def _weights(path: Path) -> Path:
    return path / "checkpoints" / "best.ckpt" if path.is_dir() else path


def find_data(task: str, data_root: Path, kind: str) -> tuple[str, Path]:
    """Return which data serve, `real` or `sample`, and their folder; draw a missing sample.

    Raises:
        CubsError: `kind` is `real` and they are not there.
    """
    name, script = ("cars196",) * 2 if task == "T4" else ("tiny-imagenet-200", "tiny_imagenet")
    real, sample = data_root / name, data_root / "sample" / name
    if kind == "real" and not real.is_dir():
        raise CubsError(
            f"dataset is 'real', but data_root holds no {name}: lay it out there with "
            f"data_scripts/get_{script}.py, or ask for dataset='sample'."
        )
    if kind == "real" or (kind == "auto" and real.is_dir()):
        return "real", real
    draw = layouts.draw_cars196 if task == "T4" else layouts.draw_tiny_imagenet
    with lock(sample.with_name(f".{name}.lock")):
        if not sample.is_dir():
            draw(sample)
    return "sample", sample


def open_data(task: str, data: Path, asked: dict, size: int) -> tuple:
    """Return (train, val, test) of a run; val is None where T4 holds no classes back.

    Raises:
        CubsError: a file is missing, or `val_classes` is more than half the training classes.
    """
    limit = {"limit_classes": asked["limit_classes"]}
    if task != "T4":
        splits = tuple(TinyImageNet(data, split, **limit) for split in ("train", "val", "test"))
        if len({split.classes for split in splits}) > 1:
            raise CubsError(f"{data} has a class without images in val or test: unpack all of it.")
        return splits
    held_back = asked["val_classes"]
    options = limit | {"size": size, "crop": asked["crop"], "val_classes": held_back}
    train, test = (Cars196(data, split, **options) for split in ("train", "test"))
    if held_back > len(train.classes):  # these are without the ones held back
        raise CubsError(
            f"val_classes is {held_back}; it must be 0, or 2 to half of train's classes."
        )
    return train, Cars196(data, "val", **options) if held_back else None, test


def describe(train, test, kind: str, limit_classes: int) -> dict:
    """Return how the data stand to the official ones, and the fingerprint of their pixels."""
    protocol = "drawn sample" if kind == "sample" else train.protocol
    if limit_classes:
        protocol += f", first {len(test.classes)} classes"
    mark = fingerprint(train.fingerprint, test.fingerprint)
    return {"protocol": protocol, "data_fingerprint": mark}
