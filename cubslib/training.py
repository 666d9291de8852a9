"""The loop, open to the reader: fit, checkpoint, resume, load.

Under it Lightning Fabric places tensors, chooses the precision and joins processes.

Shapes: N images in a data set, B in a process's batch, W processes, S pixels a side, F outputs.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cubslib import CubsError, models, records, sampling, settings
from cubslib.augment import Augmentation, augment, draws
from cubslib.disk import whole
from cubslib.packed import PackedImages
from cubslib.progress import Progress
from cubslib.runs import Run, best_row


def launch(run: Run) -> Fabric:
    """Return the Fabric that a run computes with: one device, or the many processes of torchrun.

    Raises:
        CubsError: the run began on a device that this machine lacks.
    """
    here, begun_on = settings.device(), run.resolved["device"]
    if begun_on not in (here, "cpu") and not run.finished:
        raise CubsError(f"run_dir {run.folder.name} began on {begun_on}: go on where there is one.")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # not a word a launch
    device = here if run.finished else begun_on
    precision = settings.precision(device) if run.finished else run.resolved["precision"]
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fabric = Fabric(accelerator=device, devices=devices, precision=precision)
    fabric.launch()
    return fabric


@dataclass
class Fit:
    """The moving parts of one training.

    `network` is Fabric's wrap of `model`; `averaged` is None where the recipe averages nothing;
    `steps` an epoch take `batch` images each, over all processes.
    """

    run: Run
    name: str
    recipe: settings.Recipe
    fabric: Fabric
    model: nn.Module
    network: nn.Module
    criterion: nn.Module
    batches: Callable
    optimizer: torch.optim.Optimizer
    schedule: OneCycleLR
    averaged: AveragedModel | None
    steps: int
    batch: int
    history: list[dict]

    @property
    def reported(self) -> nn.Module:
        """The network that is judged: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.module


def fit(
    run: Run,
    name: str,
    model: nn.Module,
    criterion: nn.Module,
    score: Callable[[Fabric, nn.Module, PackedImages, int], dict[str, float]],
    batches: Callable = sampling.shuffled,
    fabric: Fabric | None = None,
) -> nn.Module:
    """Train one network by its recipe, or go on where an earlier process stopped.

    Every epoch ends with a checkpoint; killed at any moment and called again, a fit ends with the
    same history and weights. A fit that is complete is read from its files.

    Args:
        run: it trains by `run.recipe(name)` on `run.train` and is judged on `run.val`.
        name: the fit's.
        model: a network of `models`, trained in place.
        criterion: (outputs, targets) of the global batch → a scalar to minimise.
        score: judges the network on val, its first number deciding: `scoring.accuracy` or
            `scoring.recall`.
        batches: an epoch's global batches, `sampling.shuffled` or `sampling.class_balanced`.
        fabric: what computes; by default what `launch` gives.

    Returns:
        `model` with the fit's reported weights: the best on val, or the last where there is none.

    Raises:
        CubsError: the loss is no longer finite, or a checkpoint does not fit the network.
    """
    state = _begin(run, name, model, criterion, batches, fabric or launch(run))
    recipe, history, folder = state.recipe, state.history, run.folder / "checkpoints" / name
    if over(history, recipe):
        print(f"{name}: {len(history)} epochs read from {run.folder.name}; nothing is trained.")
    hidden = over(history, recipe) or not state.fabric.is_global_zero
    images = state.steps * state.batch
    done = {"total": recipe.epochs * images, "initial": len(history) * images}
    with Progress(**done, unit="img", disable=hidden) as bar:
        while not over(history, recipe):
            try:
                row = train_epoch(state, bar)
                if run.val is not None:
                    scores = score(state.fabric, state.reported, run.val, recipe.test_size)
                    row |= {f"val_{key}": value for key, value in scores.items()}
            except KeyboardInterrupt:
                print(f"Interrupted; {name} is saved to epoch {len(history)}: run again to go on.")
                raise
            history.append(row)
            bar.set_postfix({key: f"{value:.3f}" for key, value in best_row(history).items()
                             if key == "loss" or key.startswith("val_")})  # fmt: skip
            if state.fabric.is_global_zero:  # last.ckpt at last: a kill before repeats the epoch
                if best_row(history) is row:
                    _report(state, folder / "best.ckpt")
                run.write_history(name, history)
                _save(state, folder / "last.ckpt")
            state.fabric.barrier()
    model.load_state_dict(records.checkpoint(folder / "best.ckpt")["state_dict"])
    return model


def train_epoch(state: Fit, bar: Progress) -> dict:
    """Train one epoch; return its row of the history."""
    recipe, epoch, total, start = state.recipe, len(state.history), 0, time.perf_counter()
    bar.set_description(f"{state.name}, epoch {epoch + 1} of {recipe.epochs}")
    state.network.train()
    for images, targets in augmented_batches(state):
        outputs, targets = gather(state.fabric, state.network(images), targets)
        loss = state.criterion(outputs, targets)
        state.fabric.backward(loss)
        state.optimizer.step()
        state.optimizer.zero_grad()
        lr = state.schedule.get_last_lr()[0]
        state.schedule.step()
        if state.averaged is not None:
            state.averaged.update_parameters(state.model)
        total += loss.detach()
        if bar.update(len(targets)):  # true when it was drawn: reading the loss waits for the GPU
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    mean, seconds = total.item() / state.steps, time.perf_counter() - start
    if not np.isfinite(mean):
        raise CubsError(f"the loss of {state.name} is {mean} in epoch {epoch + 1}: lower lr.")
    return {
        "epoch": epoch + 1,
        "lr": lr,
        "size": images.shape[-1],
        "loss": mean,
        "seconds": round(seconds, 2),
        "images_per_second": round(state.steps * state.batch / seconds, 1),
    }


def augmented_batches(state: Fit) -> Iterator[tuple[Tensor, Tensor]]:
    """Give this process's share of an epoch: images (B, 3, S, S) and targets (B,).

    Which images, and how each is varied, follows from (seed, fit, epoch) and the place in the
    epoch's global order, so processes together give what one would.
    """
    run, fabric, recipe, epoch = state.run, state.fabric, state.recipe, len(state.history)
    where, how = (run.seed, state.name, epoch), Augmentation(**recipe.augmentation)
    positions = state.batches(run.train.targets, recipe.batch_size, *where)  # (steps, W·B)
    places = np.arange(positions.size).reshape(positions.shape)
    numbers = draws(positions.size, *where)
    torch.manual_seed(sampling.generator(*where, f"rank {fabric.global_rank}").integers(2**63))
    own = [sampling.shard(x, fabric.global_rank, fabric.world_size) for x in (positions, places)]
    for step, (rows, draw) in enumerate(zip(*own, strict=True)):
        progress = (epoch + step / len(positions)) / recipe.epochs
        size = [side for share, side in recipe.sizes if share <= progress][-1]
        images = augment(fabric.to_device(run.train.read(rows)), numbers[draw], how, size)
        yield images.contiguous(memory_format=torch.channels_last), run.train.targets[rows]


def gather(fabric: Fabric, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the global batch's outputs (W·B, F), with gradients, and targets (W·B,).

    Each process then has the whole loss, and the average of the processes' gradients, which DDP
    takes, is the gradient of the whole loss.
    """
    outputs = fabric.all_gather(outputs, sync_grads=True)  # (B, F), or (W, B, F) where W > 1
    targets = fabric.all_gather(fabric.to_device(targets))
    return outputs.flatten(0, -2), targets.flatten()


def over(history: list[dict], recipe: settings.Recipe) -> bool:
    """Say whether a fit is done: all epochs, or stopped early.

    Under a one-cycle schedule the gain comes late: it is not stopped in the first two thirds.
    """
    done = len(history)
    stale = done - best_row(history)["epoch"] if history else 0
    return done >= recipe.epochs or (3 * done >= 2 * recipe.epochs and stale >= recipe.patience)


def load(run_dir: str | Path) -> nn.Module:
    """Return a finished run's network in eval mode, with its `classes` and `image_size`.

    Args:
        run_dir: the run's folder, or a `best.ckpt`.

    Raises:
        CubsError: there is no checkpoint of ours.
    """
    path = Path(run_dir)
    saved = records.checkpoint(path / "checkpoints" / "best.ckpt" if path.is_dir() else path)
    model = models.rebuild(saved["config"])
    load_state(model, saved["state_dict"], path)
    model.classes, model.image_size = saved["classes"], saved["image_size"]
    return model.eval()


def _begin(run, name, model, criterion, batches, fabric) -> Fit:
    """Build what training moves, in the state that the last checkpoint holds."""
    recipe = run.recipe(name)
    steps, batch = batches(run.train.targets, recipe.batch_size, run.seed, name, 0).shape
    model.to(fabric.device, memory_format=torch.channels_last)
    averaged = None
    if recipe.ema_decay:
        average = get_ema_multi_avg_fn(recipe.ema_decay)
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    network, optimizer = fabric.setup(model, _optimizer(model, recipe))
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = OneCycleLR(optimizer, peaks, recipe.epochs * steps, cycle_momentum=False)
    moving = (model, network, criterion, batches, optimizer, schedule, averaged)
    state = Fit(run, name, recipe, fabric, *moving, steps, batch, history=[])
    path = run.folder / "checkpoints" / name / "last.ckpt"
    if path.exists():
        try:
            saved = torch.load(path, map_location=fabric.device, weights_only=True)
        except Exception as error:  # torch raises many kinds for what is no checkpoint
            raise CubsError(f"{path} cannot be read: ask for restart=True.") from error
        state.history = saved.pop("history")
        for part, values in saved.items():
            load_state(getattr(state, part), values, path)
    return state


def _optimizer(model: nn.Module, recipe: settings.Recipe) -> torch.optim.Optimizer:
    """Build the optimizer; weights of two and more dimensions decay, the gates learn slower."""
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        lr = recipe.lr * (recipe.gate_lr if ".attention." in name else 1)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    groups = [{"params": p, "lr": lr, "weight_decay": d} for (lr, d), p in groups.items()]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups)


def _save(state: Fit, path: Path) -> None:
    parts = ["model", "optimizer", "schedule"] + ["averaged"] * (state.averaged is not None)
    content = {part: getattr(state, part).state_dict() for part in parts}
    with whole(path) as draft:
        torch.save(content | {"history": state.history}, draft)


def _report(state: Fit, path: Path) -> None:
    """Write the weights that the fit would report, with what rebuilds their network."""
    with whole(path) as draft:
        torch.save(
            {
                "state_dict": {key: x.cpu() for key, x in state.reported.state_dict().items()},
                "config": state.model.config,
                "classes": list(state.run.train.classes),
                "image_size": state.run.resolved["image_size"],
                "epoch": len(state.history),
            },
            draft,
        )


def load_state(part, values: dict, path: Path, **options) -> None:
    """Load `values` from the checkpoint at `path` into a network or an optimizer.

    Raises:
        CubsError: they do not fit.
    """
    try:
        part.load_state_dict(values, **options)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CubsError(
            f"{path.name} of {path.parent.name} is a checkpoint of another network: give its own."
        ) from error
