"""What a notebook shows of a run: each view computes from the run, draws, and says what is seen.

A view saves its picture in the run's folder, displays it, and returns a sentence or a table.
"""

import copy
import inspect

import numpy as np
import torch
from IPython.display import Code, Markdown
from torch import nn

from cubslib import inside, machine, metrics, scoring
from cubslib.augment import Augmentation, augment, draws, prepare, restore
from cubslib.pages import pictures, plots
from cubslib.pages.table import Table
from cubslib.runs import Run
from cubslib.training import over, size_at

GRID = 16  # images


def source(thing) -> Code | Markdown:
    """Show the source of a class or function of the library, as this process runs it."""
    if machine.sources() != machine.IMPORTED:
        return Markdown("A module's file has changed since it was imported: it is not shown.")
    return Code(inspect.getsource(thing), language="python")


def splits(run: Run) -> Table:
    """Tabulate what each split holds, with its channels' mean and standard deviation."""
    held = {"train": run.train, "val": run.val, "test": run.test}
    return Table([{"split": name} | data.summary() for name, data in held.items() if data])


def images(run: Run) -> Markdown:
    """Show training images, evenly spaced through the classes, as the network sees them."""
    rows = spaced(len(run.train), GRID)
    names = [run.train.classes[target] for target in run.train.targets[rows]]
    seen = restore(prepare(run.train.read(rows), run["image_size"]))
    plots.show(pictures.image_grid(seen, names), run.figure("data"))
    return Markdown(f"{len(rows)} training images, {run['image_size']} pixels a side.")


def augmented(run: Run, fit: str) -> Markdown:
    """Show one training image as the first epoch of a fit varies it, in as many draws."""
    recipe = run.recipe(fit)
    how, numbers = Augmentation(**recipe.augmentation), draws(GRID, run.seed, fit, 0)
    one = run.train.read([0]).expand(GRID, -1, -1, -1)
    varied = restore(augment(one, numbers, how, recipe.test_size))
    titles = [f"draw {i + 1}" for i in range(GRID)]
    plots.show(pictures.image_grid(varied, titles), run.figure("augmented"))
    name = run.train.classes[run.train.targets[0]]
    crop = f"crops keep at least {how.min_area:.0%} of the area"
    if recipe.native_from < 1:
        crop += (
            f"; after {recipe.native_from:.0%} of the training they are cut from the image's own "
            "pixels and not resized"
        )
    return Markdown(f"One image of {name} in {GRID} draws: {crop}.")


def before_training(run: Run, model: nn.Module, scored: bool = True) -> Table:
    """Check an untrained network: its output's shape, its first loss, its score.

    A network that knows nothing gives each of C classes 1/C: its loss is about ln C, its score
    about chance.

    Args:
        run: its training images are looked at.
        model: the network.
        scored: whether it has the run's first weights; if not, its score would say nothing.
    """
    rows = spaced(len(run.train), 64)
    network = copy.deepcopy(model).train()  # BatchNorm counts what it sees
    logits = network(prepare(run.train.read(rows), run["image_size"]))
    loss = nn.functional.cross_entropy(logits, run.train.targets[rows]).item()
    count = len(run.train.classes)
    checks = [
        ("output", f"{tuple(logits.shape)}", f"({len(rows)}, {count})"),
        ("cross-entropy", f"{loss:.2f}", f"ln {count} = {np.log(count):.2f}"),
    ]
    if not scored:
        checks.append(("score", "the first weights are gone or were replaced", ""))
    elif run.task == "T4":
        score = scoring.recall(run.fabric, model, run.train, run["image_size"])["recall_at_1"]
        chance = metrics.chance(run.train.labels, (1,))[1]
        checks.append(("Recall@1 on train", f"{score:.1%}", f"chance {chance:.1%}"))
    else:
        score = scoring.accuracy(run.fabric, model, run.val, run["image_size"])["top1"]
        checks.append(("top-1 on val", f"{score:.1%}", f"chance {1 / count:.1%}"))
    return Table([dict(zip(("check", "found", "expected"), row, strict=True)) for row in checks])


def step_times(run: Run, **models: nn.Module) -> Table:
    """Time a training step of 32 images at each of the recipe's sizes, here and now.

    Args:
        run: its first fit's sizes are timed.
        **models: networks by the name of their column.
    """
    sizes = dict.fromkeys(side for _, side in run.recipe(next(iter(run["recipes"]))).sizes)
    rows = []
    for side in sizes:
        seconds = {name: inside.step_seconds(model, side) for name, model in models.items()}
        rows.append({"pixels": side} | {name: f"{1000 * s:.0f} ms" for name, s in seconds.items()})
        if len(models) == 2:
            first, second = seconds.values()
            rows[-1]["ratio"] = f"{second / first:.2f}"
    return Table(rows)


def schedule(run: Run, fit: str) -> Markdown:
    """Show the learning rate and the size of the images over a fit's training."""
    recipe = run.recipe(fit)
    share = np.linspace(0, 1, 201)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, len(share))
    rates = []
    for _ in share:
        rates.append(cycle.get_last_lr()[0])
        optimizer.step()
        if len(rates) < len(share):
            cycle.step()
    sides = [size_at(recipe, x) for x in share]
    panels = {"learning rate": {fit: rates}, "pixels a side": {fit: sides}}
    plots.show(plots.lines(panels, share, "share of the training"), run.figure(f"schedule_{fit}"))
    peak = share[int(np.argmax(rates))]
    grown = " → ".join(str(side) for side in dict.fromkeys(sides))
    return Markdown(f"The rate peaks at {recipe.lr:g} after {peak:.0%} of the training; "
                    f"images of {grown} pixels.")  # fmt: skip


def curves(run: Run) -> Markdown:
    """Show the loss and the score on val by epoch; say which epoch is reported, and why it ended.

    T4's two losses have an axis each: they cannot be compared.
    """
    history = run.history()
    plots.show(plots.curves(history, one_loss=run.task != "T4"), run.figure("curves"))
    told = []
    for fit in run["recipes"]:
        rows = [row for row in history if row["fit"] == fit]
        early = len(rows) < run.recipe(fit).epochs and over(rows, run.recipe(fit))
        end = "early stopping ended it" if early else "it ran its full length"
        why = "the best on val" if run.val else "the last, as there is no val"
        told.append(f"`{fit}`: {end}; reported is epoch {run.best(fit)['epoch']}, {why}.")
    return Markdown(" ".join(told))


def classes(run: Run) -> Markdown:
    """Show which classes are easy and which are hard: all in a matrix, or the best and worst."""
    logits, labels = (torch.from_numpy(run.arrays[name]) for name in ("logits", "labels"))
    counts = metrics.confusion(logits.argmax(1), labels, len(run.test.classes))
    accuracy = counts.diagonal() / counts.sum(1)
    few = len(run.test.classes) <= 30
    drawn = plots.confusion(counts, run.test.classes) if few else plots.worst_classes(
        accuracy, run.test.classes)  # fmt: skip
    plots.show(drawn, run.figure("classes"))
    best, worst = accuracy.argmax(), accuracy.argmin()
    wrong = counts.clone().fill_diagonal_(0)
    if not wrong.any():
        return Markdown("Every test image is classified correctly.")
    true, taken = divmod(wrong.argmax().item(), len(counts))
    return Markdown(
        f"Easiest is {run.test.classes[best]} ({accuracy[best]:.0%} correct), hardest "
        f"{run.test.classes[worst]} ({accuracy[worst]:.0%}); most often "
        f"{run.test.classes[true]} is taken for {run.test.classes[taken]} "
        f"({wrong[true, taken]} of {counts[true].sum()})."
    )


def mistakes(run: Run) -> Markdown:
    """Show the test images on which the network is surest of a wrong class."""
    logits, labels = (torch.from_numpy(run.arrays[name]) for name in ("logits", "labels"))
    sure, taken = logits.softmax(1).max(1)
    wrong = torch.nonzero(taken != labels)[:, 0]
    if not len(wrong):
        return Markdown("The network makes no mistake on test.")
    worst = wrong[sure[wrong].argsort(descending=True)[:GRID]]
    names = run.test.classes
    said = [f"{names[labels[i]]}, taken for {names[taken[i]]}" for i in worst]
    plots.show(pictures.image_grid(run.test.read(worst), said), run.figure("mistakes"))
    return Markdown(f"The surest of {len(wrong):,} mistakes has probability {sure[worst[0]]:.2f}; "
                    f"the median mistake {sure[wrong].median():.2f}.")  # fmt: skip


def spaced(length: int, count: int) -> torch.Tensor:
    """Return at most `count` positions, evenly spaced in `length`."""
    return torch.arange(0, length, max(1, -(-length // count)))
