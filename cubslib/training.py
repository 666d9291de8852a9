"""The loop, open to the reader: fit, checkpoint, resume, load.

Under it Lightning Fabric places tensors, chooses the precision and joins processes.

Shapes: N images in a data set, B in a process's batch, W processes, S pixels a side, F outputs.
"""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cubslib import CubsError, budget, interface, models, sampling
from cubslib.augment import Augmentation, augment, draws
from cubslib.disk import fingerprint
from cubslib.packed import PackedImages
from cubslib.progress import Progress
from cubslib.recipes import Recipe
from cubslib.runs import Run, finished, parameters, settle
from cubslib.runs.history import best_row
from cubslib.state import Fit, begin, load_state, save, saved_epochs, share_statistics

Score = Callable[[Fabric, nn.Module, PackedImages, int], dict[str, float]]


def fit(
    run: Run,
    name: str,
    model: nn.Module,
    criterion: nn.Module,
    score: Score,
    batches: Callable = sampling.shuffled,
) -> nn.Module:
    """Train one network by its recipe, or go on where an earlier process stopped.

    Every epoch ends with a checkpoint; killed at any moment and called again, a fit ends with the
    same history and weights, to the bit on the same processor, threads and versions. A fit that is
    complete, or that T4 shares with an earlier run, is read from its files.

    Args:
        run: it trains by `run.recipe(name)` on `run.train` and is judged on `run.val`.
        name: the fit's.
        model: a network of `models`, or one's own (see `interface`), trained in place.
        criterion: (outputs, targets) of the global batch → a scalar to minimise.
        score: judges the network on val, its first number deciding: `scoring.accuracy` or
            `scoring.recall`.
        batches: an epoch's global batches, `sampling.shuffled` or `sampling.class_balanced`.

    Returns:
        `model` with the fit's reported weights: the best on val, or the last where there is none.
        Of a finished run whose fit's own checkpoint was removed: see `reported`.

    Raises:
        CubsError: the network lacks something, a step needs more memory than there is, the loss is
            no longer finite, or a checkpoint does not fit the network.
    """
    if run.finished:
        rows = run.epochs(name)
        if not all({"seconds", "loss"} <= row.keys() for row in rows):
            raise CubsError(f"{run.folder.name}/history.csv lacks seconds or losses: restore it.")
        print(f"{told(name, rows)}\nRead from {run.folder.name}; nothing is trained.")
        return reported(run, name, model)
    recipe = run.recipe(name)
    steps, batch = batches(run.train.targets, recipe.batch_size, run.seed, name, 0).shape
    state = begin(run, name, model, steps)
    untrained = None if state.saved else copy.deepcopy(model.state_dict())
    if not over(state.history, recipe):
        budget.reckon(run, name, model, batch, state.saved)
    images, hidden = steps * batch, not run.fabric.is_global_zero
    done = {"total": recipe.epochs * images, "initial": state.saved * images}
    with Progress(**done, unit="img", disable=hidden) as bar:
        try:
            while not over(state.history, recipe):
                bar.set_description(f"{name}, epoch {len(state.history) + 1} of {recipe.epochs}")
                row = train_epoch(state, criterion, batches, bar)
                if run.val is not None:
                    scores = score(run.fabric, state.reported, run.val, recipe.test_size)
                    row |= {f"val_{key}": value for key, value in scores.items()}
                state.history.append(run.fabric.broadcast(row))  # all then end at the same epoch
                save(state)
        except KeyboardInterrupt:
            kept = saved_epochs(run, name)
            if untrained and not kept:  # the same call then begins anew
                model.load_state_dict(untrained)
            print(f"Interrupted; {name} is saved to epoch {kept}: run again to go on.")
            raise
        bar.conclude(told(name, state.history))
    return reported(run, name, model)


def train_epoch(state: Fit, criterion: nn.Module, batches: Callable, bar: Progress) -> dict:
    """Train one epoch; return its row of the history, with the means of the criterion's `terms`."""
    fabric, terms, seen = state.run.fabric, [], 0
    start, cpu_start = time.perf_counter(), time.process_time()
    state.network.train()
    for images, targets in augmented_batches(state, batches):
        outputs, targets = gather(fabric, state.network(images), targets)
        loss = criterion(outputs, targets)
        fabric.backward(loss)
        state.optimizer.step()
        state.optimizer.zero_grad()
        lr = state.schedule.get_last_lr()[0]
        state.schedule.step()
        if state.averaged is not None:
            state.averaged.update_parameters(state.model)
        terms.append({"loss": loss.detach()} | getattr(criterion, "terms", {}))
        seen += len(targets)
        if bar.update(len(targets)) or fabric.device.type == "cpu":  # reading it waits for a GPU
            bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
            if not loss.isfinite():
                raise _diverged(state, len(terms))
    share_statistics(state)
    found = {name: torch.stack([step[name] for step in terms]) for name in terms[-1]}
    final = (found["loss"], *state.model.state_dict().values())
    if not all(values.isfinite().all() for values in final):
        raise _diverged(state, len(terms))
    seconds = time.perf_counter() - start
    return {
        "epoch": len(state.history) + 1,
        "lr": lr,
        "size": images.shape[-1],
        **{name: values.mean().item() for name, values in found.items()},
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu_start, 2),
        "images_per_second": round(seen / seconds, 1),
    }


def _diverged(state: Fit, step: int) -> CubsError:
    run, rate = state.run, f"{state.recipe.lr / 10:g}"
    return CubsError(
        f"the loss of {state.name} is not finite at step {step} of epoch {len(state.history) + 1}; "
        f"epochs up to {state.saved} are kept: begin a new run with a lower rate, "
        f"`{parameters.command(run.task, run.asked, lr=rate)}`."
    )


def augmented_batches(state: Fit, batches: Callable) -> Iterator[tuple[Tensor, Tensor]]:
    """Give this process's share of an epoch: images (B, 3, S, S) and targets (B,).

    Which images, and how each is varied, follows from (seed, fit, epoch) and the place in the
    epoch's global order, so processes together give what one would.
    """
    run, fabric, recipe, epoch = state.run, state.run.fabric, state.recipe, len(state.history)
    where = run.seed, state.name, epoch
    positions = batches(run.train.targets, recipe.batch_size, *where)  # (steps, W·B)
    places = np.arange(positions.size).reshape(positions.shape)
    numbers = draws(positions.size, *where)
    torch.manual_seed(sampling.generator(*where, f"rank {fabric.global_rank}").integers(2**63))
    own = [sampling.shard(x, fabric.global_rank, fabric.world_size) for x in (positions, places)]
    for step, (rows, draw) in enumerate(zip(*own, strict=True)):
        progress = (epoch + step / len(positions)) / recipe.epochs
        size, how = size_at(recipe, progress), augmentation_at(recipe, progress)
        images = augment(fabric.to_device(run.train.read(rows)), numbers[draw], how, size)
        yield images.contiguous(memory_format=torch.channels_last), run.train.targets[rows]


def size_at(recipe: Recipe, progress: float) -> int:
    """Return how many pixels a side are trained on after a share `progress` of the steps."""
    return [side for share, side in recipe.sizes if share <= progress][-1]


def augmentation_at(recipe: Recipe, progress: float) -> Augmentation:
    """Return how images are varied after a share `progress` of the steps."""
    return Augmentation(**recipe.augmentation, native=progress >= recipe.native_from)


def gather(fabric: Fabric, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the global batch's outputs (W·B, F), with gradients, and targets (W·B,).

    Each process then has the whole loss, and the average of the processes' gradients, which DDP
    takes, is the gradient of the whole loss.
    """
    outputs = fabric.all_gather(outputs, sync_grads=True)  # (B, F), or (W, B, F) where W > 1
    targets = fabric.all_gather(fabric.to_device(targets))
    return outputs.flatten(0, -2), targets.flatten()


def over(history: list[dict], recipe: Recipe) -> bool:
    """Say whether a fit is done: all epochs, or stopped early.

    Under a one-cycle schedule the gain comes late: it is not stopped in the first two thirds.
    """
    done = len(history)
    stale = done - best_row(history)["epoch"] if history else 0
    return done >= recipe.epochs or (3 * done >= 2 * recipe.epochs and stale >= recipe.patience)


def told(name: str, history: list[dict]) -> str:
    """Say in a line what a fit did: epochs, minutes, loss, and the best score where there is one.

    >>> told("embedding", [{"epoch": 1, "seconds": 90, "loss": 0.5}])
    'embedding: 1 epoch in 1.5 min, loss 0.500 → 0.500'
    """
    if not history:
        return f"{name}: no epoch."
    minutes, best = sum(row["seconds"] for row in history) / 60, best_row(history)
    text = f"{name}: {len(history)} epoch{'s'[: len(history) > 1]} in {minutes:.1f} min"
    text += f", loss {history[0]['loss']:.3f} → {history[-1]['loss']:.3f}"
    scored = next(((key, value) for key, value in best.items() if key.startswith("val_")), None)
    return text + (f", best {scored[0]} {scored[1]:.1%} (epoch {best['epoch']})" if scored else "")


def load(run_dir: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Return a finished run's network in eval mode, with its `classes` and `image_size`.

    Args:
        run_dir: the run's folder, or a `best.ckpt`.
        model: one's own network, built as it was to be trained; it gets the weights. None for a
            network of `models`: a checkpoint names it and holds no code.

    Raises:
        CubsError: there is no checkpoint of ours, or it is another network's.
    """
    path = finished.weights(Path(run_dir))
    saved = finished.checkpoint(path)
    try:
        if model is None:
            with torch.device("meta"):  # no memory is taken before it is known that weights fit
                model = models.rebuild(saved["config"])
        else:
            interface.match(model, saved["config"], path)
        model.classes, model.image_size = saved["classes"], saved["image_size"]
    except CubsError:
        raise
    except Exception as error:  # of many kinds, by what is wrong in the config
        raise CubsError(f"{path} does not say which network it is of: give a best.ckpt.") from error
    load_state(model, saved["state_dict"], path, assign=True)
    return model.eval()


def initialise(run: Run, model: nn.Module) -> bool:
    """Give `model` the weights that T4 begins from; its last layer keeps its own.

    A run that has a checkpoint of its own goes on without these.

    Returns:
        Whether `model` has the weights that the run began from, which may be random ones.

    Raises:
        CubsError: the checkpoint is gone or another than the run began from, or does not fit.
    """
    path = settle.first_weights(run.folder, run.asked, run.resolved)
    begun = run.finished or run.checkpoint("classification", "last").exists()
    if path is None or (begun and not path.exists()):
        return path is None
    saved = finished.checkpoint(path)["state_dict"]
    if fingerprint(path.read_bytes()) != run["init_fingerprint"]:
        if begun:
            return False
        raise CubsError(
            f"{path} is not what {run.folder.name} began from: restore it, or ask for restart=True."
        )
    saved = {key: value for key, value in saved.items() if not key.startswith("fc.")}
    own = {
        key for key in model.state_dict() if not key.startswith("fc.") and "attention" not in key
    }
    if own - saved.keys():
        raise CubsError(f"{path} is a checkpoint of another network: give one of ResNet-18.")
    load_state(model, saved, path, strict=False)
    return True


def reported(run: Run, name: str, model: nn.Module) -> nn.Module:
    """Return `model` with the weights that the fit `name` of a run reports.

    Of a finished run whose fits' checkpoints were removed, the run's own hold one fit's weights;
    another fit's `model` is returned as it is.
    """
    path = run.checkpoint(name)
    if run.finished and not path.exists():
        fits = list(run["recipes"])
        if name != (run.record["settings"]["fashion"] if run.task == "T3" else fits[-1]):
            return model
        path = run.checkpoint()
    load_state(model, finished.checkpoint(path)["state_dict"], path)
    return model
