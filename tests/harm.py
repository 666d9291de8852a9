"""Whole runs of T1 and T4 on small networks, and what befalls them: kills and failing writes.

A module of its own, as `small`: the processes that are killed import it.
"""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import small
import torch
from torch import nn

from cubslib import losses, models, runs, sampling, scoring, training
from cubslib.runs import finished
from cubslib.runs.history import from_csv


def whole(task: str, data_root: Path | str) -> runs.Run:
    """Do all that T1 or T4 does, in the working folder."""
    run = runs.start(task, {"data_root": str(data_root), "seed": 3})
    if task == "T1":
        scoring.record_classifier(run, "classification", small.fit(run, small.certainty))
        return run
    both_stages(run, sides=(False, True))
    return run


def both_stages(run: runs.Run, sides=(False,)) -> None:
    """Do all that T4 does after its start; its galleries are of unseen classes, or of seen too."""
    first = nn.CrossEntropyLoss(), sampling.shuffled
    second = losses.MultiSimilarityLoss(margin=run["margin"]), sampling.class_balanced
    second = first if run["mining"] == losses.CONTROL else second
    model, found = small.small(run), ({}, {})
    for stage, how in (("classification", first), ("embedding", second)):
        torch.manual_seed(run.seed)
        model = model if how == first else models.embed(model, 8)
        training.fit(run, stage, model, how[0], scoring.recall, how[1])
        for seen in sides:
            found[seen][stage] = scoring.gallery(run, stage, model, seen=seen)
    scoring.record_retrieval(run, model, *found)


def at_write(number: int, act, after: bool = False) -> list[str]:
    """Call `act` before, or after, the `number`-th file is put in its place; list their names."""
    names, replace = [], os.replace

    def watched(source, target):
        names.append(Path(target).name)
        due = len(names) == number
        if due and not after:
            act()
        replace(source, target)
        if due and after:
            act()

    os.replace = watched
    return names


def spoil(path: Path, how, name: str) -> None:
    """Damage an .npz file: other bytes, a part of it, or the array `name` of the shape `how`."""
    with np.load(path) as file:
        good = dict(file)
    if isinstance(how, bytes):
        path.write_bytes(how)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "lacks":
        np.savez(path, names=good["names"])
    elif how == "pickle":
        np.savez(path, **good | {"names": np.array([{}] * len(good["names"]), object)})
    else:
        np.savez(path, **good | {name: np.zeros(how, np.float32)})


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def apart(task: str, project: Path, data_root: Path, write: int = 0, after=False, ready=None):
    """Do a whole run in a process of its own; die at the `write`-th write, if any."""
    os.chdir(project)
    torch.set_num_threads(1)
    small.shorten(ema_decay=0.8)
    names = at_write(write, die, after)
    if ready is not None:
        ready.set()
    began = time.monotonic()
    whole(task, data_root)
    seconds = time.monotonic() - began
    (project / "done.json").write_text(json.dumps({"names": names, "seconds": seconds}))


def killed_after(seconds: float, *arguments) -> bool:
    """Do a whole run and kill it after `seconds`; say whether it was still at work."""
    ready = small.FORKS.Event()
    process = small.FORKS.Process(target=apart, args=(*arguments, 0, False, ready))
    process.start()
    assert ready.wait(120)
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def result(project: Path) -> dict:
    """Return all that the one finished run in `project` left, times apart."""
    ((folder, record),) = finished.find(project / "runs")
    with np.load(folder / "arrays.npz") as arrays:
        found = {name: torch.from_numpy(x) for name, x in arrays.items() if x.dtype.kind != "U"}
    return {
        "files": [file for file in small.files(project / "runs") if not file.endswith(".lock")],
        "record": record | {"finished": ""},
        "history": from_csv((folder / "history.csv").read_text()),
        "checkpoints": small.checkpoints(folder),
        "arrays": found,
    }
