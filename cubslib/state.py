"""What moves in one training: built, saved after every epoch, restored."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import distributed, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cubslib import CubsError, interface, optimizers
from cubslib.disk import fingerprint, whole
from cubslib.recipes import Recipe
from cubslib.runs import Run, finished
from cubslib.runs.history import best_row


@dataclass
class Fit:
    """What moves in one training.

    `network` is Fabric's wrap of `model`; `averaged` is None where the recipe averages nothing;
    `saved` is how many epochs of the history are on disk.
    """

    run: Run
    name: str
    model: nn.Module
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: OneCycleLR
    averaged: AveragedModel | None
    history: list[dict] = field(default_factory=list)
    saved: int = 0

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return self.run.recipe(self.name)

    @property
    def reported(self) -> nn.Module:
        """The network that is judged: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.module


def begin(run: Run, name: str, model: nn.Module, steps: int) -> Fit:
    """Build what training moves, in the state that the last checkpoint holds, own or shared.

    Args:
        run: its recipe for `name` says what is built.
        name: the fit's.
        model: the network, moved to the run's device.
        steps: optimizer steps an epoch, which the schedule counts.

    Raises:
        CubsError: the network lacks something, the checkpoint is damaged or another network's, or a
            shared stage's is gone.
    """
    recipe, fabric = run.recipe(name), run.fabric
    sizes = [side for _, side in recipe.sizes] + [recipe.test_size]
    interface.check(model, len(run.train.classes), sizes)
    take_stage(run, name)
    model.to(fabric.device, memory_format=torch.channels_last)
    averaged = None
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if recipe.ema_decay:
        average = get_ema_multi_avg_fn(recipe.ema_decay)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    network, optimizer = fabric.setup(model, optimizers.build(model, recipe))
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = OneCycleLR(optimizer, peaks, recipe.epochs * steps, cycle_momentum=False)
    state = Fit(run, name, model, network, optimizer, schedule, averaged)
    path = run.checkpoint(name, "last")
    if path.exists():
        try:
            saved = torch.load(path, map_location=fabric.device, weights_only=True)
            state.history = saved.pop("history")
            best_row(state.history)["epoch"]
            loaded = [(part, saved[name]) for name, part in _parts(state).items()]
        except Exception as error:  # torch raises many kinds for what is no checkpoint
            raise CubsError(f"{path} cannot be read: ask for restart=True.") from error
        for part, values in loaded:
            load_state(part, values, path)
        state.saved = len(state.history)
        if fabric.is_global_zero:
            _follow(state)
        fabric.barrier()
    return state


def take_stage(run: Run, name: str) -> None:
    """Copy the checkpoints of a stage 1 that T4 shares, if this is one and has none of its own.

    Args:
        run: it settled whose stage 1 it takes, if any's.
        name: the fit that is about to begin.

    Raises:
        CubsError: they are gone, or not what the run settled.
    """
    theirs, last = run.resolved.get("classification_from"), run.checkpoint(name, "last")
    if name != "classification" or theirs is None:
        return
    begun = last.exists()
    run.fabric.barrier()  # every process has looked before the first one copies
    if run.fabric.is_global_zero and not begun:
        source = run.folder.with_name(theirs) / "checkpoints" / name
        best, mark = source / "best.ckpt", run["classification_fingerprint"]
        there = best.is_file() and (source / last.name).is_file()
        if not there or fingerprint(best.read_bytes()) != mark:
            raise CubsError(f"{theirs} has no longer the {name} that {run.folder.name} shares: "
                            "restore it, or ask for restart=True.")  # fmt: skip
        for path in (best, source / last.name):  # the last one says that the fit is there
            with whole(last.with_name(path.name)) as draft:
                shutil.copyfile(path, draft)
        print(f"{name} is taken from {theirs}, which has all of it in common with this run.")
    run.fabric.barrier()


def share_statistics(state: Fit) -> None:
    """Give every process the first one's BatchNorm statistics: those that are saved and judged.

    A step normalises by the whole batch on CUDA (SyncBatchNorm), and on a CPU, for which there is
    none, by each process's own part of it.
    """
    for part in (state.model, state.averaged):
        for buffer in part.buffers() if part and state.run.fabric.world_size > 1 else ():
            distributed.broadcast(buffer, 0)


def saved_epochs(run: Run, name: str) -> int:
    """Return how many epochs of a fit its last.ckpt holds: what a resume would find."""
    path = run.checkpoint(name, "last")
    if not path.exists():
        return 0
    return len(torch.load(path, map_location="cpu", weights_only=True)["history"])


def _parts(state: Fit) -> dict:
    """What a checkpoint holds beside the history; `scale` is the 16-bit loss scaler's."""
    parts = {name: getattr(state, name) for name in ("model", "optimizer", "schedule", "averaged")}
    parts["scale"] = state.run.fabric.strategy.precision
    return {name: part for name, part in parts.items() if part is not None}


def save(state: Fit) -> None:
    """Write last.ckpt, which alone says how far the fit is, then what follows from it."""
    if state.run.fabric.is_global_zero:
        content = {name: part.state_dict() for name, part in _parts(state).items()}
        _write(content | {"history": state.history}, state.run.checkpoint(state.name, "last"))
        state.saved = len(state.history)
        _follow(state)
    state.run.fabric.barrier()


def _write(content: dict, path: Path) -> None:
    """Write a checkpoint whole; equal content gives equal bytes, as a file's name would not."""
    with whole(path) as draft, open(draft, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's, over what the system said of a write
            raise error.__context__ or error from None


def _follow(state: Fit) -> None:
    """Bring best.ckpt and the history to where last.ckpt is: a kill may have come between."""
    best, path = best_row(state.history)["epoch"], state.run.checkpoint(state.name)
    written = finished.checkpoint(path).get("epoch") if path.exists() else 0
    if best == len(state.history) != written:
        content = {
            "state_dict": {key: x.cpu() for key, x in state.reported.state_dict().items()},
            "config": state.model.config,
            "classes": list(state.run.train.classes),
            "image_size": state.run["image_size"],
            "epoch": best,
        }
        _write(content, path)
    elif best != written:
        raise CubsError(f"{path} is not that of epoch {best}, the best so far: restore it, or ask "
                        "for restart=True.")  # fmt: skip
    state.run.write_history(state.name, state.history)


def load_state(part, values: dict, path: Path, **options) -> None:
    """Load `values` from the checkpoint at `path` into a network or an optimizer.

    Raises:
        CubsError: they do not fit.
    """
    try:
        part.load_state_dict(values, **options)
    except Exception as error:  # of many kinds, by what does not fit
        raise CubsError(
            f"{path.name} of {path.parent.name} is a checkpoint of another network: give its own."
        ) from error
