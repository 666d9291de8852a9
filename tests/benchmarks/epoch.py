"""An epoch of T1, training, judging on val and checkpoint, against Lightning's Trainer."""

import os
import tempfile
import warnings
from collections.abc import Callable

import loading
import prepared
import timing
import torch
from torch import nn

from cubslib import machine, models, sampling, scoring, training
from cubslib.augment import Augmentation
from cubslib.progress import Progress
from cubslib.state import begin, save


def ours(data, how) -> Callable[[], None]:
    """Return what trains one more epoch by our loop."""
    run = prepared.run(data, how)
    batches = sampling.shuffled
    steps = len(batches(data.targets, how.batch_size, 0, "classification", 0))
    state = begin(run, "classification", models.CustomCNN(len(data.classes)), steps)

    def one() -> None:
        with Progress(len(data), disable=True) as bar:
            row = training.train_epoch(state, nn.CrossEntropyLoss(), batches, bar)
        scores = scoring.accuracy(run.fabric, state.reported, data, how.test_size)
        state.history.append(row | {f"val_{key}": value for key, value in scores.items()})
        save(state)

    return one


def lightnings(lightning, data, how, workers: int) -> Callable[[], None]:
    """Return what trains one more epoch by Lightning's Trainer on ImageFolder."""

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = models.CustomCNN(len(data.classes))

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch, _):
            hits = (self.model(batch[0]).argmax(1) == batch[1]).float()
            self.log("val_top1", hits.mean(), batch_size=len(hits))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9, nesterov=True)

    warnings.filterwarnings("ignore")
    trainer = lightning.Trainer(
        max_epochs=0, accelerator="cpu", precision=machine.precision("cpu"), logger=False,
        default_root_dir=tempfile.mkdtemp(dir=prepared.scratch()), enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    model, augmentation = Classifier(), Augmentation(**how.augmentation)
    model.model.to(memory_format=torch.channels_last)
    train, val = (
        loading.loader(data.root, a, size, how.batch_size, workers)
        for a, size in ((augmentation, how.sizes[0][1]), (Augmentation(), how.test_size))
    )

    def one() -> None:
        trainer.fit_loop.max_epochs += 1
        trainer.fit(model, train, val)

    return one


def compare(data, told: str, size: int, quick: bool) -> dict:
    """Compare at `size` pixels a side; val is the training images again."""
    batch = 8 if quick else 256
    how = prepared.recipe(epochs=20, batch_size=batch, sizes=((0, size),))
    contenders = {"ours": ours(data, how)}
    lightning = prepared.peer("pytorch_lightning")
    if lightning:
        for workers in {0} if quick else {1, os.cpu_count()}:
            contenders[workers] = lightnings(lightning, data, how, workers)
    times = timing.seconds(contenders, 1 if quick else 5)
    row = {"data": told, "images": len(data), "px": size, "ours s": times["ours"]}
    if lightning:
        best = min(times.keys() - {"ours"}, key=times.get)
        row |= {"Lightning s": times[best], "its workers": best}
        row["Lightning / ours"] = times[best] / times["ours"]
    return row


def rows(quick: bool) -> list[dict]:
    """Return a row a size of the recipe's first and last epochs."""
    data, told = prepared.images("Tiny ImageNet", 16 if quick else 1_280, 64, quick)
    data.read([0])  # packed now
    first, *_, last = (size for _, size in prepared.recipe().sizes)
    return [compare(data, told, size, quick) for size in ((first,) if quick else (first, last))]
