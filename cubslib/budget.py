"""What a training will cost on this machine, reckoned before it begins: memory and minutes.

Shapes: B images in a step, S pixels a side.
"""

from collections import Counter

from torch import nn

from cubslib import CubsError, inside, machine, models, optimizers
from cubslib.runs import Run, parameters

EXPECTED = "Expected: "  # how the sentence about the minutes begins
GIB = 2**30
STATE_BYTES = 12  # a parameter: its gradient, and at most two numbers of the optimizer's
STEPS = 3  # measured at each size


def reckon(run: Run, name: str, model: nn.Module, batch: int, done: int) -> None:
    """Refuse a fit that memory cannot hold; print how long what is left of its run will take.

    Nothing is reckoned of drawn data, which are few and small.

    Args:
        run: it is about to train `model`, which is on its device.
        name: the fit.
        model: left as it is.
        batch: B of all processes.
        done: epochs of the fit that are trained already.

    Raises:
        CubsError: a step of B images needs more memory than is free.
    """
    if run["dataset"] == "sample":
        return
    with run.fabric.autocast():
        refuse_too_large(run, name, model, batch)
        minutes = seconds_left(run, name, model, batch, done) / 60
    if run.fabric.is_global_zero:
        fits = list(run["recipes"])
        told = f"{minutes / 60:.1f} hours" if minutes > 120 else f"{max(minutes, 1):.0f} min"
        print(f"{EXPECTED}about {told} on this machine for {', '.join(fits[fits.index(name) :])}, "
              f"reckoned from {STEPS} measured steps at each size.", flush=True)  # fmt: skip


def refuse_too_large(run: Run, name: str, model: nn.Module, batch: int) -> None:
    """Refuse a step that memory cannot hold; arguments and error as of `reckon`.

    An image's bytes are the difference between what 4 and what 2 of them keep for the backward
    pass, at the largest size; what is held for moments only is not counted.
    """
    size, device = max(side for _, side in run.recipe(name).sizes), run.fabric.device.type
    few, more = (inside.kept_bytes(model, size, count) for count in (2, 4))
    share = run.fabric.world_size if device == "cuda" else 1  # a GPU a process, or one memory
    image, fixed = (more - few) / 2 / share, STATE_BYTES * models.num_parameters(model)
    needed, free = fixed + image * batch, machine.free_memory(device)
    if free is not None and needed > free:
        room = max(int(0.8 * (free - fixed) / image) // 8 * 8, 8)  # with something to spare
        line = parameters.command(run.task, run.asked, batch_size=room)
        raise CubsError(
            f"{name} needs about {needed / GIB:.1f} GiB for a step of {batch} images of {size} "
            f"pixels, and {free / GIB:.1f} GiB are free: close other programs and run again, or "
            f"begin a new run with a smaller batch, `{line}`."
        )


def seconds_left(run: Run, name: str, model: nn.Module, batch: int, done: int) -> float:
    """Return the seconds that a run's fits from `name` on will take; arguments as of `reckon`.

    A step is a forward and a backward pass and the optimizer's, which all fits of a run share;
    judging an image of val takes a third of the passes.
    """
    fits, images, steps = list(run["recipes"]), Counter(), 0.0
    for fit in fits[fits.index(name) :]:
        recipe = run.recipe(fit)
        begun = done / recipe.epochs if fit == name else 0.0
        ends = [share for share, _ in recipe.sizes[1:]] + [1.0]
        for (start, side), end in zip(recipe.sizes, ends, strict=True):
            passes = recipe.epochs * max(end - max(start, begun), 0)
            images[side] += passes * len(run.train)
        steps += recipe.epochs * (1 - begun) * len(run.train) / recipe.batch_size
        if run.val is not None:
            images[recipe.test_size] += recipe.epochs * (1 - begun) * len(run.val) / 3
    few = batch // run.fabric.world_size
    few = few if run.fabric.device.type == "cuda" else min(few, 32)  # a GPU wants a whole batch
    seconds = steps * optimizers.step_seconds(model, run.recipe(name))
    for side, count in images.items():
        passes = inside.step_seconds(model, side, few, STEPS) / few / run.fabric.world_size
        seconds += count * passes
    return seconds
