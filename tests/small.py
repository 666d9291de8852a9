"""A network and recipes small enough to train in a second: what the tests of runs share.

It is a module, and not part of conftest.py, because processes that are killed, or that train
together, import it too.
"""

import dataclasses
import functools
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributed import TCPStore
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cubslib import (
    losses,
    machine,
    metrics,
    models,
    processes,
    recipes,
    runs,
    sampling,
    scoring,
    training,
)
from cubslib.check.process import APART as FORKS

# What is slow to import. A process has one such list: each that is set replaces the one before.
FORKS.set_forkserver_preload(["cubslib.check.held", "cubslib.training", "cubslib.scoring"])


class Small(nn.Module):
    """Three layers; unless `plain` the middle one keeps a state and draws numbers."""

    def __init__(self, num_classes: int, plain: bool = False):
        super().__init__()
        self.config = {"network": "small", "num_classes": num_classes}
        self.conv = nn.Conv2d(3, 8, 5, stride=4)
        middle = nn.BatchNorm2d(8), nn.Dropout(0.2)
        self.middle = nn.Conv2d(8, 8, 3) if plain else nn.Sequential(*middle)
        self.fc = nn.Linear(8, num_classes)

    def features(self, x):
        return self.middle(self.conv(x).relu()).relu().mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


def small(run, plain: bool = False) -> Small:
    torch.manual_seed(run.seed)
    return Small(len(run.train.classes), plain)


def shorten(**changes) -> None:
    """Make all recipes small; `changes` are of their fields."""
    common = {"epochs": 3, "batch_size": 16, "sizes": ((0, 32), (0.6, 48))} | changes
    for key, recipe in recipes.RECIPES.items():
        recipes.RECIPES[key] = dataclasses.replace(recipe, **common)


def fit(run, score=None) -> nn.Module:
    """Train the run's first fit as T1 does."""
    score = score or scoring.accuracy
    return training.fit(run, "classification", small(run), nn.CrossEntropyLoss(), score)


def certainty(fabric, model, data, size) -> dict[str, float]:
    """Return the mean probability of the right class as `top1`: finer than counting hits."""
    logits = scoring.outputs(fabric, model, data, size)
    return {"top1": logits.softmax(1)[range(len(data)), data.targets].mean().item()}


def checkpoints(folder: Path) -> dict[str, dict]:
    return {
        f"{file.parent.name}/{file.name}": torch.load(file, weights_only=True)
        for file in sorted(folder.rglob("*.ckpt"))
    }


def files(folder: Path) -> list[str]:
    """Return all that is in a folder, by name."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def leaves(tree, name: str = "") -> dict[str, object]:
    """Everything in nested dicts and lists by where it is, times apart."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: x for key, sub in items for k, x in leaves(sub, f"{name}.{key}").items()}
    return {} if name.endswith(("seconds", "images_per_second")) else {name: tree}


def assert_same(one, other) -> None:
    """Assert that two nested dicts and lists are the same to the bit."""
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if torch.is_tensor(value) else value == other[name]
        assert same, name


def apart(function, *arguments) -> int:
    """Call `function` in a process of its own; return the exit status, negative for a signal."""
    process = FORKS.Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def together(function, world: int, *arguments, machines: int = 1, limit: float = 400) -> list[int]:
    """Call `function` in `world` processes, as torchrun does; return their exit statuses."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world // machines, "MASTER_PORT": store.port}
    common |= {"MASTER_ADDR": "localhost", "TORCHELASTIC_USE_AGENT_STORE": True}
    started, end = [], time.monotonic() + limit
    for rank in range(world):
        machine, local = divmod(rank, world // machines)
        place = {"RANK": rank, "LOCAL_RANK": local, "GROUP_RANK": machine}
        place |= {"TORCHELASTIC_RUN_ID": "test"} | common if world > 1 else {}
        started.append(FORKS.Process(target=_member, args=(place, function, *arguments)))
        started[-1].start()
    for process in started:
        process.join(max(end - time.monotonic(), 0))
    for process in started:
        process.kill()  # none waits for ever
        process.join()
    return [process.exitcode for process in started]


def _member(place: dict, function, *arguments) -> None:
    torch.set_num_threads(1)
    os.environ |= {key: str(value) for key, value in place.items()}
    function(*arguments)


def share(run: runs.Run, metric: bool) -> None:
    """Train as one of some processes; save in the run's folder what was seen and found."""
    images, gradients, model = [], [], small(run, plain=True)
    model.conv.register_forward_pre_hook(
        lambda _, x: images.append(x[0]) if model.training else None
    )
    register_optimizer_step_pre_hook(
        lambda *_: gradients.append([p.grad.clone() for p in model.parameters()])
    )
    how = (losses.MultiSimilarityLoss(), scoring.recall, sampling.class_balanced)
    how = how if metric else (nn.CrossEntropyLoss(), scoring.accuracy)
    training.fit(run, "classification", model, *how)
    fabric = run.fabric
    outputs = scoring.outputs(fabric, model, run.test, 48)
    found = {"images": images, "gradients": gradients, "outputs": outputs}
    found |= {"world": fabric.world_size, "recall": metrics.recall_at_k(outputs, run.test.labels)}
    torch.save(found, run.folder / f"rank{processes.rank()}.pt")


def whole_share(project: Path, data_root: Path, frozen: bool, dies_at: int = 0) -> None:
    """Do all that T1 does in the folder `project`, as one of some processes.

    Args:
        project: there is saved what each process read, judged and wrote.
        data_root: where the sample is.
        frozen: train the CNN, its BatchNorm frozen, in three steps that see every image; otherwise
            the small network for three epochs.
        dies_at: the reading of training images at which process 1 is killed; 0 for none.
    """
    os.chdir(project)
    machine.precision = lambda device: "32-true"
    shorten(lr=0.01, ema_decay=0.8, **({"epochs": 1, "batch_size": 18} if frozen else {}))
    run = runs.start("T1", {"data_root": str(data_root)})
    read, judged = {split: [] for split in ("train", "val", "test")}, []
    written, replace = [], os.replace
    os.replace = lambda *paths: written.append(paths[1].name) or replace(*paths)

    def reading(rows, split, usual):
        read[split].append(np.asarray(rows))
        if processes.rank() == 1 and len(read["train"]) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(rows)

    def score(fabric, model, data, size):
        judged.append({key: x.clone() for key, x in model.state_dict().items()})
        return certainty(fabric, model, data, size)

    for split in read:
        data = getattr(run, split)
        data.read = functools.partial(reading, split=split, usual=data.read)
    torch.manual_seed(run.seed)
    model = freeze(models.CustomCNN(3)) if frozen else small(run)
    try:
        training.fit(run, "classification", model, nn.CrossEntropyLoss(), score)
    except Exception as error:
        if processes.lost(type(error).__name__, str(error)):
            os._exit(3)
        raise
    scoring.record_classifier(run, "classification", model)
    found = {"read": read, "judged": judged, "written": written}
    torch.save(found, project / f"rank{processes.rank()}.pt")


def freeze(model: nn.Module) -> nn.Module:
    """Let BatchNorm normalise by its running statistics, and leave them, in training too."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval().train = lambda mode=True: None
    return model
