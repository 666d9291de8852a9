"""What may be asked, and what 0 and "auto" mean: the table of parameters and the recipes.

Parameters are the notebooks' and, as `-p name value`, the command line's. Recipes are flat and
annotated: one for each kind of training (`recognition` in T1–T3, T4's two stages) and preset.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cubslib import CubsError

NOTEBOOKS = {
    "T1": "T1_custom_cnn",
    "T2": "T2_resnet18",
    "T3": "T3_cubs_resnet18",
    "T4": "T4_retrieval",
}
NOT_COMPARED = ("data_root", "run_dir", "restart")  # may differ when a run is continued or shown
TASKS, T3_T4, T4 = tuple(NOTEBOOKS), ("T3", "T4"), ("T4",)


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    Attributes:
        type: `int` serves for `float`; a `bool` never for a number.
        default: 0, "" and "auto" stand for the recipe's or the machine's.
        range: what `holds` accepts, in words.
        meaning: what it does, with its unit.
        tasks: the notebooks that have it.
        choices: the texts that it may be; empty for any.
    """

    name: str
    type: type
    default: object
    range: str
    holds: Callable[[object], bool]
    meaning: str
    tasks: tuple[str, ...] = TASKS
    choices: tuple[str, ...] = ()


def _row(name, default, meaning, tasks=TASKS, one_of=(), range="any", holds=lambda value: True):
    if one_of:
        range, holds = f"one of {', '.join(one_of)}", one_of.__contains__
    return Parameter(name, type(default), default, range, holds, meaning, tasks, one_of)


_NOT_NEGATIVE = {"range": "0 or more", "holds": lambda value: value >= 0}
_POSITIVE = {"range": "more than 0", "holds": lambda value: value > 0}
_FASHIONS = ("best", "parallel", "serial_12", "serial_21")
_ROWS = (
    _row("fashion", "best", "how CUBS blocks are joined; best: chosen on val", T3_T4, _FASHIONS),
    _row("margin", 0.1, "ε of the loss's mining, a difference of cosines", T4, **_NOT_NEGATIVE),
    _row("alpha", 2.0, "α, the loss's weight of positives", T4, **_POSITIVE),
    _row("beta", 50.0, "β, the loss's weight of negatives", T4, **_POSITIVE),
    _row(
        "lam", 0.5, "λ, the cosine at which a pair weighs half", T4,
        range="0 to 1", holds=lambda value: 0 <= value <= 1,
    ),
    _row("mining", "paper", "which pairs the loss keeps", T4, ("paper", "all", "hardest")),
    _row("embedding_dim", 512, "length of an embedding", T4, range="2 or more",
         holds=lambda n: n >= 2),
    _row("init_from", "auto", "auto: T3's weights if any; random; or a checkpoint's path", T4),
    _row("data_root", "data", "folder of the data sets"),
    _row("dataset", "auto", "auto: the real one if it is there", TASKS, ("auto", "real", "sample")),
    _row("preset", "auto", "the recipe; auto: by data and device", TASKS,
         ("auto", "sample", "cpu", "gpu")),
    _row("epochs", 0, "passes over train; 0: the recipe's", TASKS[:3], **_NOT_NEGATIVE),
    _row("classify_epochs", 0, "passes of the first stage; 0: the recipe's", T4, **_NOT_NEGATIVE),
    _row("embed_epochs", 0, "passes of the second stage; 0: the recipe's", T4, **_NOT_NEGATIVE),
    _row(
        "batch_size", 0, "images in a step, over all processes; 0: the recipe's",
        range="0 or at least 2 (T4: a multiple of 4 from 8)", holds=lambda n: n == 0 or n >= 2,
    ),
    _row("lr", 0.0, "largest learning rate; 0: the recipe's", **_NOT_NEGATIVE),
    _row(
        "image_size", 0, "pixels a side that T4 reads at test; 0: the recipe's", T4,
        range="0 or at least 32", holds=lambda n: n == 0 or n >= 32,
    ),
    _row("crop", False, "cut cars to their annotated box", T4),
    _row(
        "val_classes", 0, "training classes held back to choose a recipe by", T4,
        range="0, or 2 to half the training classes", holds=lambda n: n == 0 or n >= 2,
    ),
    _row(
        "limit_classes", 0, "first n classes only (T4: of each side); 0: all",
        range="0 or at least 2 (T4: at least 4)", holds=lambda n: n == 0 or n >= 2,
    ),
    _row("seed", 0, "of the weights, the order and the augmentation", **_NOT_NEGATIVE),
    _row("run_dir", "", "folder of the results; empty: named after what is not at its default"),
    _row("restart", False, "begin anew and set the old results aside"),
)  # fmt: skip
PARAMETERS = {row.name: row for row in _ROWS}


def defaults(task: str) -> dict[str, object]:
    """Return the parameters of `task` (`T1` … `T4`) at their defaults, in the table's order."""
    return {row.name: row.default for row in _ROWS if task in row.tasks}


def check(task: str, given: dict[str, object]) -> dict[str, object]:
    """Return all parameters of `task`, those `given` in place of the defaults.

    Raises:
        CubsError: a name is unknown, or a value has a wrong type or is out of range.
    """
    values = defaults(task)
    for name, value in given.items():
        if name not in values:
            near = difflib.get_close_matches(name, values, n=1)
            hint = f"did you mean {near[0]}" if near else f"it has {', '.join(values)}"
            raise CubsError(f"{task} has no parameter {name}: {hint}.")
        values[name] = _checked(task, PARAMETERS[name], value)
    return values


def _checked(task: str, row: Parameter, value: object) -> object:
    wanted = f"{row.name} is {value!r}; it must be"
    if row.type is float and type(value) is int:
        value = float(value)
    if type(value) is not row.type:
        kinds = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
        raise CubsError(f"{wanted} {kinds[row.type]}.")
    good = row.holds(value) and (row.type is not float or math.isfinite(value))
    if task == "T4" and value:
        good &= row.name != "batch_size" or (value >= 8 and value % 4 == 0)
        good &= row.name != "limit_classes" or value >= 4
    if not good:
        raise CubsError(f"{wanted} {row.range}.")
    return value


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; flat, so that it reads like the protocol of an experiment.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes.
        lr: the peak of the one-cycle schedule.
        optimizer: `sgd` (Nesterov, momentum 0.9) or `adamw`.
        weight_decay: on weights, not on biases and normalisations.
        sizes: (from this share of the steps on, pixels a side), ascending from 0.
        test_size: pixels a side at val and test.
        augmentation: the arguments of `augment.Augmentation`.
        label_smoothing: of the cross-entropy, in [0, 1).
        stem: ResNet-18's.
        patience: epochs without a better val score, in the last third, after which to stop.
        ema_decay: of the weights' moving average, which is then what is reported; 0 for none.
        gate_lr: the CUBS blocks' share of `lr`. A gate sums over all channels of an input that is
            never negative, so one step at the full rate can close it for good.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: str
    weight_decay: float
    sizes: tuple[tuple[float, int], ...]
    test_size: int
    augmentation: dict[str, float]
    label_smoothing: float = 0.0
    stem: str = "7x7"
    patience: int = 3
    ema_decay: float = 0.0
    gate_lr: float = 0.01


_MILD = {"min_area": 0.5, "max_aspect": 1.3, "flip": True}
_CARS = {"min_area": 0.55, "max_aspect": 1.3, "flip": True, "colour": 0.3}
_STRONG = {"min_area": 0.3, "max_aspect": 1.4, "flip": True, "colour": 0.3, "erase": 0.25}
_SGD = {"optimizer": "sgd", "weight_decay": 5e-4, "label_smoothing": 0.1}
_ADAMW = {"optimizer": "adamw", "weight_decay": 0.05}
# gpu: prepared, not yet run at full size. The cpu recipes of T4 are untuned.
RECIPES = {
    ("recognition", "sample"): Recipe(
        10, 32, 0.05, sizes=((0, 32), (0.6, 64)), test_size=64, augmentation=_MILD, **_SGD
    ),
    ("recognition", "cpu"): Recipe(
        9, 256, 0.5, sizes=((0, 32), (0.55, 48), (0.85, 64)), test_size=64,
        augmentation=_MILD, **_SGD,
    ),
    ("recognition", "gpu"): Recipe(
        80, 512, 0.8, sizes=((0, 64),), test_size=64, augmentation=_STRONG, stem="3x3",
        patience=10, ema_decay=0.999, **_SGD,
    ),
    ("classification", "sample"): Recipe(
        12, 32, 2e-3, sizes=((0, 64),), test_size=64, augmentation=_CARS, **_ADAMW
    ),
    ("classification", "cpu"): Recipe(
        8, 64, 2e-3, sizes=((0, 80), (0.7, 112)), test_size=128, augmentation=_CARS,
        label_smoothing=0.1, **_ADAMW,
    ),
    ("classification", "gpu"): Recipe(
        60, 128, 2e-3, sizes=((0, 160), (0.7, 192)), test_size=224, augmentation=_CARS,
        label_smoothing=0.1, stem="3x3", ema_decay=0.999, **_ADAMW,
    ),
    ("embedding", "sample"): Recipe(
        6, 32, 3e-4, sizes=((0, 64),), test_size=64, augmentation=_CARS, **_ADAMW
    ),
    ("embedding", "cpu"): Recipe(
        3, 96, 3e-4, sizes=((0, 112),), test_size=128, augmentation=_CARS, **_ADAMW
    ),
    ("embedding", "gpu"): Recipe(
        30, 256, 3e-4, sizes=((0, 192),), test_size=224, augmentation=_CARS, stem="3x3",
        ema_decay=0.99, **_ADAMW,
    ),
}  # fmt: skip


def recipe(kind: str, preset: str, epochs: int = 0, batch_size: int = 0, lr: float = 0.0) -> Recipe:
    """Return the recipe of `kind` and `preset` with what is not 0 in place of its own value."""
    asked = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    return replace(RECIPES[kind, preset], **{name: value for name, value in asked.items() if value})


def device() -> str:
    """Return `cuda`, `mps` (untried) or `cpu`: the best that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision(device: str) -> str:
    """Return Fabric's name of the fastest safe precision of `device`.

    bf16 pays on a CPU only with the instructions for it; without them it is many times slower.
    """
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    # Named with an underscore, but there is no public question of this kind.
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if device == "cpu" and fast else "32-true"
